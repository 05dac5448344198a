-- migrate:up

-- Gives money of a captured order back; answers the refund's id. p_amount null: all that is left. The whole amount back
-- makes the order 'refunded' (a cancelled one stays cancelled). p_restock puts the order's pieces back on the shelf,
-- once. A p_source_ref seen before answers that refund's id again. Raises QT004 when nothing was captured, QT005 when
-- more is asked than is left, QT008 when there is no such order.
CREATE FUNCTION refund_order(
    p_order_id   UUID,
    p_amount     BIGINT DEFAULT NULL,
    p_restock    BOOLEAN DEFAULT false,
    p_by         TEXT DEFAULT 'system',
    p_reason     TEXT DEFAULT NULL,
    p_source_ref TEXT DEFAULT NULL
) RETURNS UUID LANGUAGE plpgsql AS $$
DECLARE
    v_order  orders;
    v_left   BIGINT;
    v_amount BIGINT;
    v_refund UUID;
BEGIN
    SELECT * INTO v_order FROM orders WHERE id = p_order_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no order %', p_order_id USING ERRCODE = 'QT008';
    ELSIF v_order.captured_cents = 0 THEN
        RAISE EXCEPTION 'nothing was paid for this order, so there is nothing to give back'
            USING ERRCODE = 'QT004', DETAIL = json_build_object('from', v_order.status, 'to', 'refunded')::text;
    END IF;
    SELECT id INTO v_refund FROM refunds WHERE source_ref = p_source_ref AND order_id = p_order_id;
    IF FOUND THEN
        RETURN v_refund;
    END IF;
    v_left := v_order.captured_cents - v_order.refunded_cents;
    v_amount := coalesce(p_amount, v_left);
    IF v_amount NOT BETWEEN 1 AND v_left THEN
        RAISE EXCEPTION '% of this order can be given back, not %', v_left, v_amount
            USING ERRCODE = 'QT005',
                  DETAIL = json_build_object('refundable_cents', v_left, 'requested_cents', v_amount)::text;
    END IF;

    -- Cancelling has put the pieces back already, and so may an earlier refund.
    p_restock := p_restock AND v_order.status <> 'cancelled'
        AND NOT EXISTS (SELECT FROM refunds WHERE order_id = p_order_id AND restocked);
    INSERT INTO refunds (order_id, amount_cents, currency, restocked, reason, by, source_ref)
    VALUES (p_order_id, v_amount, v_order.currency, p_restock, p_reason, p_by, p_source_ref)
    RETURNING id INTO v_refund;

    -- The amount falls on the SKUs in proportion to what of each is not yet refunded, to the cent: the cents that
    -- rounding down leaves go to the largest remainders (Hamilton's method).
    INSERT INTO refund_items (refund_id, sku, amount_cents)
    WITH unrefunded AS (
        SELECT i.sku, sum(i.unit_price_cents * i.quantity) - coalesce((
                   SELECT sum(part.amount_cents) FROM refund_items part JOIN refunds r ON r.id = part.refund_id
                   WHERE r.order_id = p_order_id AND part.sku = i.sku), 0) AS cents
        FROM order_items i WHERE i.order_id = p_order_id GROUP BY i.sku
    ), shares AS (
        SELECT sku, div(v_amount * cents, v_left) AS whole, (v_amount * cents) % v_left AS rest FROM unrefunded
    ), ranked AS (
        SELECT *, row_number() OVER (ORDER BY rest DESC, sku) AS place, v_amount - sum(whole) OVER () AS spare
        FROM shares
    )
    SELECT v_refund, sku, whole + (place <= spare)::int FROM ranked WHERE whole + (place <= spare)::int > 0;

    UPDATE orders SET refunded_cents = refunded_cents + v_amount, updated_at = now() WHERE id = p_order_id;
    IF v_amount = v_left AND v_order.status <> 'cancelled' THEN
        PERFORM step_order(p_order_id, 'refunded', p_by, p_reason);
    END IF;
    IF p_restock THEN
        PERFORM move_order_stock(p_order_id, 1, 0, 'returned', p_by);
    END IF;
    PERFORM tell_order('order.refunded', p_order_id);
    RETURN v_refund;
END $$;

-- migrate:down
DROP FUNCTION refund_order;
