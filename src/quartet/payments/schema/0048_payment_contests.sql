-- migrate:up

-- What somebody else did to money that was taken: a bank's dispute, a reversal by the provider, a refund made by hand at
-- the provider that the books have no room for. Each has the provider's own name, so that however often and in whatever
-- order it is told, it is one. Until it is settled nothing of the order's moves.
CREATE TABLE payment_contests (
    payment_id   UUID NOT NULL REFERENCES payments(id),
    provider_ref TEXT NOT NULL,
    reason       TEXT NOT NULL CONSTRAINT payment_contests_reason CHECK (reason IN ('dispute', 'reversal', 'refund')),
    amount_cents BIGINT NOT NULL,
    contested_at TIMESTAMPTZ NOT NULL,
    settled_at   TIMESTAMPTZ,
    PRIMARY KEY (payment_id, provider_ref)
);

-- A refund that somebody made by hand at the provider is one of ours, given already.
ALTER TABLE payment_refunds DROP CONSTRAINT payment_refunds_reason_check;
ALTER TABLE payment_refunds
    ADD CONSTRAINT payment_refunds_reason CHECK (reason IN ('asked', 'cancelled', 'late', 'elsewhere'));
