-- migrate:up

-- An endpoint is removed at once, and its deliveries are deleted later, in batches.
ALTER TABLE webhook_deliveries DROP CONSTRAINT webhook_deliveries_endpoint_id_fkey;
