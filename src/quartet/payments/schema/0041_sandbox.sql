-- migrate:up

-- The sandbox provider's own data. It simulates an external company: only providers/sandbox.py reads or writes it, and
-- never in one of the shop's transactions.
CREATE SCHEMA sandbox;

CREATE TABLE sandbox.charges (
    reference    TEXT PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    method       TEXT NOT NULL,
    amount_cents BIGINT NOT NULL,
    currency     TEXT NOT NULL,
    decline_code TEXT,
    -- Until then the charge is pending.
    settles_at   TIMESTAMPTZ NOT NULL,
    created_at   TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    -- A charge that is not captured at once is an authorization until `captured_at`, `voided_at` or `lapses_at`.
    capture      BOOLEAN NOT NULL DEFAULT true,
    captured_at  TIMESTAMPTZ,
    voided_at    TIMESTAMPTZ,
    lapses_at    TIMESTAMPTZ NOT NULL DEFAULT 'infinity'
);
CREATE INDEX charges_newest ON sandbox.charges(created_at, reference);

CREATE TABLE sandbox.refunds (
    reference    TEXT PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    charge       TEXT NOT NULL REFERENCES sandbox.charges(reference),
    amount_cents BIGINT NOT NULL CHECK (amount_cents > 0),
    created_at   TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX refunds_charge ON sandbox.refunds(charge);
CREATE INDEX refunds_newest ON sandbox.refunds(created_at, reference);
