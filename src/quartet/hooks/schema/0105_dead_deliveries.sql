-- migrate:up

-- Dead deliveries are few among many delivered ones, and are what staff look for.
CREATE INDEX webhook_deliveries_dead ON webhook_deliveries (endpoint_id, id) WHERE state = 'dead';
