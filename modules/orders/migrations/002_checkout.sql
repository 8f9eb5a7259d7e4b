ALTER TABLE orders ADD COLUMN payment_token TEXT NOT NULL DEFAULT '';
-- What is to be done next while the order is pending: reserve, charge, void or release.
ALTER TABLE orders ADD COLUMN step TEXT NOT NULL DEFAULT 'reserve';
-- Why the order is refused, if it is: the case of the error, and after a space what it holds.
ALTER TABLE orders ADD COLUMN refusal TEXT;
-- The number of the last one who went on with the order, and until when nobody else may, in milliseconds since 1970.
ALTER TABLE orders ADD COLUMN lease BIGINT NOT NULL DEFAULT 0;
ALTER TABLE orders ADD COLUMN lease_until BIGINT NOT NULL DEFAULT 0;
-- How often what is to be done next was put off.
ALTER TABLE orders ADD COLUMN tries BIGINT NOT NULL DEFAULT 0;

-- These were placed without anything to pay with.
UPDATE orders SET status = 'rejected', refusal = 'invalid the order has no payment-token';

CREATE INDEX orders_due ON orders (lease_until, id) WHERE status = 'pending';
