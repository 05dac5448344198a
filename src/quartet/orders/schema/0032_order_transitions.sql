-- migrate:up

-- All transitions of the state machine, enforced by a trigger (order_steps.sql).
CREATE TABLE order_transitions (
    from_status TEXT NOT NULL,
    to_status   TEXT NOT NULL,
    only_after  TEXT,  -- the required reason of the transition before
    PRIMARY KEY (from_status, to_status)
);
INSERT INTO order_transitions (from_status, to_status) VALUES
    ('pending', 'confirmed'), ('confirmed', 'shipped'), ('shipped', 'delivered'),
    ('pending', 'cancelled'), ('confirmed', 'cancelled'),
    ('confirmed', 'refunded'), ('shipped', 'refunded'), ('delivered', 'refunded');
-- An order paid just after its reservation expired may still be sold: the only way back, and only after expiry.
INSERT INTO order_transitions VALUES ('cancelled', 'pending', 'expired');
