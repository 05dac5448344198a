-- migrate:up

-- An endpoint goes at once, and its deliveries after it, a portion at a time.
ALTER TABLE webhook_deliveries DROP CONSTRAINT webhook_deliveries_endpoint_id_fkey;
