-- migrate:up

-- Those that were given up are few among all that were delivered, and are what staff look for.
CREATE INDEX webhook_deliveries_dead ON webhook_deliveries (endpoint_id, id) WHERE state = 'dead';
