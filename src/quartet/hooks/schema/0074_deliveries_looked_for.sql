-- migrate:up

-- Those that name a guest's address, by their orders: it goes when the guest wants to be forgotten.
CREATE INDEX webhook_deliveries_of_guests ON webhook_deliveries (key) WHERE payload ? 'email';
-- How many of an endpoint's are on their way, which each claim counts, however many wait.
CREATE INDEX webhook_deliveries_leased ON webhook_deliveries (endpoint_id, leased_until)
    WHERE state = 'pending' AND leased_until IS NOT NULL;
