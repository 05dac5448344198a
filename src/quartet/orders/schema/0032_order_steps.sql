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

-- The order of locks, everywhere: the order's row first, then inventory rows in SKU order. One order a transaction,
-- but for expire_orders, which takes all its orders' SKUs before it touches any.

-- One step of one order; answers the status it had. QT004 when the state machine has no such step, QT008 when there is
-- no such order.
CREATE FUNCTION step_order(p_order_id UUID, p_to TEXT, p_by TEXT, p_reason TEXT) RETURNS TEXT LANGUAGE plpgsql AS $$
DECLARE
    v_from TEXT;
BEGIN
    SELECT status INTO v_from FROM orders WHERE id = p_order_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no order %', p_order_id USING ERRCODE = 'QT008';
    END IF;
    UPDATE orders SET status = p_to, updated_at = now(), expires_at = NULL WHERE id = p_order_id;
    INSERT INTO order_history (order_id, from_status, to_status, by, reason)
    VALUES (p_order_id, v_from, p_to, p_by, p_reason);
    RETURN v_from;
END $$;

-- Moves every piece of an order: p_stock and p_reserved are -1, 0 or 1 a piece. Locks in SKU order.
CREATE FUNCTION move_order_stock(p_order_id UUID, p_stock INT, p_reserved INT, p_reason TEXT, p_by TEXT)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_skus TEXT[];
    v_qtys INT[];
BEGIN
    SELECT array_agg(sku ORDER BY sku), array_agg(qty ORDER BY sku) INTO v_skus, v_qtys
    FROM (SELECT sku, sum(quantity)::int AS qty FROM order_items WHERE order_id = p_order_id GROUP BY sku) AS lines;
    FOR i IN 1 .. coalesce(cardinality(v_skus), 0) LOOP
        UPDATE inventory
        SET stock = stock + p_stock * v_qtys[i], reserved = reserved + p_reserved * v_qtys[i],
            revision = revision + 1, updated_at = now()
        WHERE sku = v_skus[i];
    END LOOP;
    INSERT INTO inventory_movements (sku, stock_delta, reserved_delta, reason, order_id, actor)
    SELECT sku, p_stock * qty, p_reserved * qty, p_reason, p_order_id, p_by
    FROM unnest(v_skus, v_qtys) AS line(sku, qty);
    INSERT INTO outbox (topic, key, payload)
    SELECT 'stock.changed', sku, jsonb_build_object('sku', sku) FROM unnest(v_skus) AS sku;
END $$;

-- Tells the worker; p_topic is order.confirmed, order.cancelled or order.refunded.
CREATE FUNCTION tell_order(p_topic TEXT, p_order_id UUID) RETURNS void LANGUAGE sql AS $$
    INSERT INTO outbox (topic, key, payload)
    SELECT p_topic, id::text, jsonb_build_object(
        'order_id', id, 'user_id', user_id, 'currency', currency, 'total_cents', total_cents,
        'items', (SELECT jsonb_agg(jsonb_build_object('sku', sku, 'qty', quantity) ORDER BY sku, order_items.id)
                  FROM order_items WHERE order_id = orders.id))
    FROM orders WHERE id = p_order_id
$$;

-- The money is there: what was reserved is sold.
CREATE FUNCTION confirm_order(p_order_id UUID, p_by TEXT DEFAULT 'system', p_reason TEXT DEFAULT NULL)
RETURNS UUID LANGUAGE plpgsql AS $$
BEGIN
    PERFORM step_order(p_order_id, 'confirmed', p_by, p_reason);
    UPDATE orders SET captured_cents = total_cents WHERE id = p_order_id;
    PERFORM move_order_stock(p_order_id, -1, -1, 'sold', p_by);
    PERFORM tell_order('order.confirmed', p_order_id);
    RETURN p_order_id;
END $$;

-- What was reserved is free again; what was sold and not yet sent goes back on the shelf, unless a refund in part has
-- put it there already.
CREATE FUNCTION cancel_order(p_order_id UUID, p_by TEXT DEFAULT 'system', p_reason TEXT DEFAULT NULL)
RETURNS UUID LANGUAGE plpgsql AS $$
BEGIN
    IF step_order(p_order_id, 'cancelled', p_by, p_reason) = 'pending' THEN
        PERFORM move_order_stock(p_order_id, 0, -1, 'released', p_by);
    ELSIF NOT EXISTS (SELECT FROM refunds WHERE order_id = p_order_id AND restocked) THEN
        PERFORM move_order_stock(p_order_id, 1, 0, 'returned', p_by);
    END IF;
    PERFORM tell_order('order.cancelled', p_order_id);
    RETURN p_order_id;
END $$;

CREATE FUNCTION ship_order(p_order_id UUID, p_by TEXT DEFAULT 'system', p_reason TEXT DEFAULT NULL)
RETURNS UUID LANGUAGE plpgsql AS $$
BEGIN
    PERFORM step_order(p_order_id, 'shipped', p_by, p_reason);
    RETURN p_order_id;
END $$;

CREATE FUNCTION deliver_order(p_order_id UUID, p_by TEXT DEFAULT 'system', p_reason TEXT DEFAULT NULL)
RETURNS UUID LANGUAGE plpgsql AS $$
BEGIN
    PERFORM step_order(p_order_id, 'delivered', p_by, p_reason);
    RETURN p_order_id;
END $$;

-- Cancels unpaid orders whose time is over, the oldest first; answers their ids. Two sweeps at once share the work.
CREATE FUNCTION expire_orders(p_limit INT DEFAULT 100, p_now TIMESTAMPTZ DEFAULT now())
RETURNS SETOF UUID LANGUAGE plpgsql AS $$
DECLARE
    v_due   UUID[];
    v_order UUID;
BEGIN
    v_due := array(SELECT id FROM orders WHERE status = 'pending' AND expires_at <= p_now
                   ORDER BY expires_at LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED);
    PERFORM FROM inventory
    WHERE sku IN (SELECT i.sku FROM order_items i WHERE i.order_id = ANY (v_due))
    ORDER BY sku FOR NO KEY UPDATE;
    FOREACH v_order IN ARRAY v_due LOOP
        RETURN NEXT cancel_order(v_order, 'system', 'expired');
    END LOOP;
END $$;

-- migrate:down
DROP FUNCTION expire_orders, deliver_order, ship_order, cancel_order, confirm_order, tell_order, move_order_stock,
    step_order;
DROP TRIGGER orders_transition ON orders;
DROP FUNCTION check_order_transition;
DROP TABLE order_transitions;
