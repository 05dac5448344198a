-- name: emit
-- In the caller's transaction: the event is there exactly when what it tells is true.
INSERT INTO outbox (topic, key, payload) VALUES ($1, $2, $3);

-- name: due
-- The oldest that may be tried now. An event waits while an earlier one of its key does, so that each key's events are
-- carried in their order. Only events that were tried once can be waiting: they alone are in the index outbox_waiting.
SELECT id, event_id, topic, key, payload, attempts, created_at FROM outbox AS event
WHERE not_before <= now() AND NOT EXISTS (
    SELECT FROM outbox AS earlier
    WHERE earlier.key = event.key AND earlier.attempts > 0 AND earlier.id < event.id AND earlier.not_before > now())
ORDER BY id LIMIT $1;

-- name: forget
-- They have been carried, or buried.
DELETE FROM outbox WHERE id = ANY ($1);

-- name: postpone
-- A store was away, which is not the event's fault and so no attempt of its own.
UPDATE outbox SET attempts = greatest(attempts, 1), not_before = now() + $2::float8 * interval '1 second'
WHERE id = ANY ($1);

-- name: fail
-- Tried in vain: later again, each time later.
UPDATE outbox SET attempts = attempts + 1, not_before = now() + $2::float8 * interval '1 second' WHERE id = $1;

-- name: put_back
-- An event as it was, its own id with it: consumers that have counted it already still know it.
INSERT INTO outbox (event_id, topic, key, payload) VALUES ($1, $2, $3, $4);

-- name: depth
-- How many wait and since when.
SELECT count(*) AS pending, min(created_at) AS oldest FROM outbox;

-- name: try_alone
-- A session's lock: it ends with the connection, however that ends.
SELECT pg_try_advisory_lock(hashtextextended($1, 0));
