-- migrate:up

-- Beside the one that takes what a refund replaces (refunds.sql) it would be another function of the same name.
DROP FUNCTION IF EXISTS refund_order(UUID, BIGINT, BOOLEAN, TEXT, TEXT, TEXT, JSONB, UUID);
