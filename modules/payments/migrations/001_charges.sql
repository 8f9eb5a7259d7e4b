CREATE TABLE charges (
  -- The key is what makes a second charge for an order impossible.
  order_id TEXT PRIMARY KEY NOT NULL,
  amount_cents BIGINT NOT NULL CHECK (amount_cents > 0),
  -- charged or declined
  status TEXT NOT NULL,
  -- Why it was declined, else empty.
  reason TEXT NOT NULL,
  -- Milliseconds since 1970.
  answered_at BIGINT NOT NULL
);
