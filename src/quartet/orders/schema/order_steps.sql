-- Lock order, everywhere: the order's row first, then inventory rows in SKU order. A transaction changes one order
-- only, except in expire_orders, which locks the SKUs of all its orders before it changes any.

-- The reason of the last status change; a claim (guests.sql) is not one.
CREATE OR REPLACE FUNCTION why_order_stands(p_order_id UUID) RETURNS TEXT STABLE LANGUAGE sql AS $$
    SELECT reason FROM order_history WHERE order_id = p_order_id AND from_status <> to_status ORDER BY id DESC LIMIT 1
$$;

-- Enforces the state machine on every writer; `only_after` is the reason that the previous step must have had.
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

-- Changes an order's status; p_captured: its money was captured. Returns the former status. Raises QT004 if the state
-- machine has no such transition, QT008 if there is no such order.
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

-- Changes stock and reservations by quantities of an order, in SKU order, in which they are locked; p_stock and
-- p_reserved are -1, 0 or 1 per piece. Emits an event only if the available quantity changes: selling what was reserved
-- does not change it.
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

-- The same for all items of an order. Planned once per connection, like tell_orders.
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

-- Emits an event per order; p_more: fields that only this topic has (docs/events.md). E-mails go to the order's user,
-- or to the guest's address. An erased user is null, so that a late refund does not put them back on the leaderboard.
-- Planned once per connection: by itself PostgreSQL plans every call anew, since a plan for one order seems cheaper
-- than a generic one, which assumes ten; and planning costs more than everything else here.
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

-- The payment is captured, or authorized (not p_captured): reserved stock becomes sold.
CREATE OR REPLACE FUNCTION confirm_order(
    p_order_id UUID, p_by TEXT DEFAULT 'system', p_reason TEXT DEFAULT NULL, p_captured BOOLEAN DEFAULT true
) RETURNS UUID LANGUAGE plpgsql AS $$
BEGIN
    PERFORM step_order(p_order_id, 'confirmed', p_by, p_reason, p_captured);
    PERFORM move_order_stock(p_order_id, -1, -1, 'sold', p_by);
    PERFORM tell_orders('order.confirmed', ARRAY[p_order_id]);
    RETURN p_order_id;
END $$;

-- The authorized payment has been captured.
CREATE OR REPLACE FUNCTION capture_order(p_order_id UUID) RETURNS void LANGUAGE sql AS $$
    UPDATE orders SET captured_cents = total_cents, updated_at = now() WHERE id = p_order_id;
    SELECT tell_orders('order.captured', ARRAY[p_order_id])
$$;

-- A payment came after the order had expired: reserves its stock again if there is enough for every item; returns
-- whether there was. Only expired orders are revived: one that somebody cancelled is no longer wanted.
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

-- Releases what was reserved. What was sold and not yet shipped goes back into stock, except pieces that a refund has
-- already restocked or written off.
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

-- Ships an order. Raises QT024 if its payment is not captured, QT028 if it is contested.
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

-- Cancels unpaid orders that have expired, oldest first; returns their ids. Concurrent sweeps share the work. It does
-- with one statement per table what cancel_order does for one order, so that ten thousand orders expiring in the same
-- second are cancelled within seconds. p_paying: includes orders with a payment in progress, except within 3 s of the
-- expiry if the provider is being called for the first time, since a buyer who pays in time must not be told that it
-- was too late.
-- Locks: the orders, then all their inventory rows in SKU order.
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
