-- name: emit
-- In the caller's transaction: the event is there exactly when what it tells is true.
INSERT INTO outbox (topic, key, payload) VALUES ($1, $2, $3);
