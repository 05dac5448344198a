-- migrate:up

-- The sandbox provider's own books. It stands for a company elsewhere: only providers/sandbox.py reads or writes here,
-- never in a transaction of the shop's.
CREATE SCHEMA sandbox;

CREATE TABLE sandbox.charges (
    reference    TEXT PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    method       TEXT NOT NULL,
    amount_cents BIGINT NOT NULL,
    currency     TEXT NOT NULL,
    decline_code TEXT,
    -- Before this moment the charge is still being worked on.
    settles_at   TIMESTAMPTZ NOT NULL,
    created_at   TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE sandbox.refunds (
    reference    TEXT PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    charge       TEXT NOT NULL REFERENCES sandbox.charges(reference),
    amount_cents BIGINT NOT NULL CHECK (amount_cents > 0),
    created_at   TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX refunds_charge ON sandbox.refunds(charge);

-- Once by reference, and never more in all than was charged: the charge's row lock makes refunds take turns.
CREATE FUNCTION sandbox.refund(p_reference TEXT, p_id TEXT, p_charge TEXT, p_cents BIGINT) RETURNS TEXT
LANGUAGE plpgsql AS $$
DECLARE
    v_charged BIGINT;
    v_id      TEXT;
BEGIN
    SELECT amount_cents INTO v_charged FROM sandbox.charges
    WHERE reference = p_charge AND decline_code IS NULL AND settles_at <= clock_timestamp() FOR UPDATE;
    SELECT id INTO v_id FROM sandbox.refunds WHERE reference = p_reference;
    IF v_id IS NULL
       AND v_charged >= p_cents + coalesce((SELECT sum(amount_cents) FROM sandbox.refunds WHERE charge = p_charge), 0)
    THEN
        INSERT INTO sandbox.refunds (reference, id, charge, amount_cents)
        VALUES (p_reference, p_id, p_charge, p_cents) RETURNING id INTO v_id;
    END IF;
    RETURN v_id;
END $$;
