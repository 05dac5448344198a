-- name: emit
-- In the caller's transaction, so that the event exists exactly if the change does.
INSERT INTO outbox (topic, key, payload) VALUES ($1, $2, $3);

-- name: due
-- The oldest events that are due. An event waits while an earlier one of its key waits for its retry, so that each
-- key's events are delivered in order. Only events that were tried before can wait: the index outbox_waiting has no
-- others.
-- $2: which of the $3 partitions, to which keys are hashed. Up to $5 events of the first $1 keys, and none after the
-- first $1 events of the slow topics $4: only the last events of a key are cut off, else its order would break. $6: the
-- topics that this process knows; other events stay for a process that knows them and do not hold these up.
-- The CASE is for the planner only: without it, it estimates that few rows in a hundred match the partitions, and so it
-- reads and sorts all of a long queue for each batch instead of the first rows by id.
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

-- name: delete
-- They have been delivered, or became dead letters.
DELETE FROM outbox WHERE id = ANY ($1);

-- name: postpone
-- A store was down, which does not count as an attempt. But at least 1, for the index outbox_waiting.
UPDATE outbox SET attempts = greatest(attempts, 1), not_before = now() + $2::float8 * interval '1 second'
WHERE id = ANY ($1);

-- name: fail
-- Counts a failed attempt, to be retried after a backoff that the caller computes.
UPDATE outbox SET attempts = attempts + 1, not_before = now() + seconds * interval '1 second'
FROM unnest($1::bigint[], $2::float8[]) AS failed(id, seconds) WHERE outbox.id = failed.id;

-- name: requeue
-- Keeps the original event_id and time, so that consumers that have processed the event recognise it.
INSERT INTO outbox (event_id, topic, key, payload, created_at) VALUES ($1, $2, $3, $4, coalesce($5, now()));

-- name: depth
-- The queue's length and its oldest event.
SELECT count(*) AS pending, min(created_at) AS oldest FROM outbox;

-- name: depth_by_topic
SELECT topic, count(*) AS pending, min(created_at) AS oldest FROM outbox GROUP BY topic;

-- name: try_advisory_lock
-- A session-level lock: released when the connection ends, however it ends.
SELECT pg_try_advisory_lock(hashtextextended($1, 0));

-- name: end_stalled
-- The driver sends a statement in two steps: to be prepared, then to be executed. A session whose process is stopped in
-- between is active to the server, not idle, so no timeout of the server ends it, not even that of statements; and what
-- its transaction has locked stays locked. It waits for its client all the time since the statement began, as nothing
-- else of ours does for so long.
SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user AND application_name = 'quartet'
  AND state = 'active' AND wait_event = 'ClientRead' AND query_start < clock_timestamp() - $1::float8 * interval '1 second';

-- name: add_dead_letters
-- One letter per key, with the latest reason.
INSERT INTO dead_letters (pipeline, key, payload, reason)
SELECT $1, * FROM unnest($2::text[], $3::jsonb[], $4::text[])
ON CONFLICT (pipeline, key) DO UPDATE SET payload = excluded.payload, reason = excluded.reason, created_at = now();

-- name: delete_dead_letters
-- They have been processed since.
DELETE FROM dead_letters WHERE pipeline = $1 AND key = ANY ($2);

-- name: dead_letters
SELECT id, pipeline, key, payload, reason, created_at FROM dead_letters ORDER BY id DESC LIMIT $1;

-- name: dead_letter_counts
SELECT pipeline, count(*) AS letters FROM dead_letters GROUP BY pipeline;

-- name: oldest_dead_letters
-- Those of this pipeline that were refused longest ago, locked to be replayed. What is refused again comes last then, so
-- that many that stay refused are not in the way of the others.
SELECT id, pipeline, key, payload, reason, created_at FROM dead_letters WHERE pipeline = $1 ORDER BY created_at, id
LIMIT $2 FOR UPDATE;

-- name: drop_dead_letter
DELETE FROM dead_letters WHERE id = $1 RETURNING id, pipeline, key, payload, reason, created_at;

-- name: count
INSERT INTO tallies AS t (name, n) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET n = t.n + excluded.n;

-- name: counted
SELECT name, n FROM tallies;

-- name: payloads
-- Locked, so that they stay the same until the transaction ends.
SELECT id, payload FROM outbox WHERE id = ANY ($1) FOR UPDATE;

-- name: forget_orders
-- Events of these orders are still delivered, but without a guest's address and without the user: a late event's points
-- would put an erased user back on the leaderboards.
UPDATE outbox SET payload = jsonb_set(payload - 'email', '{user_id}', 'null', false) WHERE key = ANY ($1::uuid[]::text[]);

-- name: forget_dead_letters
DELETE FROM dead_letters
WHERE strpos(payload::text, $1) > 0 OR payload ->> 'key' = ANY ($2::uuid[]::text[])
   OR payload ->> 'order_id' = ANY ($2::uuid[]::text[]);

-- name: as_of
-- The time up to which this server has all commits. A replica only knows the time of the last commit that it replayed:
-- while nothing is committed the answer is older than need be, and before the first one it is the base backup's time.
SELECT CASE
    WHEN pg_is_in_recovery()
        THEN coalesce(pg_last_xact_replay_timestamp(), (SELECT checkpoint_time FROM pg_control_checkpoint()))
    ELSE now()
END;
