-- migrate:up

-- What was paid just after its reservation expired may still be sold: that one way back, and only after that reason.
ALTER TABLE order_transitions ADD COLUMN only_after TEXT;
INSERT INTO order_transitions VALUES ('cancelled', 'pending', 'expired');
