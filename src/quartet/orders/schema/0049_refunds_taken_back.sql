-- migrate:up

-- A refund whose money was returned to the shop is reversed by a refund with a negative amount, on its own day, so that
-- past months do not change; it refers to the refund that it reverses, which can be reversed once.
ALTER TABLE refunds
    ADD COLUMN takes_back UUID CONSTRAINT refunds_taken_back_once UNIQUE REFERENCES refunds(id) ON DELETE CASCADE,
    DROP CONSTRAINT refunds_amount;
ALTER TABLE refunds
    ADD CONSTRAINT refunds_amount CHECK (amount_cents <> 0 AND (amount_cents < 0) = (takes_back IS NOT NULL));
ALTER TABLE refund_items DROP CONSTRAINT refund_items_amount_cents_check, DROP CONSTRAINT refund_items_quantity_check;
