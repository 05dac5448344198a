-- migrate:up

-- When the provider said for good that a refund has failed, though it may have been given before: its money is here. What
-- somebody else's webhook names is found by the provider's own name for it.
ALTER TABLE payment_refunds ADD COLUMN came_back_at TIMESTAMPTZ;
CREATE INDEX payment_refunds_provider_ref ON payment_refunds (provider_ref);
