-- migrate:up

-- An order belongs to a user, or to a guest by the address that the guest gave, or to nobody any more because the guest
-- was forgotten: always exactly one of the three. A user who was forgotten keeps the row of `users`, and so the orders.
ALTER TABLE orders
    ALTER COLUMN user_id DROP NOT NULL,
    ADD COLUMN email TEXT,
    ADD COLUMN erased_at TIMESTAMPTZ,
    ADD COLUMN guest_cart TEXT,  -- the name of the guest's cart, a digest of its token: what was bought leaves it
    ADD CONSTRAINT orders_belong CHECK (num_nonnulls(user_id, email, erased_at) = 1);
-- For whoever proves an address, and for staff who look for one.
CREATE INDEX orders_email ON orders(email, created_at DESC) WHERE email IS NOT NULL;
