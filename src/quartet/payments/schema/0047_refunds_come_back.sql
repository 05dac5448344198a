-- migrate:up

-- When the provider reported that a refund has finally failed, possibly after it had succeeded: its money is back with
-- the shop. The index finds refunds by the provider's id, for webhooks about refunds made elsewhere.
ALTER TABLE payment_refunds ADD COLUMN came_back_at TIMESTAMPTZ;
CREATE INDEX payment_refunds_provider_ref ON payment_refunds (provider_ref);
