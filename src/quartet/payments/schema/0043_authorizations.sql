-- migrate:up

-- 'authorized': the buyer's bank holds the money for us, which is taken later (a capture) or let go ('voided'). `due` is
-- what the provider still has to be told about such a payment; null: nothing. 'voided' is written down before the
-- provider is told, as 'refunded' is. `redirect_url` is where the buyer has to go before the payment goes on.
ALTER TABLE payments DROP CONSTRAINT payments_status_check;
ALTER TABLE payments
    ADD CONSTRAINT payments_status
        CHECK (status IN ('pending', 'authorized', 'succeeded', 'failed', 'voided', 'refunded')),
    ADD COLUMN due TEXT CONSTRAINT payments_due CHECK (due IN ('capture', 'void')),
    ADD COLUMN redirect_url TEXT;
DROP INDEX payments_one_open;
CREATE UNIQUE INDEX payments_one_open ON payments(order_id) WHERE status IN ('pending', 'authorized', 'succeeded');
DROP INDEX payments_to_ask;
CREATE INDEX payments_to_ask ON payments(ask_at) WHERE status IN ('pending', 'authorized') OR due IS NOT NULL;
-- Reconciliation goes through a day's payments and refunds in their order.
CREATE INDEX payments_newest ON payments(created_at, id);
CREATE INDEX payment_refunds_newest ON payment_refunds(created_at, id);
