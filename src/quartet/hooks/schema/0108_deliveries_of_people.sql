-- migrate:up

-- Deliveries that contain a user's id or a guest's address, to be found when the person is erased.
CREATE INDEX webhook_deliveries_of_people ON webhook_deliveries (key) WHERE payload ?| '{email,user_id}';
DROP INDEX webhook_deliveries_of_guests;
