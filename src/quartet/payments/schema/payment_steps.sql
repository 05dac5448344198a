-- Each step of a payment is one call. Lock order: the order's row, then the payment's, then inventory (in
-- confirm_order). So paying, cancelling, expiring and refunding an order take turns and never deadlock.

-- Creates a pending payment of the whole order, before the provider is called. p_ask: from when recovery may ask the
-- provider for its status. p_guest: the caller holds the order's token, which is valid as long as the order is a
-- guest's.
-- Raises QT008 if this buyer has no such order, QT030 if the buyer was erased, QT020 if the order can't be paid (DETAIL
-- its status), QT021 if another payment of it is open (DETAIL that payment's id; CONSTRAINT 'waits for its buyer' if it
-- waits for the buyer at the provider's page).
CREATE OR REPLACE FUNCTION start_payment(
    p_id UUID, p_order_id UUID, p_user_id UUID, p_guest BOOLEAN, p_provider TEXT, p_owner TEXT, p_key TEXT,
    p_now TIMESTAMPTZ, p_ask TIMESTAMPTZ
) RETURNS payments LANGUAGE plpgsql AS $$
DECLARE
    v_order   orders;
    v_payment payments;
BEGIN
    SELECT * INTO v_order FROM orders
    WHERE id = p_order_id AND (user_id = p_user_id OR p_guest AND email IS NOT NULL) FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no order %', p_order_id USING ERRCODE = 'QT008';
    -- An erasure holds the order's lock until it commits: either it finds this payment, or is seen here.
    ELSIF EXISTS (SELECT FROM users WHERE id = v_order.user_id AND erased_at IS NOT NULL) THEN
        RAISE EXCEPTION 'this account is gone' USING ERRCODE = 'QT030';
    ELSIF v_order.status <> 'pending' OR v_order.expires_at <= p_now THEN
        RAISE EXCEPTION 'this order can not be paid' USING ERRCODE = 'QT020',
            DETAIL = CASE v_order.status WHEN 'pending' THEN 'expired' ELSE v_order.status END;
    END IF;
    INSERT INTO payments (id, order_id, provider, provider_ref, amount_cents, currency, request_owner, request_key,
                          ask_at, created_at, updated_at)
    VALUES (p_id, p_order_id, p_provider, p_id::text, v_order.total_cents, v_order.currency, p_owner, p_key,
            p_ask, p_now, p_now)
    ON CONFLICT (order_id) WHERE status IN ('pending', 'authorized', 'succeeded') DO NOTHING
    RETURNING * INTO v_payment;
    IF NOT FOUND THEN
        SELECT * INTO v_payment FROM payments
        WHERE order_id = p_order_id AND status IN ('pending', 'authorized', 'succeeded');
        RAISE EXCEPTION 'another payment of this order is open' USING ERRCODE = 'QT021', DETAIL = v_payment.id,
            CONSTRAINT = CASE WHEN v_payment.redirect_url IS NULL THEN '' ELSE 'waits for its buyer' END;
    END IF;
    RETURN v_payment;
END $$;

-- The same under an Idempotency-Key, in one statement: claims the key, creates the payment, and marks the key as in
-- progress. `request` is claim_request's result; only if it is null, there is a payment. Raises QT026 if another
-- request has taken the key in the meantime.
CREATE OR REPLACE FUNCTION start_payment_under_key(
    p_id UUID, p_order_id UUID, p_user_id UUID, p_guest BOOLEAN, p_provider TEXT, p_owner TEXT, p_key TEXT,
    p_now TIMESTAMPTZ, p_ask TIMESTAMPTZ, p_fingerprint BYTEA, OUT request idempotency_keys, OUT payment payments
) LANGUAGE plpgsql AS $$
BEGIN
    request := claim_request(p_owner, p_key);
    IF request.owner IS NULL THEN
        payment := start_payment(p_id, p_order_id, p_user_id, p_guest, p_provider, p_owner, p_key, p_now, p_ask);
        IF NOT take_request(p_owner, p_key, p_fingerprint, NULL, NULL, NULL) THEN
            RAISE EXCEPTION 'another request has this key' USING ERRCODE = 'QT026';
        END IF;
    END IF;
END $$;

-- Applies the provider's result. Redirect, webhook and recovery all end here; repeated or in any order, the outcome is
-- the same.
-- A status never goes backwards: a captured payment stays captured, but a failed one may still turn out to have been
-- charged. An order that has expired is revived if there is stock. If the order can't use the money (cancelled,
-- expired, paid by another payment), a capture is refunded and an authorization voided. So is an authorization that
-- arrives while the buyer is having the payment voided, or just after, since they may have paid in another way already.
-- An authorization that lapses cancels its order.
CREATE OR REPLACE FUNCTION complete_payment(
    p_id UUID, p_status TEXT, p_ref TEXT, p_decline TEXT, p_now TIMESTAMPTZ, p_ask TIMESTAMPTZ, p_redirect TEXT
) RETURNS payments LANGUAGE plpgsql AS $$
DECLARE
    v_payment payments;
    v_before  TEXT;
    v_order   orders;
    v_taken   BOOLEAN := false;
    v_status  TEXT := p_status;
    v_left    BOOLEAN;
BEGIN
    SELECT o.* INTO v_order FROM orders o
    WHERE o.id = (SELECT order_id FROM payments WHERE id = p_id) FOR NO KEY UPDATE;
    SELECT * INTO v_payment FROM payments WHERE id = p_id;
    v_before := v_payment.status;
    v_left := v_before = 'pending' AND v_payment.due IS NOT NULL AND p_status = 'authorized';
    IF v_before = 'voided' AND v_payment.due IS NOT NULL AND p_status IN ('voided', 'failed') THEN
        UPDATE payments SET due = NULL, updated_at = p_now WHERE id = p_id RETURNING * INTO v_payment;
        RETURN v_payment;
    ELSIF v_before = 'voided' AND v_payment.due IS NULL AND p_status = 'authorized' THEN
        UPDATE payments SET due = 'void', asked = 0, ask_at = p_ask, updated_at = p_now
        WHERE id = p_id RETURNING * INTO v_payment;
        RETURN v_payment;
    ELSIF NOT (CASE v_before
        WHEN 'pending' THEN true
        WHEN 'failed' THEN p_status IN ('authorized', 'succeeded', 'voided')
        WHEN 'authorized' THEN p_status IN ('succeeded', 'voided')
        WHEN 'voided' THEN p_status = 'succeeded'
        ELSE false END)
    THEN
        RETURN v_payment;
    ELSIF p_status = 'pending' THEN
        -- A payment is only voided while it waits for its buyer: the void may have been requested before the buyer was
        -- sent to the provider's page.
        UPDATE payments
        SET provider_ref = coalesce(p_ref, provider_ref), redirect_url = coalesce(p_redirect, redirect_url),
            due = CASE WHEN p_redirect IS NOT NULL THEN due END, updated_at = p_now,
            ask_at = CASE asked WHEN 0 THEN p_ask ELSE ask_at END  -- else recovery has just set it
        WHERE id = p_id RETURNING * INTO v_payment;
        RETURN v_payment;
    ELSIF p_status IN ('authorized', 'succeeded') AND v_before <> 'authorized' THEN
        IF NOT v_left AND NOT EXISTS (
            SELECT FROM payments p
            WHERE p.order_id = v_order.id AND p.id <> p_id AND p.status IN ('pending', 'authorized', 'succeeded')
        ) THEN
            v_taken := v_order.status = 'pending'
                OR (v_order.status = 'cancelled' AND revive_order(v_order.id, 'payments', 'paid after it expired'));
        END IF;
        IF NOT v_taken THEN
            v_status := CASE p_status WHEN 'succeeded' THEN 'refunded' ELSE 'voided' END;
        END IF;
    END IF;

    -- An authorization is not urgent: the provider is asked for its status after an hour, and then hourly; what has to
    -- be sent to the provider is sent at once. A decline code is kept if the provider voids the payment afterwards.
    UPDATE payments
    SET status = v_status, provider_ref = coalesce(p_ref, provider_ref),
        decline_code = CASE p_status WHEN 'voided' THEN decline_code ELSE p_decline END, redirect_url = NULL,
        due = CASE WHEN v_status = 'voided' AND p_status = 'authorized' THEN 'void' END,
        asked = CASE v_status WHEN 'authorized' THEN 12 ELSE asked END,
        ask_at = CASE v_status WHEN 'authorized' THEN p_now + interval '1 hour' ELSE p_now END,
        processed_at = p_now, updated_at = p_now
    WHERE id = p_id RETURNING * INTO v_payment;
    IF v_taken THEN
        PERFORM confirm_order(v_order.id, 'payments', CASE v_status WHEN 'succeeded' THEN 'paid' ELSE v_status END,
                              v_status = 'succeeded');
    ELSIF v_status = 'succeeded' THEN
        PERFORM capture_order(v_order.id);
    ELSIF v_status = 'refunded' AND v_payment.amount_cents > 0 THEN
        PERFORM return_payment(v_payment, p_now);
    ELSIF v_status = 'voided' AND p_status = 'authorized' AND NOT v_left THEN
        PERFORM tell_returned(v_payment);
    ELSIF v_before = 'authorized' AND v_order.status = 'confirmed' THEN
        PERFORM cancel_order(v_order.id, 'payments', 'authorization lapsed');
    END IF;
    RETURN v_payment;
END $$;

-- The same, and stores p_answer, the response to the request that started the payment, under its key in the same
-- statement. The response was made for exactly this outcome: if the payment has another one, because something else
-- came first, QT027 is raised and nothing changes, so that the caller makes a response for what it finds. Without
-- p_answer no response is stored.
CREATE OR REPLACE FUNCTION complete_payment_with_answer(
    p_id UUID, p_status TEXT, p_ref TEXT, p_decline TEXT, p_now TIMESTAMPTZ, p_ask TIMESTAMPTZ, p_redirect TEXT,
    p_answer INT, p_headers JSONB, p_body BYTEA
) RETURNS payments LANGUAGE plpgsql AS $$
DECLARE
    v_payment payments := complete_payment(p_id, p_status, p_ref, p_decline, p_now, p_ask, p_redirect);
BEGIN
    IF p_answer IS NOT NULL THEN
        IF (v_payment.status, v_payment.provider_ref, v_payment.decline_code, v_payment.processed_at)
           IS DISTINCT FROM (p_status, p_ref, p_decline, p_now) THEN
            RAISE EXCEPTION 'the payment is % and not %', v_payment.status, p_status USING ERRCODE = 'QT027';
        END IF;
        PERFORM finish_request(v_payment.request_owner, v_payment.request_key, p_answer, p_headers, p_body);
    END IF;
    RETURN v_payment;
END $$;

-- Refunds a payment that came too late in full, and notifies the buyer.
CREATE OR REPLACE FUNCTION return_payment(p_payment payments, p_now TIMESTAMPTZ) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO payment_refunds (payment_id, amount_cents, reason, ask_at, created_at, updated_at)
    VALUES (p_payment.id, p_payment.amount_cents, 'late', p_now, p_now, p_now);
    PERFORM tell_returned(p_payment);
END $$;

-- The user, or null if they were erased: events never name an erased user.
CREATE OR REPLACE FUNCTION known_buyer(p_user_id UUID) RETURNS UUID LANGUAGE sql STABLE AS $$
    SELECT id FROM users WHERE id = p_user_id AND erased_at IS NULL
$$;

-- Notifies the buyer of a payment that came too late and is refunded, or (held) voided without having been captured.
-- The reason: the order had 'expired' and its stock was sold, was 'cancelled', or was 'paid' by another payment.
CREATE OR REPLACE FUNCTION tell_returned(p_payment payments) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outbox (topic, key, payload)
    SELECT 'payment.returned', o.id::text, jsonb_build_object(
        'payment_id', p_payment.id, 'order_id', o.id, 'user_id', known_buyer(o.user_id), 'email', o.email,
        'amount_cents', p_payment.amount_cents, 'currency', p_payment.currency, 'held', p_payment.status = 'voided',
        'reason', CASE WHEN o.status <> 'cancelled' THEN 'paid' ELSE (
            SELECT CASE reason WHEN 'expired' THEN reason ELSE 'cancelled' END FROM why_order_stands(o.id) AS reason) END)
    FROM orders o WHERE o.id = p_payment.order_id;
END $$;

-- Records a capture before the provider is called; a second capture waits for the first.
-- Raises QT008 if there is no such payment, QT021 if a capture is in progress (DETAIL the payment's id), QT025 if there
-- is no authorization to capture (DETAIL the payment's status), QT028 as refuse_contested.
CREATE OR REPLACE FUNCTION start_capture(
    p_id UUID, p_owner TEXT, p_key TEXT, p_now TIMESTAMPTZ, p_ask TIMESTAMPTZ
) RETURNS payments LANGUAGE plpgsql AS $$
DECLARE
    v_payment payments;
BEGIN
    PERFORM FROM orders WHERE id = (SELECT order_id FROM payments WHERE id = p_id) FOR NO KEY UPDATE;
    SELECT * INTO v_payment FROM payments WHERE id = p_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no payment %', p_id USING ERRCODE = 'QT008';
    ELSIF v_payment.due = 'capture' THEN
        RAISE EXCEPTION 'its capture is under way' USING ERRCODE = 'QT021', DETAIL = p_id;
    ELSIF v_payment.status <> 'authorized' THEN
        RAISE EXCEPTION 'there is nothing to capture' USING ERRCODE = 'QT025', DETAIL = v_payment.status;
    END IF;
    PERFORM refuse_contested(v_payment.order_id);
    UPDATE payments
    SET due = 'capture', request_owner = p_owner, request_key = p_key, asked = 0, ask_at = p_ask, updated_at = p_now
    WHERE id = p_id RETURNING * INTO v_payment;
    RETURN v_payment;
END $$;

-- The provider refuses to capture for now: the authorization stays as it was.
CREATE OR REPLACE FUNCTION drop_capture(p_id UUID, p_now TIMESTAMPTZ) RETURNS payments LANGUAGE sql AS $$
    UPDATE payments SET due = NULL, asked = 12, ask_at = p_now + interval '1 hour', updated_at = p_now
    WHERE id = p_id AND due = 'capture' RETURNING *
$$;

-- Records that a cancelled order's authorization is to be voided, before the provider is called; no row if nothing is
-- authorized. If a capture turns out to have been faster, its money is refunded.
CREATE OR REPLACE FUNCTION start_void(p_order_id UUID, p_now TIMESTAMPTZ, p_ask TIMESTAMPTZ) RETURNS SETOF payments
LANGUAGE sql AS $$
    UPDATE payments SET status = 'voided', due = 'void', asked = 0, ask_at = p_ask, updated_at = p_now
    WHERE order_id = p_order_id AND status = 'authorized' RETURNING *
$$;

-- The buyer pays in another way instead of at the provider's page, where this payment waits: records that it is to be
-- voided, before the provider is called. No row if it no longer waits, or belongs to none of these providers.
CREATE OR REPLACE FUNCTION leave_payment(p_id UUID, p_providers TEXT[], p_now TIMESTAMPTZ, p_ask TIMESTAMPTZ)
RETURNS SETOF payments LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM orders WHERE id = (SELECT order_id FROM payments WHERE id = p_id) FOR NO KEY UPDATE;
    RETURN QUERY UPDATE payments SET due = 'void', asked = 0, ask_at = p_ask, updated_at = p_now
    WHERE id = p_id AND redirect_url IS NOT NULL AND provider = ANY (p_providers) RETURNING *;
END $$;

-- The amount of a payment that is neither refunded nor reserved for a pending refund; null if there is no such payment.
CREATE OR REPLACE FUNCTION left_of_payment(p_id UUID) RETURNS BIGINT LANGUAGE sql STABLE AS $$
    SELECT amount_cents - refunded_cents - coalesce((
        SELECT sum(amount_cents) FROM payment_refunds WHERE payment_id = p_id AND status = 'pending'), 0)
    FROM payments WHERE id = p_id
$$;

-- Whether the payment came too late for its order, and so never counted in the order's amounts.
CREATE OR REPLACE FUNCTION came_late(p_id UUID) RETURNS BOOLEAN LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM payment_refunds WHERE payment_id = p_id AND reason = 'late')
$$;

-- Records a pending refund before the provider is called: of p_items ([{"sku", "qty"}, …]), of p_cents, or with neither
-- of all that is left (no row if nothing is). p_note: staff's reason. Raises QT005 if more is requested than is left,
-- DETAIL {"refundable_cents"} or, for items, {"pieces"}; QT028 as refuse_contested.
CREATE OR REPLACE FUNCTION start_refund(
    p_order_id UUID, p_cents BIGINT, p_reason TEXT, p_restock BOOLEAN, p_by TEXT, p_owner TEXT, p_key TEXT,
    p_now TIMESTAMPTZ, p_ask TIMESTAMPTZ, p_items JSONB, p_note TEXT
) RETURNS SETOF payment_refunds LANGUAGE plpgsql AS $$
DECLARE
    v_payment payments;
    v_left    BIGINT;
    v_lines   JSONB;
BEGIN
    PERFORM FROM orders WHERE id = p_order_id FOR NO KEY UPDATE;
    SELECT * INTO v_payment FROM payments WHERE order_id = p_order_id AND status = 'succeeded';
    v_left := coalesce(left_of_payment(v_payment.id), 0);
    IF v_left > 0 THEN
        PERFORM refuse_contested(p_order_id);
    END IF;
    IF v_left > 0 AND p_items IS NOT NULL THEN
        v_lines := promise_pieces(p_order_id, p_items);
        p_cents := (SELECT sum(cents) FROM jsonb_to_recordset(v_lines) AS line(cents BIGINT));
    END IF;
    IF p_cents NOT BETWEEN 1 AND v_left THEN
        RAISE EXCEPTION '% of this order can be given back, not %', v_left, p_cents
            USING ERRCODE = 'QT005', DETAIL = json_build_object('refundable_cents', v_left)::text;
    ELSIF v_left > 0 THEN
        RETURN QUERY INSERT INTO payment_refunds (payment_id, amount_cents, reason, restock, actor, request_owner,
                                                  request_key, ask_at, created_at, updated_at, lines, note)
        VALUES (v_payment.id, coalesce(p_cents, v_left), p_reason, p_restock, p_by, p_owner, p_key, p_ask, p_now, p_now,
                v_lines, p_note)
        RETURNING *;
    END IF;
END $$;

-- Applies the provider's result of a refund. What it leaves again may be what a refund made at the provider lacked.
CREATE OR REPLACE FUNCTION complete_refund(p_id UUID, p_status TEXT, p_ref TEXT, p_now TIMESTAMPTZ)
RETURNS payment_refunds LANGUAGE plpgsql AS $$
DECLARE
    v_refund payment_refunds;
BEGIN
    PERFORM FROM orders WHERE id = (
        SELECT p.order_id FROM payments p JOIN payment_refunds r ON r.payment_id = p.id WHERE r.id = p_id)
    FOR NO KEY UPDATE;
    v_refund := book_refund(p_id, p_status, p_ref, p_now);
    PERFORM adopt_contested(v_refund.payment_id, p_now);
    RETURN v_refund;
END $$;

-- The result alone; the caller holds the order's lock.
-- A refund of a payment that came too late does not change the order's amounts, which the payment never was part of. If
-- the provider rejects a refund of an order that was cancelled in the meantime, the money still has to be returned: it
-- is requested again as the cancellation's. A failed refund may still turn out to have succeeded, unless the provider
-- has reported since that it failed for good (refund_came_back). If the refund was reported under the provider's own id
-- before its response arrived, and was taken for somebody else's, it is booked only once.
CREATE OR REPLACE FUNCTION book_refund(p_id UUID, p_status TEXT, p_ref TEXT, p_now TIMESTAMPTZ)
RETURNS payment_refunds LANGUAGE plpgsql AS $$
DECLARE
    v_refund   payment_refunds;
    v_order_id UUID;
    v_status   TEXT;
    v_before   TEXT;
    v_double   UUID;
BEGIN
    SELECT o.id, o.status INTO v_order_id, v_status
    FROM payment_refunds r JOIN payments p ON p.id = r.payment_id JOIN orders o ON o.id = p.order_id WHERE r.id = p_id;
    SELECT double.id INTO v_double FROM payment_refunds r JOIN payment_refunds double USING (payment_id)
    WHERE r.id = p_id AND double.id <> p_id AND double.provider_ref = p_ref AND double.reason = 'elsewhere';
    -- Reported as failed under the provider's id before this result. A contest that staff have settled has a double, or no
    -- room for this refund either.
    IF v_double IS NULL THEN
        UPDATE payment_refunds r SET came_back_at = c.settled_at FROM payment_contests c
        WHERE r.id = p_id AND r.status <> 'succeeded' AND r.reason <> 'elsewhere' AND c.payment_id = r.payment_id
          AND c.provider_ref = p_ref AND c.reason = 'refund' AND c.settled_at IS NOT NULL;
    END IF;
    PERFORM drop_double(r, p_ref, p_now) FROM payment_refunds r WHERE r.id = p_id AND r.status <> 'succeeded';
    IF EXISTS (SELECT FROM payment_refunds WHERE id = p_id AND came_back_at IS NOT NULL) THEN
        p_status := 'failed';
    END IF;
    IF p_status = 'failed' AND v_status = 'cancelled' THEN
        UPDATE payment_refunds SET reason = 'cancelled', updated_at = p_now
        WHERE id = p_id AND status = 'pending' AND reason = 'asked' RETURNING * INTO v_refund;
        IF FOUND THEN
            RETURN v_refund;
        END IF;
    END IF;
    SELECT status INTO v_before FROM payment_refunds WHERE id = p_id;
    UPDATE payment_refunds
    SET status = p_status, provider_ref = p_ref, processed_at = p_now, updated_at = p_now
    WHERE id = p_id AND (status = 'pending' OR (status = 'failed' AND p_status = 'succeeded')) RETURNING * INTO v_refund;
    IF NOT FOUND THEN
        SELECT * INTO v_refund FROM payment_refunds WHERE id = p_id;
    ELSIF p_status = 'failed' THEN
        PERFORM release_pieces(v_order_id, v_refund.lines);
        IF v_status = 'cancelled' THEN  -- the cancellation restocked only what was not settled then
            PERFORM return_pieces(v_order_id, NULL, 'payments');
        END IF;
        PERFORM tell_refund_failed(v_refund);
    ELSIF p_status = 'succeeded' THEN
        IF v_before = 'failed' AND v_refund.lines IS NOT NULL THEN
            BEGIN
                v_refund.lines := promise_pieces(v_order_id, v_refund.lines);
            EXCEPTION WHEN SQLSTATE 'QT005' THEN  -- another refund took these pieces: only money is refunded
                v_refund.lines := NULL;
                v_refund.restock := false;
            END;
            UPDATE payment_refunds SET lines = v_refund.lines, restock = v_refund.restock WHERE id = p_id;
        END IF;
        UPDATE payments
        SET refunded_cents = refunded_cents + v_refund.amount_cents, updated_at = p_now,
            status = CASE WHEN refunded_cents + v_refund.amount_cents = amount_cents THEN 'refunded' ELSE status END
        WHERE id = v_refund.payment_id;
        IF NOT came_late(v_refund.payment_id) THEN
            PERFORM refund_order(v_order_id, v_refund.amount_cents, v_refund.restock,
                                 coalesce(v_refund.actor, 'guest'), coalesce(v_refund.note, v_refund.reason),
                                 p_ref, v_refund.lines, p_id, v_double);
        END IF;
    END IF;
    RETURN v_refund;
END $$;

-- Removes a refund that seemed to be somebody else's, under the provider's id that now belongs to p_refund: its
-- bookings are reversed and its row is deleted, so that p_refund is booked as requested, with its pieces. If it had
-- failed for good, so has p_refund.
CREATE OR REPLACE FUNCTION drop_double(p_refund payment_refunds, p_ref TEXT, p_now TIMESTAMPTZ) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_double payment_refunds;
BEGIN
    UPDATE payment_contests SET settled_at = p_now
    WHERE payment_id = p_refund.payment_id AND provider_ref = p_ref AND reason = 'refund' AND settled_at IS NULL;
    DELETE FROM payment_refunds
    WHERE payment_id = p_refund.payment_id AND provider_ref = p_ref AND reason = 'elsewhere' AND id <> p_refund.id
    RETURNING * INTO v_double;
    IF v_double.came_back_at IS NOT NULL THEN
        UPDATE payment_refunds SET came_back_at = v_double.came_back_at WHERE id = p_refund.id;
    ELSIF v_double.id IS NOT NULL THEN
        PERFORM unbook_refund(v_double, 'asked for here', p_now);
        v_double.came_back_at := p_now;
        PERFORM tell_refund_failed(v_double);  -- both refunds have an event, so the first one is withdrawn
        UPDATE refunds SET source_ref = NULL WHERE source_ref = p_ref;
    END IF;
END $$;

-- Reverses the bookings of a refund, of payment and order together.
CREATE OR REPLACE FUNCTION unbook_refund(p_refund payment_refunds, p_why TEXT, p_now TIMESTAMPTZ) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_late     BOOLEAN := came_late(p_refund.payment_id);
    v_order_id UUID;
BEGIN
    UPDATE payments
    SET refunded_cents = refunded_cents - p_refund.amount_cents, updated_at = p_now,
        status = CASE WHEN v_late THEN status ELSE 'succeeded' END
    WHERE id = p_refund.payment_id RETURNING order_id INTO v_order_id;
    IF NOT v_late THEN
        PERFORM take_refund_back(v_order_id, p_refund.provider_ref, p_refund.lines, 'payments', p_why);
    END IF;
END $$;

-- The provider reports that a refund has failed for good, possibly days after it succeeded: the money is back and can
-- be refunded again. It also counts if it is reported before the refund's own result; repetitions change nothing.
CREATE OR REPLACE FUNCTION refund_came_back(p_id UUID, p_now TIMESTAMPTZ) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_before TEXT;
    v_refund payment_refunds;
BEGIN
    PERFORM FROM orders WHERE id = (
        SELECT p.order_id FROM payments p JOIN payment_refunds r ON r.payment_id = p.id WHERE r.id = p_id)
    FOR NO KEY UPDATE;
    SELECT status INTO v_before FROM payment_refunds WHERE id = p_id;
    UPDATE payment_refunds
    SET came_back_at = p_now, updated_at = p_now, status = CASE status WHEN 'succeeded' THEN 'failed' ELSE status END,
        processed_at = CASE status WHEN 'succeeded' THEN p_now ELSE processed_at END
    WHERE id = p_id AND came_back_at IS NULL RETURNING * INTO v_refund;
    IF FOUND AND v_before = 'succeeded' THEN
        PERFORM unbook_refund(v_refund, 'came back', p_now);
        PERFORM tell_refund_failed(v_refund);
        PERFORM adopt_contested(v_refund.payment_id, p_now);
    END IF;
END $$;

-- Emits an event: a requested refund will not be paid, or a paid one was returned (came_back).
CREATE OR REPLACE FUNCTION tell_refund_failed(p_refund payment_refunds) RETURNS void LANGUAGE sql AS $$
    INSERT INTO outbox (topic, key, payload)
    SELECT 'refund.failed', o.id::text, jsonb_build_object(
        'refund_id', p_refund.id, 'payment_id', p.id, 'order_id', o.id, 'user_id', known_buyer(o.user_id),
        'amount_cents', p_refund.amount_cents, 'currency', p.currency, 'reason', p_refund.reason,
        'came_back', p_refund.came_back_at IS NOT NULL)
    FROM payments p JOIN orders o ON o.id = p.order_id WHERE p.id = p_refund.payment_id
$$;

-- While something that others did to the order's money is not settled, the order must not be shipped, captured or
-- refunded: the money could be returned twice. Raises QT028, DETAIL {"payment_id", "reason"}.
CREATE OR REPLACE FUNCTION refuse_contested(p_order_id UUID) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_detail TEXT := (
        SELECT json_build_object('payment_id', p.id, 'reason', c.reason)::text
        FROM payments p JOIN payment_contests c ON c.payment_id = p.id
        WHERE p.order_id = p_order_id AND p.status IN ('authorized', 'succeeded') AND c.settled_at IS NULL
        ORDER BY c.contested_at LIMIT 1);
BEGIN
    IF v_detail IS NOT NULL THEN
        RAISE EXCEPTION 'the money of this order is contested' USING ERRCODE = 'QT028', DETAIL = v_detail;
    END IF;
END $$;

-- Records a refund that was made at the provider by others, as succeeded.
CREATE OR REPLACE FUNCTION adopt_refund(p_payment_id UUID, p_ref TEXT, p_cents BIGINT, p_now TIMESTAMPTZ) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_refund UUID;
BEGIN
    INSERT INTO payment_refunds (payment_id, amount_cents, reason, actor, provider_ref, created_at, updated_at)
    VALUES (p_payment_id, p_cents, 'elsewhere', 'payments', p_ref, p_now, p_now) RETURNING id INTO v_refund;
    PERFORM book_refund(v_refund, 'succeeded', p_ref, p_now);
END $$;

-- Records refunds made at the provider that exceeded what was left when they were reported, as far as they no longer do:
-- a refund of ours has failed, or was one of them. So it makes no difference which of the two is reported first.
CREATE OR REPLACE FUNCTION adopt_contested(p_payment_id UUID, p_now TIMESTAMPTZ) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_contest payment_contests;
BEGIN
    FOR v_contest IN
        SELECT c.* FROM payment_contests c JOIN payments p ON p.id = c.payment_id
        WHERE c.payment_id = p_payment_id AND c.reason = 'refund' AND c.settled_at IS NULL
          AND c.currency = p.currency AND p.status IN ('succeeded', 'refunded')
        ORDER BY c.contested_at, c.provider_ref
    LOOP
        CONTINUE WHEN v_contest.amount_cents NOT BETWEEN 1 AND left_of_payment(p_payment_id);
        UPDATE payment_contests SET settled_at = p_now
        WHERE payment_id = p_payment_id AND provider_ref = v_contest.provider_ref;
        PERFORM adopt_refund(p_payment_id, v_contest.provider_ref, v_contest.amount_cents, p_now);
    END LOOP;
END $$;

-- Others have moved a payment's money, as its provider reports under its own id, p_ref; p_undone: it was returned, or
-- never moved. Repeated or in any order, the outcome is the same. p_kind 'dispute' and 'reversal' contest the payment
-- until undone or settled. A 'refund' is recorded as one of ours, so that no more is refunded than is left; if it
-- exceeds what is left beside other refunds, it contests the payment until settled, or until there is room for it
-- (adopt_contested). Raises QT029 if a refund is reported before its charge.
CREATE OR REPLACE FUNCTION note_moved(
    p_id UUID, p_kind TEXT, p_ref TEXT, p_cents BIGINT, p_currency TEXT, p_undone BOOLEAN, p_now TIMESTAMPTZ
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_payment payments;
    v_refund  UUID;
BEGIN
    PERFORM FROM orders WHERE id = (SELECT order_id FROM payments WHERE id = p_id) FOR NO KEY UPDATE;
    SELECT * INTO v_payment FROM payments WHERE id = p_id;
    SELECT id INTO v_refund FROM payment_refunds WHERE payment_id = p_id AND provider_ref = p_ref;
    IF v_refund IS NOT NULL AND p_undone THEN
        PERFORM refund_came_back(v_refund, p_now);
    END IF;
    IF v_refund IS NOT NULL OR (p_kind = 'refund' AND v_payment.status = 'voided') THEN
        RETURN;  -- some providers call a void a refund
    ELSIF p_kind = 'refund' AND NOT p_undone AND v_payment.status IN ('pending', 'authorized', 'failed') THEN
        RAISE EXCEPTION 'the payment is %', v_payment.status USING ERRCODE = 'QT029';
    END IF;

    IF p_kind = 'refund' AND NOT p_undone AND p_currency = v_payment.currency
       AND p_cents BETWEEN 1 AND left_of_payment(p_id) AND v_payment.status IN ('succeeded', 'refunded')
       AND NOT EXISTS (SELECT FROM payment_contests WHERE payment_id = p_id AND provider_ref = p_ref) THEN
        PERFORM adopt_refund(p_id, p_ref, p_cents, p_now);
    ELSIF p_undone THEN
        INSERT INTO payment_contests (payment_id, provider_ref, reason, amount_cents, currency, contested_at, settled_at)
        VALUES (p_id, p_ref, p_kind, p_cents, p_currency, p_now, p_now)
        ON CONFLICT (payment_id, provider_ref) DO UPDATE
        SET settled_at = coalesce(payment_contests.settled_at, excluded.settled_at);
    ELSE
        INSERT INTO payment_contests (payment_id, provider_ref, reason, amount_cents, currency, contested_at)
        VALUES (p_id, p_ref, p_kind, p_cents, p_currency, p_now) ON CONFLICT DO NOTHING;
    END IF;
END $$;

-- Emits an event when a contest is opened and when it is settled, by whatever step. One that was undone before it was
-- recorded was never open.
CREATE OR REPLACE FUNCTION tell_contest() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outbox (topic, key, payload)
    SELECT CASE WHEN NEW.settled_at IS NULL THEN 'payment.contested' ELSE 'payment.settled' END, o.id::text,
           jsonb_build_object(
               'payment_id', p.id, 'order_id', o.id, 'user_id', known_buyer(o.user_id),
               'amount_cents', NEW.amount_cents, 'currency', p.currency, 'reason', NEW.reason, 'provider', p.provider,
               'provider_ref', NEW.provider_ref)
    FROM payments p JOIN orders o ON o.id = p.order_id WHERE p.id = NEW.payment_id;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER payment_contests_opened AFTER INSERT ON payment_contests
    FOR EACH ROW WHEN (NEW.settled_at IS NULL) EXECUTE FUNCTION tell_contest();
CREATE OR REPLACE TRIGGER payment_contests_settled AFTER UPDATE ON payment_contests
    FOR EACH ROW WHEN (OLD.settled_at IS NULL AND NEW.settled_at IS NOT NULL) EXECUTE FUNCTION tell_contest();

-- Staff settle the contests of a payment, named by p_refs. Raises QT028 as refuse_contested if others are open, which
-- were opened after staff had looked.
-- Refunds made at the provider are recorded from now on, if that much is left; of money that a bank or the provider
-- took, if it is gone (p_gone), at most what is left. A pending refund for which too little is left fails, since the provider never refunds
-- more than was captured. If it was not requested by anybody but is owed, a new refund of what is left is created:
-- under the old one's id the provider would use the old amount. Returns the settled contests.
CREATE OR REPLACE FUNCTION settle_contests(p_id UUID, p_refs TEXT[], p_gone BOOLEAN, p_now TIMESTAMPTZ)
RETURNS SETOF payment_contests LANGUAGE plpgsql AS $$
DECLARE
    v_other   TEXT;
    v_contest payment_contests;
    v_left    BIGINT;
    v_broken  payment_refunds;
    v_owed    payment_refunds;
BEGIN
    PERFORM FROM orders WHERE id = (SELECT order_id FROM payments WHERE id = p_id) FOR NO KEY UPDATE;
    SELECT json_build_object('payment_id', p_id, 'reason', reason) INTO v_other FROM payment_contests
    WHERE payment_id = p_id AND settled_at IS NULL AND provider_ref <> ALL (p_refs) ORDER BY contested_at LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'more is open than was named' USING ERRCODE = 'QT028', DETAIL = v_other;
    END IF;
    FOR v_contest IN
        SELECT * FROM payment_contests WHERE payment_id = p_id AND settled_at IS NULL
        ORDER BY reason <> 'refund', contested_at, provider_ref
    LOOP
        UPDATE payment_contests SET settled_at = p_now
        WHERE payment_id = p_id AND provider_ref = v_contest.provider_ref;
        RETURN NEXT v_contest;
        SELECT amount_cents - refunded_cents INTO v_left FROM payments
        WHERE id = p_id AND status IN ('succeeded', 'refunded');
        IF v_contest.reason <> 'refund' THEN
            v_contest.amount_cents := CASE WHEN p_gone THEN least(v_contest.amount_cents, v_left) ELSE 0 END;
        END IF;
        CONTINUE WHEN v_left IS NULL OR v_contest.amount_cents NOT BETWEEN 1 AND v_left;
        WHILE left_of_payment(p_id) < v_contest.amount_cents LOOP
            SELECT * INTO v_broken FROM payment_refunds WHERE payment_id = p_id AND status = 'pending'
            ORDER BY reason = 'asked', created_at DESC, id LIMIT 1;
            v_broken := book_refund(v_broken.id, 'failed', NULL, p_now);
            IF v_broken.reason <> 'asked' THEN  -- whoever requested it is told, and can request another
                v_owed := v_broken;
            END IF;
        END LOOP;
        PERFORM adopt_refund(p_id, v_contest.provider_ref, v_contest.amount_cents, p_now);
    END LOOP;
    IF v_owed.id IS NOT NULL AND left_of_payment(p_id) > 0 THEN
        INSERT INTO payment_refunds (payment_id, amount_cents, reason, actor, ask_at, created_at, updated_at)
        VALUES (p_id, left_of_payment(p_id), v_owed.reason, v_owed.actor, p_now, p_now, p_now);
    END IF;
END $$;
