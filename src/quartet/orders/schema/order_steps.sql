-- The order of locks, everywhere: the order's row first, then inventory rows in SKU order. One order a transaction,
-- but for expire_orders, which takes all its orders' SKUs before it touches any.

-- The reason of the last step that changed an order's status; a claim (guests.sql) does not.
CREATE OR REPLACE FUNCTION why_order_stands(p_order_id UUID) RETURNS TEXT STABLE LANGUAGE sql AS $$
    SELECT reason FROM order_history WHERE order_id = p_order_id AND from_status <> to_status ORDER BY id DESC LIMIT 1
$$;

-- Holds every writer to the state machine; `only_after` names the reason that the step before must have had.
CREATE OR REPLACE FUNCTION check_order_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM order_transitions WHERE from_status = OLD.status AND to_status = NEW.status AND (
            only_after IS NULL
            OR only_after = why_order_stands(OLD.id))
    ) THEN
        RAISE EXCEPTION 'an order that is % can not become %', OLD.status, NEW.status
            USING ERRCODE = 'QT004', DETAIL = json_build_object('from', OLD.status, 'to', NEW.status)::text;
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER orders_transition BEFORE UPDATE OF status ON orders
    FOR EACH ROW EXECUTE FUNCTION check_order_transition();

-- One step of one order, with which its money may have come (p_captured); answers the status it had. QT004 when the state
-- machine has no such step, QT008 when there is no such order.
CREATE OR REPLACE FUNCTION step_order(
    p_order_id UUID, p_to TEXT, p_by TEXT, p_reason TEXT, p_captured BOOLEAN DEFAULT false
) RETURNS TEXT LANGUAGE plpgsql AS $$
DECLARE
    v_from TEXT;
BEGIN
    SELECT status INTO v_from FROM orders WHERE id = p_order_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no order %', p_order_id USING ERRCODE = 'QT008';
    END IF;
    UPDATE orders
    SET status = p_to, updated_at = now(), expires_at = NULL,
        captured_cents = CASE WHEN p_captured THEN total_cents ELSE captured_cents END
    WHERE id = p_order_id;
    INSERT INTO order_history (order_id, from_status, to_status, by, reason)
    VALUES (p_order_id, v_from, p_to, p_by, p_reason);
    RETURN v_from;
END $$;

-- Moves pieces of an order, so many of each SKU, the SKUs in their order, in which they are locked: p_stock and p_reserved
-- are -1, 0 or 1 a piece. The worker is told of it unless as many can be bought as before: what was reserved and is
-- sold was gone already.
CREATE OR REPLACE FUNCTION move_pieces(
    p_order_id UUID, p_skus TEXT[], p_qtys INT[], p_stock INT, p_reserved INT, p_reason TEXT, p_by TEXT
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. coalesce(cardinality(p_skus), 0) LOOP
        UPDATE inventory
        SET stock = stock + p_stock * p_qtys[i], reserved = reserved + p_reserved * p_qtys[i],
            revision = revision + 1, updated_at = now()
        WHERE sku = p_skus[i];
    END LOOP;
    INSERT INTO inventory_movements (sku, stock_delta, reserved_delta, reason, order_id, actor)
    SELECT sku, p_stock * qty, p_reserved * qty, p_reason, p_order_id, p_by
    FROM unnest(p_skus, p_qtys) AS line(sku, qty);
    IF p_stock <> p_reserved THEN
        INSERT INTO outbox (topic, key, payload)
        SELECT 'stock.changed', sku, jsonb_build_object('sku', sku) FROM unnest(p_skus) AS sku;
    END IF;
END $$;

-- Moves every piece of an order. Its plan is made once, as tell_orders' is.
CREATE OR REPLACE FUNCTION move_order_stock(p_order_id UUID, p_stock INT, p_reserved INT, p_reason TEXT, p_by TEXT)
RETURNS void LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_skus TEXT[];
    v_qtys INT[];
BEGIN
    SELECT array_agg(sku ORDER BY sku), array_agg(qty ORDER BY sku) INTO v_skus, v_qtys
    FROM (SELECT sku, sum(quantity)::int AS qty FROM order_items WHERE order_id = p_order_id GROUP BY sku) AS lines;
    PERFORM move_pieces(p_order_id, v_skus, v_qtys, p_stock, p_reserved, p_reason, p_by);
END $$;

-- Tells the worker what became of orders; p_more is what belongs to this topic alone (docs/events.md). An order's mails go
-- to its user, else to the guest's own address; who was forgotten since is nobody, lest a late refund put them back on a
-- board. Planned once a connection: left to itself PostgreSQL plans anew at each call, since one order seems cheaper than
-- the ten that it takes an unknown array for, and planning costs more than all the rest.
CREATE OR REPLACE FUNCTION tell_orders(p_topic TEXT, p_order_ids UUID[], p_more JSONB DEFAULT '{}') RETURNS void
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    INSERT INTO outbox (topic, key, payload)
    SELECT p_topic, id::text, jsonb_build_object(
        'order_id', id, 'email', email,
        'user_id', (SELECT u.id FROM users u WHERE u.id = orders.user_id AND u.erased_at IS NULL),
        'guest_cart', guest_cart, 'currency', currency,
        'total_cents', total_cents, 'captured_cents', captured_cents, 'refunded_cents', refunded_cents,
        'confirmed_at', step.confirmed_at, 'claimed_at', step.claimed_at,
        'items', (SELECT jsonb_agg(jsonb_build_object('sku', sku, 'qty', quantity) ORDER BY sku, order_items.id)
                  FROM order_items WHERE order_id = orders.id)) || p_more
    FROM orders, LATERAL (
        SELECT min(at) FILTER (WHERE to_status = 'confirmed') AS confirmed_at,
               min(at) FILTER (WHERE from_status = to_status) AS claimed_at
        FROM order_history WHERE order_id = orders.id) AS step
    WHERE id = ANY (p_order_ids);
END $$;

-- The money is there, or held for us (not p_captured): what was reserved is sold.
CREATE OR REPLACE FUNCTION confirm_order(
    p_order_id UUID, p_by TEXT DEFAULT 'system', p_reason TEXT DEFAULT NULL, p_captured BOOLEAN DEFAULT true
) RETURNS UUID LANGUAGE plpgsql AS $$
BEGIN
    PERFORM step_order(p_order_id, 'confirmed', p_by, p_reason, p_captured);
    PERFORM move_order_stock(p_order_id, -1, -1, 'sold', p_by);
    PERFORM tell_orders('order.confirmed', ARRAY[p_order_id]);
    RETURN p_order_id;
END $$;

-- What was held is taken.
CREATE OR REPLACE FUNCTION capture_order(p_order_id UUID) RETURNS void LANGUAGE sql AS $$
    UPDATE orders SET captured_cents = total_cents, updated_at = now() WHERE id = p_order_id;
    SELECT tell_orders('order.captured', ARRAY[p_order_id])
$$;

-- An order that expired is paid after all: its stock is reserved again, where there is enough for every line; answers
-- whether there is. Whoever cancelled an order wants it no more, so that only expired ones come back.
CREATE OR REPLACE FUNCTION revive_order(p_order_id UUID, p_by TEXT DEFAULT 'system', p_reason TEXT DEFAULT NULL)
RETURNS BOOLEAN LANGUAGE plpgsql AS $$
BEGIN
    IF 'expired' IS DISTINCT FROM why_order_stands(p_order_id) THEN
        RETURN false;
    END IF;
    PERFORM FROM inventory WHERE sku IN (SELECT i.sku FROM order_items i WHERE i.order_id = p_order_id)
    ORDER BY sku FOR NO KEY UPDATE;
    IF EXISTS (
        SELECT FROM (SELECT sku, sum(quantity) AS qty FROM order_items WHERE order_id = p_order_id GROUP BY sku) AS line
        JOIN inventory USING (sku) WHERE stock - reserved < qty) THEN
        RETURN false;
    END IF;
    PERFORM step_order(p_order_id, 'pending', p_by, p_reason);
    PERFORM move_order_stock(p_order_id, 0, 1, 'reserved', p_by);
    RETURN true;
END $$;

-- What was reserved is free again; what was sold and not yet sent goes back on the shelf, but for pieces that a refund has
-- put there already, or has written off.
CREATE OR REPLACE FUNCTION cancel_order(p_order_id UUID, p_by TEXT DEFAULT 'system', p_reason TEXT DEFAULT NULL)
RETURNS UUID LANGUAGE plpgsql AS $$
BEGIN
    IF step_order(p_order_id, 'cancelled', p_by, p_reason) = 'pending' THEN
        PERFORM move_order_stock(p_order_id, 0, -1, 'released', p_by);
    ELSE
        PERFORM return_pieces(p_order_id, NULL, p_by);
    END IF;
    PERFORM tell_orders('order.cancelled', ARRAY[p_order_id]);
    RETURN p_order_id;
END $$;

-- Nothing is sent whose money is only held, or contested. Raises QT024, QT028.
CREATE OR REPLACE FUNCTION ship_order(p_order_id UUID, p_by TEXT DEFAULT 'system', p_reason TEXT DEFAULT NULL)
RETURNS UUID LANGUAGE plpgsql AS $$
BEGIN
    PERFORM step_order(p_order_id, 'shipped', p_by, p_reason);
    IF EXISTS (SELECT FROM orders WHERE id = p_order_id AND captured_cents < total_cents) THEN
        RAISE EXCEPTION 'the payment of this order has not been captured' USING ERRCODE = 'QT024';
    END IF;
    PERFORM refuse_contested(p_order_id);
    PERFORM tell_orders('order.shipped', ARRAY[p_order_id]);
    RETURN p_order_id;
END $$;

CREATE OR REPLACE FUNCTION deliver_order(p_order_id UUID, p_by TEXT DEFAULT 'system', p_reason TEXT DEFAULT NULL)
RETURNS UUID LANGUAGE plpgsql AS $$
BEGIN
    PERFORM step_order(p_order_id, 'delivered', p_by, p_reason);
    PERFORM tell_orders('order.delivered', ARRAY[p_order_id]);
    RETURN p_order_id;
END $$;

-- Cancels unpaid orders whose time is over, the oldest first; answers their ids. Two sweeps at once share the work. What
-- cancel_order does for one is done here for many with a statement each, so that ten thousand that expire in the same
-- second are gone within seconds. p_paying: also those for which a payment is under way, but not within 3 s where its
-- provider is being asked for the first time: who pays in time is not to be told that he came too late. Locks: the
-- orders, then all their inventory rows in SKU order.
CREATE OR REPLACE FUNCTION expire_orders(
    p_limit INT DEFAULT 100, p_now TIMESTAMPTZ DEFAULT now(), p_paying BOOLEAN DEFAULT true
) RETURNS SETOF UUID LANGUAGE plpgsql AS $$
DECLARE
    v_due UUID[];
BEGIN
    v_due := array(SELECT id FROM orders WHERE status = 'pending' AND expires_at <= p_now
                   AND NOT EXISTS (
                       SELECT FROM payments p WHERE p.order_id = orders.id AND p.status = 'pending'
                       AND (NOT p_paying
                            OR p.asked = 0 AND p.ask_at > p_now AND expires_at > p_now - interval '3 seconds'))
                   ORDER BY expires_at LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED);
    PERFORM FROM inventory
    WHERE sku IN (SELECT i.sku FROM order_items i WHERE i.order_id = ANY (v_due))
    ORDER BY sku FOR NO KEY UPDATE;

    UPDATE orders SET status = 'cancelled', updated_at = now(), expires_at = NULL WHERE id = ANY (v_due);
    INSERT INTO order_history (order_id, from_status, to_status, by, reason)
    SELECT id, 'pending', 'cancelled', 'system', 'expired' FROM unnest(v_due) AS id;
    WITH moved AS (
        INSERT INTO inventory_movements (sku, reserved_delta, reason, order_id, actor)
        SELECT sku, -sum(quantity), 'released', order_id, 'system' FROM order_items
        WHERE order_id = ANY (v_due) GROUP BY order_id, sku ORDER BY order_id, sku
        RETURNING sku, reserved_delta
    ), freed AS (
        UPDATE inventory i SET reserved = reserved + line.delta, revision = revision + 1, updated_at = now()
        FROM (SELECT sku, sum(reserved_delta) AS delta FROM moved GROUP BY sku) AS line WHERE line.sku = i.sku
        RETURNING i.sku
    )
    INSERT INTO outbox (topic, key, payload)
    SELECT 'stock.changed', sku, jsonb_build_object('sku', sku) FROM freed;
    PERFORM tell_orders('order.cancelled', v_due);
    RETURN QUERY SELECT unnest(v_due);
END $$;
