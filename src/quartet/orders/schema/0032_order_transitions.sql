-- migrate:up

-- The state machine, whole. A trigger holds every writer to it (order_steps.sql).
CREATE TABLE order_transitions (
    from_status TEXT NOT NULL,
    to_status   TEXT NOT NULL,
    only_after  TEXT,  -- the reason that the step before must have had
    PRIMARY KEY (from_status, to_status)
);
INSERT INTO order_transitions (from_status, to_status) VALUES
    ('pending', 'confirmed'), ('confirmed', 'shipped'), ('shipped', 'delivered'),
    ('pending', 'cancelled'), ('confirmed', 'cancelled'),
    ('confirmed', 'refunded'), ('shipped', 'refunded'), ('delivered', 'refunded');
-- What was paid just after its reservation expired may still be sold: that one way back, and only after that reason.
INSERT INTO order_transitions VALUES ('cancelled', 'pending', 'expired');
