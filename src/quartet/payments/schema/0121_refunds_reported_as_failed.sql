-- migrate:up

-- No change here. `complete_refund` (payment_steps.sql) takes a refund for failed if the provider reported that before its
-- result, under its own id.
SELECT 1;
