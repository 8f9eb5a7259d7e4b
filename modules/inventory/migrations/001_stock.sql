-- Every piece is in one of the three columns; only a count of the shelves changes their sum.
CREATE TABLE stock (
  sku TEXT PRIMARY KEY NOT NULL,
  available BIGINT NOT NULL CHECK (available >= 0),
  reserved BIGINT NOT NULL CHECK (reserved >= 0),
  sold BIGINT NOT NULL CHECK (sold >= 0)
);

CREATE TABLE reservations (
  order_id TEXT PRIMARY KEY NOT NULL,
  -- reserved, sold or released; a released one has lines only if it was reserved before.
  state TEXT NOT NULL
);

CREATE TABLE reservation_lines (
  order_id TEXT NOT NULL REFERENCES reservations (order_id),
  sku TEXT NOT NULL REFERENCES stock (sku),
  quantity BIGINT NOT NULL CHECK (quantity > 0),
  PRIMARY KEY (order_id, sku)
);
