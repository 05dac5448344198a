-- migrate:up

CREATE INDEX webhook_events_age ON webhook_events (received_at);
