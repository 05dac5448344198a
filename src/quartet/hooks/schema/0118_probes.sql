-- migrate:up

-- To find the first delivery of each topic and to count its failed ones, however many are pending.
CREATE INDEX webhook_deliveries_kind ON webhook_deliveries (endpoint_id, topic, attempts, id) WHERE state = 'pending';
