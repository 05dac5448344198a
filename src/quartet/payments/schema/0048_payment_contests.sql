-- migrate:up

-- What others did to a captured payment: a bank's dispute, a reversal by the provider, or a refund made at the provider
-- that exceeds what is left of the payment. Each has the provider's id, so that it counts once, however often and in
-- which order it is reported. Until it is settled the order is neither shipped, captured nor refunded.
CREATE TABLE payment_contests (
    payment_id   UUID NOT NULL REFERENCES payments(id),
    provider_ref TEXT NOT NULL,
    reason       TEXT NOT NULL CONSTRAINT payment_contests_reason CHECK (reason IN ('dispute', 'reversal', 'refund')),
    amount_cents BIGINT NOT NULL,
    contested_at TIMESTAMPTZ NOT NULL,
    settled_at   TIMESTAMPTZ,
    PRIMARY KEY (payment_id, provider_ref)
);

-- 'elsewhere': a refund made at the provider itself, recorded here as succeeded.
ALTER TABLE payment_refunds DROP CONSTRAINT payment_refunds_reason_check;
ALTER TABLE payment_refunds
    ADD CONSTRAINT payment_refunds_reason CHECK (reason IN ('asked', 'cancelled', 'late', 'elsewhere'));
