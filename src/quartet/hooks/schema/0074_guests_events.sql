-- migrate:up

-- Those that name a guest's address, by their orders: it goes when the guest wants to be forgotten.
CREATE INDEX webhook_deliveries_of_guests ON webhook_deliveries (key) WHERE payload ? 'email';

-- migrate:down
DROP INDEX webhook_deliveries_of_guests;
