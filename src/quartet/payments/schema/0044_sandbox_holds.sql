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

-- migrate:down
DROP INDEX sandbox.refunds_newest;
DROP INDEX sandbox.charges_newest;
ALTER TABLE sandbox.charges DROP COLUMN capture, DROP COLUMN captured_at, DROP COLUMN voided_at, DROP COLUMN lapses_at;
