-- migrate:up

-- Money that was given back and came here again is a refund of less than nothing, on its own day, so that closed months
-- stay as they were; it names the refund that it takes back, once.
ALTER TABLE refunds
    ADD COLUMN takes_back UUID CONSTRAINT refunds_taken_back_once UNIQUE REFERENCES refunds(id) ON DELETE CASCADE,
    DROP CONSTRAINT refunds_amount;
ALTER TABLE refunds
    ADD CONSTRAINT refunds_amount CHECK (amount_cents <> 0 AND (amount_cents < 0) = (takes_back IS NOT NULL));
ALTER TABLE refund_items DROP CONSTRAINT refund_items_amount_cents_check, DROP CONSTRAINT refund_items_quantity_check;
