CREATE TABLE shipments (
  -- The key is what would show an order that is shipped twice.
  order_id TEXT PRIMARY KEY NOT NULL,
  id TEXT NOT NULL UNIQUE,
  user_id TEXT NOT NULL,
  status TEXT NOT NULL,
  -- Milliseconds since 1970.
  created_at BIGINT NOT NULL
);

CREATE TABLE shipment_lines (
  order_id TEXT NOT NULL REFERENCES shipments (order_id),
  -- The place in the order, from 0.
  number BIGINT NOT NULL,
  sku TEXT NOT NULL,
  quantity BIGINT NOT NULL CHECK (quantity > 0),
  PRIMARY KEY (order_id, number)
);
