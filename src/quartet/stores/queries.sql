-- name: emit
-- In the caller's transaction: the event is there exactly when what it tells is true.
INSERT INTO outbox (topic, key, payload) VALUES ($1, $2, $3);

-- name: due
-- The oldest that may be tried now. An event waits while an earlier one of its key does, so that each key's events are
-- carried in their order. Only events that were tried once can be waiting: they alone are in the index outbox_waiting.
-- $2: of the $3 parts, which keys are shared out among, only these. Up to $5 events of the first $1 keys, none after the
-- first $1 of the topics $4: what is left out of a key is what came last, or its events would be carried out of turn. $6:
-- only these topics, where not all are known here; what is of others waits for who knows them and keeps nothing waiting.
-- The CASE is for the planner alone: without it, it takes the parts for a few rows in a hundred, so that of a long queue
-- all is read and sorted for each batch instead of the first by id, and a batch takes the longer the more waits.
WITH oldest AS MATERIALIZED (
    SELECT *, count(*) FILTER (WHERE topic = ANY ($4::text[])) OVER (ORDER BY id) AS slow FROM outbox AS event
    WHERE not_before <= now() AND CASE WHEN abs(hashtext(key) % $3::int) = ANY ($2::int[])
                                        AND topic = ANY ($6::text[]) THEN true ELSE false END
      AND NOT EXISTS (
        SELECT FROM outbox AS earlier
        WHERE earlier.key = event.key AND earlier.attempts > 0 AND earlier.id < event.id AND earlier.not_before > now())
    ORDER BY id LIMIT $5)
SELECT id, event_id, topic, key, payload, attempts, created_at FROM oldest
WHERE slow <= $1 AND key IN (SELECT key FROM oldest GROUP BY key ORDER BY min(id) LIMIT $1) ORDER BY id;

-- name: forget
-- They have been carried, or buried.
DELETE FROM outbox WHERE id = ANY ($1);

-- name: postpone
-- A store was away, which is not the event's fault and so no attempt of its own.
UPDATE outbox SET attempts = greatest(attempts, 1), not_before = now() + $2::float8 * interval '1 second'
WHERE id = ANY ($1);

-- name: fail
-- Tried in vain: later again, each time later.
UPDATE outbox SET attempts = attempts + 1, not_before = now() + seconds * interval '1 second'
FROM unnest($1::bigint[], $2::float8[]) AS failed(id, seconds) WHERE outbox.id = failed.id;

-- name: put_back
-- An event as it was, its own id and hour with it: consumers that have counted it already still know it.
INSERT INTO outbox (event_id, topic, key, payload, created_at) VALUES ($1, $2, $3, $4, coalesce($5, now()));

-- name: depth
-- How many wait and since when.
SELECT count(*) AS pending, min(created_at) AS oldest FROM outbox;

-- name: depth_by_topic
SELECT topic, count(*) AS pending, min(created_at) AS oldest FROM outbox GROUP BY topic;

-- name: try_alone
-- A session's lock: it ends with the connection, however that ends.
SELECT pg_try_advisory_lock(hashtextextended($1, 0));

-- name: bury
-- The same thing again is the same letter, with the latest reason.
INSERT INTO dead_letters (pipeline, key, payload, reason)
SELECT $1, * FROM unnest($2::text[], $3::jsonb[], $4::text[])
ON CONFLICT (pipeline, key) DO UPDATE SET payload = excluded.payload, reason = excluded.reason, created_at = now();

-- name: exhume
-- What has gone in since is no dead letter any more.
DELETE FROM dead_letters WHERE pipeline = $1 AND key = ANY ($2);

-- name: dead_letters
SELECT id, pipeline, key, payload, reason, created_at FROM dead_letters ORDER BY id DESC LIMIT $1;

-- name: dead_letter_counts
SELECT pipeline, count(*) AS letters FROM dead_letters GROUP BY pipeline;

-- name: take_letters
-- To be replayed: the oldest of this pipeline.
SELECT id, pipeline, key, payload, reason, created_at FROM dead_letters WHERE pipeline = $1 ORDER BY id LIMIT $2
FOR UPDATE;

-- name: drop_letter
DELETE FROM dead_letters WHERE id = $1 RETURNING id, pipeline, key, payload, reason, created_at;

-- name: count
INSERT INTO tallies AS t (name, n) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET n = t.n + excluded.n;

-- name: counted
SELECT name, n FROM tallies;

-- name: payloads
-- As they are now, and stay until the transaction ends.
SELECT id, payload FROM outbox WHERE id = ANY ($1) FOR UPDATE;

-- name: forget_orders
-- What waits to be carried of these orders goes on without a guest's address, and as nobody's: their points, come after
-- they were taken off the boards, would put them there again.
UPDATE outbox SET payload = jsonb_set(payload - 'email', '{user_id}', 'null', false) WHERE key = ANY ($1::uuid[]::text[]);

-- name: forget_letters
DELETE FROM dead_letters
WHERE strpos(payload::text, $1) > 0 OR payload ->> 'key' = ANY ($2::uuid[]::text[])
   OR payload ->> 'order_id' = ANY ($2::uuid[]::text[]);

-- name: as_of
-- Until when all that was committed is seen here. A replica knows of nothing after the last commit it was sent, so of a
-- shop where nothing happens it says less than it could; before the first it is as old as the copy it was made from.
SELECT CASE
    WHEN pg_is_in_recovery()
        THEN coalesce(pg_last_xact_replay_timestamp(), (SELECT checkpoint_time FROM pg_control_checkpoint()))
    ELSE now()
END;
