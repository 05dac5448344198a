-- migrate:up

-- Every step of a payment is one call. The order's row is locked first, then the payment's, then inventory (by
-- confirm_order), so that paying, cancelling, expiring and refunding one order take turns and never die of each other.

-- A pending payment of the whole order, before the provider is asked. p_ask: when somebody else may ask how it stands.
-- Raises QT008 no such order of this user, QT020 it can't be paid (DETAIL its status), QT021 another payment of it is
-- open (DETAIL that payment's id).
CREATE FUNCTION start_payment(
    p_id UUID, p_order_id UUID, p_user_id UUID, p_provider TEXT, p_owner TEXT, p_key TEXT,
    p_now TIMESTAMPTZ, p_ask TIMESTAMPTZ
) RETURNS payments LANGUAGE plpgsql AS $$
DECLARE
    v_order   orders;
    v_payment payments;
BEGIN
    SELECT * INTO v_order FROM orders WHERE id = p_order_id AND user_id = p_user_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no order %', p_order_id USING ERRCODE = 'QT008';
    ELSIF v_order.status <> 'pending' OR v_order.expires_at <= p_now THEN
        RAISE EXCEPTION 'this order can not be paid' USING ERRCODE = 'QT020',
            DETAIL = CASE v_order.status WHEN 'pending' THEN 'expired' ELSE v_order.status END;
    END IF;
    INSERT INTO payments (id, order_id, provider, provider_ref, amount_cents, currency, request_owner, request_key,
                          ask_at, created_at, updated_at)
    VALUES (p_id, p_order_id, p_provider, p_id::text, v_order.total_cents, v_order.currency, p_owner, p_key,
            p_ask, p_now, p_now)
    ON CONFLICT (order_id) WHERE status IN ('pending', 'succeeded') DO NOTHING
    RETURNING * INTO v_payment;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'another payment of this order is open' USING ERRCODE = 'QT021',
            DETAIL = (SELECT id FROM payments WHERE order_id = p_order_id AND status IN ('pending', 'succeeded'));
    END IF;
    RETURN v_payment;
END $$;

-- What the provider says becomes true: the redirect, the webhook and the recovery sweep all end here, once or many times
-- the same. A captured payment stays captured; a failed one may still turn out to have been charged. Money for an order
-- that can't take it any more (cancelled, expired, paid by another card) is put on its way back.
CREATE FUNCTION complete_payment(
    p_id UUID, p_status TEXT, p_ref TEXT, p_decline TEXT, p_now TIMESTAMPTZ, p_ask TIMESTAMPTZ
) RETURNS payments LANGUAGE plpgsql AS $$
DECLARE
    v_payment payments;
    v_order   orders;
    v_status  TEXT := p_status;
BEGIN
    SELECT o.* INTO v_order FROM orders o
    WHERE o.id = (SELECT order_id FROM payments WHERE id = p_id) FOR NO KEY UPDATE;
    SELECT * INTO v_payment FROM payments WHERE id = p_id;
    IF v_payment.status IN ('succeeded', 'refunded') OR (v_payment.status = 'failed' AND p_status <> 'succeeded') THEN
        RETURN v_payment;
    ELSIF p_status = 'pending' THEN
        UPDATE payments SET provider_ref = coalesce(p_ref, provider_ref), ask_at = p_ask, updated_at = p_now
        WHERE id = p_id RETURNING * INTO v_payment;
        RETURN v_payment;
    ELSIF p_status = 'succeeded' AND (
        v_order.status <> 'pending'
        OR EXISTS (SELECT FROM payments p WHERE p.order_id = v_order.id AND p.id <> p_id AND p.status = 'pending')
    ) THEN
        v_status := 'refunded';
    END IF;

    UPDATE payments
    SET status = v_status, provider_ref = coalesce(p_ref, provider_ref), decline_code = p_decline,
        processed_at = p_now, updated_at = p_now
    WHERE id = p_id RETURNING * INTO v_payment;
    IF v_status = 'succeeded' THEN
        PERFORM confirm_order(v_order.id, 'payments', 'paid');
    ELSIF v_status = 'refunded' AND v_payment.amount_cents > 0 THEN
        INSERT INTO payment_refunds (payment_id, amount_cents, reason, ask_at, created_at, updated_at)
        VALUES (p_id, v_payment.amount_cents, 'late', p_now, p_now, p_now);
    END IF;
    RETURN v_payment;
END $$;

-- Promises money back, before the provider is asked; p_cents null: all that is left, and no row when nothing is.
-- Raises QT005 when more is asked than is left (DETAIL {"refundable_cents"}).
CREATE FUNCTION start_refund(
    p_order_id UUID, p_cents BIGINT, p_reason TEXT, p_restock BOOLEAN, p_by UUID, p_owner TEXT, p_key TEXT,
    p_now TIMESTAMPTZ, p_ask TIMESTAMPTZ
) RETURNS SETOF payment_refunds LANGUAGE plpgsql AS $$
DECLARE
    v_payment payments;
    v_left    BIGINT;
BEGIN
    PERFORM FROM orders WHERE id = p_order_id FOR NO KEY UPDATE;
    SELECT * INTO v_payment FROM payments WHERE order_id = p_order_id AND status = 'succeeded';
    v_left := coalesce(v_payment.amount_cents - v_payment.refunded_cents - (
        SELECT coalesce(sum(amount_cents), 0) FROM payment_refunds
        WHERE payment_id = v_payment.id AND status = 'pending'), 0);
    IF p_cents > v_left THEN
        RAISE EXCEPTION '% of this order can be given back, not %', v_left, p_cents
            USING ERRCODE = 'QT005', DETAIL = json_build_object('refundable_cents', v_left)::text;
    ELSIF v_left > 0 THEN
        RETURN QUERY INSERT INTO payment_refunds (payment_id, amount_cents, reason, restock, by_user, request_owner,
                                                  request_key, ask_at, created_at, updated_at)
        VALUES (v_payment.id, coalesce(p_cents, v_left), p_reason, p_restock, p_by, p_owner, p_key, p_ask, p_now, p_now)
        RETURNING *;
    END IF;
END $$;

-- The provider has given the money back, or will not. What came too late never was the order's, so the order's own
-- books don't change then.
CREATE FUNCTION complete_refund(p_id UUID, p_status TEXT, p_ref TEXT, p_now TIMESTAMPTZ)
RETURNS payment_refunds LANGUAGE plpgsql AS $$
DECLARE
    v_refund   payment_refunds;
    v_order_id UUID;
BEGIN
    SELECT p.order_id INTO v_order_id FROM payments p JOIN payment_refunds r ON r.payment_id = p.id WHERE r.id = p_id;
    PERFORM FROM orders WHERE id = v_order_id FOR NO KEY UPDATE;
    UPDATE payment_refunds
    SET status = p_status, provider_ref = p_ref, processed_at = p_now, updated_at = p_now
    WHERE id = p_id AND status = 'pending' RETURNING * INTO v_refund;
    IF NOT FOUND THEN
        SELECT * INTO v_refund FROM payment_refunds WHERE id = p_id;
    ELSIF p_status = 'succeeded' THEN
        UPDATE payments
        SET refunded_cents = refunded_cents + v_refund.amount_cents, updated_at = p_now,
            status = CASE WHEN refunded_cents + v_refund.amount_cents = amount_cents THEN 'refunded' ELSE status END
        WHERE id = v_refund.payment_id;
        IF v_refund.reason <> 'late' THEN
            PERFORM refund_order(v_order_id, v_refund.amount_cents, v_refund.restock,
                                 coalesce(v_refund.by_user::text, 'payments'), v_refund.reason, p_ref);
        END IF;
    END IF;
    RETURN v_refund;
END $$;

-- migrate:down
DROP FUNCTION complete_refund, start_refund, complete_payment, start_payment;
