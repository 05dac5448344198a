-- migrate:up

-- Money held and taken later. A charge that was not to be captured at once is a hold until `captured_at`, `voided_at`
-- or `lapses_at`.
ALTER TABLE sandbox.charges
    ADD COLUMN capture BOOLEAN NOT NULL DEFAULT true,
    ADD COLUMN captured_at TIMESTAMPTZ,
    ADD COLUMN voided_at TIMESTAMPTZ,
    ADD COLUMN lapses_at TIMESTAMPTZ NOT NULL DEFAULT 'infinity';
CREATE INDEX charges_newest ON sandbox.charges(created_at, reference);
CREATE INDEX refunds_newest ON sandbox.refunds(created_at, reference);
