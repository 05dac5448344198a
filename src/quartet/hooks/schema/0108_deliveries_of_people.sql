-- migrate:up

-- What names a person, and not only a guest's address: found where they are forgotten.
CREATE INDEX webhook_deliveries_of_people ON webhook_deliveries (key) WHERE payload ?| '{email,user_id}';
DROP INDEX webhook_deliveries_of_guests;
