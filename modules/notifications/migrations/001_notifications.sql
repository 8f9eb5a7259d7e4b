CREATE TABLE notifications (
  order_id TEXT NOT NULL,
  -- order-placed or shipment-created
  kind TEXT NOT NULL,
  id TEXT NOT NULL UNIQUE,
  user_id TEXT NOT NULL,
  text TEXT NOT NULL,
  -- Milliseconds since 1970.
  created_at BIGINT NOT NULL,
  -- The key is what makes an event that is handled again the same notification.
  PRIMARY KEY (order_id, kind)
);

CREATE INDEX notifications_of_user ON notifications (user_id, created_at, id);
