-- name: draw
-- The number under which a batch will write, drawn before it reads anything; and whether an index is being rebuilt, to
-- which it then writes as well. In one statement: a batch that misses a rebuild here has drawn, and so its events had
-- happened, before the rebuild's own scan began.
SELECT nextval('sync_version') AS version, EXISTS (SELECT FROM sync_rebuilds WHERE state = 'building') AS rebuilding;

-- name: position
SELECT token FROM sync_positions WHERE pipeline = $1;

-- name: save
-- Where to go on after a crash; only ever called once everything before it is acknowledged.
INSERT INTO sync_positions AS p (pipeline, token, caught_up_at, batches, items)
VALUES ($1, $2, $3, ($4 > 0)::int, $4)
ON CONFLICT (pipeline) DO UPDATE
SET token = excluded.token, caught_up_at = greatest(p.caught_up_at, excluded.caught_up_at),
    batches = p.batches + excluded.batches, items = p.items + excluded.items, updated_at = now();

-- name: lose
-- The position can't be resumed from.
UPDATE sync_positions SET token = NULL, updated_at = now() WHERE pipeline = $1;

-- name: count_retry
INSERT INTO sync_positions AS p (pipeline, retries) VALUES ($1, 1)
ON CONFLICT (pipeline) DO UPDATE SET retries = p.retries + 1, updated_at = now();

-- name: positions
SELECT pipeline, token, caught_up_at, batches, items, retries, updated_at FROM sync_positions ORDER BY pipeline;

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
SELECT id, pipeline, key, payload, reason, created_at FROM dead_letters WHERE pipeline = $1 ORDER BY id LIMIT $2;

-- name: ask_rebuild
-- One is open at most: asking twice is asking once.
INSERT INTO sync_rebuilds (reason) VALUES ($1) ON CONFLICT DO NOTHING;

-- name: open_rebuild
SELECT id, state, reason, total, done, error, asked_at, started_at, ended_at FROM sync_rebuilds
WHERE state IN ('asked', 'building');

-- name: get_rebuild
SELECT id, state, reason, total, done, error, asked_at, started_at, ended_at FROM sync_rebuilds WHERE id = $1;

-- name: last_rebuild
SELECT id, state, reason, total, done, error, asked_at, started_at, ended_at FROM sync_rebuilds
ORDER BY id DESC LIMIT 1;

-- name: begin_rebuild
-- From here on every batch writes to the new index too.
UPDATE sync_rebuilds SET state = 'building', total = $2, done = 0, started_at = now() WHERE id = $1;

-- name: advance_rebuild
UPDATE sync_rebuilds SET done = $2, total = $3 WHERE id = $1;

-- name: end_rebuild
UPDATE sync_rebuilds SET state = CASE WHEN $2::text IS NULL THEN 'done' ELSE 'failed' END, error = $2, ended_at = now()
WHERE id = $1;
