-- The sandbox provider's charges, with status and captured and refunded amounts.
CREATE OR REPLACE VIEW sandbox.books AS
SELECT c.reference, c.id, c.amount_cents, c.currency, state.status, c.decline_code, c.created_at,
       greatest(extract(epoch FROM c.settles_at - clock_timestamp()), 0)::float8 AS seconds_left,
       CASE state.status WHEN 'succeeded' THEN c.amount_cents ELSE 0 END AS captured_cents,
       coalesce((SELECT sum(amount_cents) FROM sandbox.refunds r WHERE r.charge = c.reference), 0)::bigint
           AS refunded_cents
FROM sandbox.charges c, LATERAL (SELECT CASE
    WHEN c.settles_at > clock_timestamp() THEN 'pending'
    WHEN c.decline_code IS NOT NULL THEN 'failed'
    WHEN c.voided_at IS NOT NULL THEN 'voided'
    WHEN c.capture OR c.captured_at IS NOT NULL THEN 'succeeded'
    WHEN c.lapses_at <= clock_timestamp() THEN 'voided'
    ELSE 'authorized' END AS status) AS state;

-- Captures or voids an authorized charge, once: the row lock serialises both, and the first one counts.
CREATE OR REPLACE FUNCTION sandbox.settle(p_charge TEXT, p_capture BOOLEAN) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM sandbox.charges WHERE reference = p_charge FOR UPDATE;
    UPDATE sandbox.charges SET captured_at = CASE WHEN p_capture THEN clock_timestamp() END,
                               voided_at = CASE WHEN NOT p_capture THEN clock_timestamp() END
    WHERE reference = p_charge AND (SELECT status FROM sandbox.books WHERE reference = p_charge) = 'authorized';
END $$;

-- Refunds, once per reference, and never more in total than was captured: the charge's row lock serialises refunds.
CREATE OR REPLACE FUNCTION sandbox.refund(p_reference TEXT, p_id TEXT, p_charge TEXT, p_cents BIGINT) RETURNS TEXT
LANGUAGE plpgsql AS $$
DECLARE
    v_left BIGINT;
    v_id   TEXT;
BEGIN
    PERFORM FROM sandbox.charges WHERE reference = p_charge FOR UPDATE;
    SELECT captured_cents - refunded_cents INTO v_left FROM sandbox.books WHERE reference = p_charge;
    SELECT id INTO v_id FROM sandbox.refunds WHERE reference = p_reference;
    IF v_id IS NULL AND v_left >= p_cents THEN
        INSERT INTO sandbox.refunds (reference, id, charge, amount_cents)
        VALUES (p_reference, p_id, p_charge, p_cents) RETURNING id INTO v_id;
    END IF;
    RETURN v_id;
END $$;
