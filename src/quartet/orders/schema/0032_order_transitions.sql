-- migrate:up

-- The state machine, whole. A trigger holds every writer to it.
CREATE TABLE order_transitions (
    from_status TEXT NOT NULL,
    to_status   TEXT NOT NULL,
    PRIMARY KEY (from_status, to_status)
);
INSERT INTO order_transitions VALUES
    ('pending', 'confirmed'), ('confirmed', 'shipped'), ('shipped', 'delivered'),
    ('pending', 'cancelled'), ('confirmed', 'cancelled'),
    ('confirmed', 'refunded'), ('shipped', 'refunded'), ('delivered', 'refunded');

CREATE FUNCTION check_order_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM order_transitions WHERE from_status = OLD.status AND to_status = NEW.status) THEN
        RAISE EXCEPTION 'an order that is % can not become %', OLD.status, NEW.status
            USING ERRCODE = 'QT004', DETAIL = json_build_object('from', OLD.status, 'to', NEW.status)::text;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER orders_transition BEFORE UPDATE OF status ON orders
    FOR EACH ROW EXECUTE FUNCTION check_order_transition();
