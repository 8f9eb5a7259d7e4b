CREATE TABLE charges (
  -- The key is what makes a second charge for an order impossible, and one after a void.
  order_id TEXT PRIMARY KEY NOT NULL,
  amount_cents BIGINT NOT NULL CHECK (amount_cents > 0),
  -- charged, declined or voided
  status TEXT NOT NULL,
  -- Why nothing was charged, else empty.
  reason TEXT NOT NULL,
  -- Milliseconds since 1970.
  answered_at BIGINT NOT NULL
);
