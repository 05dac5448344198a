-- migrate:up

-- Replaced by the function that takes a refund's id (refunds.sql): else both would exist, as overloads.
DROP FUNCTION IF EXISTS refund_order(UUID, BIGINT, BOOLEAN, TEXT, TEXT, TEXT, JSONB);
