-- migrate:up

-- By which the first of each kind is found, and how many of it were tried in vain, however many wait.
CREATE INDEX webhook_deliveries_kind ON webhook_deliveries (endpoint_id, topic, attempts, id) WHERE state = 'pending';
