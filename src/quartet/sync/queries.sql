-- name: begin_batch
-- The version number under which a batch will write, drawn before it reads anything; and whether an index is being
-- rebuilt, to which it then writes as well. In one statement: if a batch does not see a rebuild here, its number was
-- drawn, and its events were written, before the rebuild's own scan began. `home` is the id of the rebuild that created
-- the live index.
SELECT nextval('sync_version') AS version, EXISTS (SELECT FROM sync_rebuilds WHERE state = 'building') AS rebuilding,
       (SELECT coalesce(max(id), 0) FROM sync_rebuilds WHERE state = 'done') AS home;

-- name: skip_versions
-- After a restore: skips all numbers that were drawn after the backup, since search may still hold documents with them
-- and would reject lower versions. No shop draws a million million.
SELECT setval('sync_version', nextval('sync_version') + 1000000000000);

-- name: note
-- Records what a batch is about to write to search, before it does; products that are returned as `sure` are up to date
-- there and need not be written. A batch that was overtaken by a newer one reads the newer one's state and does not
-- change it. So of all batches that read a product the newest decides what is recorded, whether it wrote or not, and a
-- slow batch can't overwrite a document that the newer one found up to date. $5: whether the recorded state may be
-- trusted. In order of ids, to prevent deadlocks between batches. `latest`: no batch has begun since this one, so none
-- has read a document before this one wrote its copies.
INSERT INTO search_known AS k (product_id, version, digest, home, bucket, seen, fingerprint, levels)
SELECT id, $3, digest, $4, bucket, seen, fingerprint, levels
FROM unnest($1::text[], $2::bytea[], $6::int[], $7::bigint[], $8::bigint[], $9::jsonb[])
    AS given(id, digest, bucket, seen, fingerprint, levels) ORDER BY id
ON CONFLICT (product_id) DO UPDATE
SET sure = $5 AND k.sure
           AND (k.version > excluded.version OR (k.home = excluded.home AND k.digest = excluded.digest)),
    digest = CASE WHEN k.version > excluded.version THEN k.digest ELSE excluded.digest END,
    home = CASE WHEN k.version > excluded.version THEN k.home ELSE excluded.home END,
    seen = CASE WHEN k.version > excluded.version THEN k.seen ELSE excluded.seen END,
    fingerprint = CASE WHEN k.version > excluded.version THEN k.fingerprint ELSE excluded.fingerprint END,
    levels = CASE WHEN k.version > excluded.version THEN k.levels ELSE excluded.levels END,
    version = greatest(k.version, excluded.version)
RETURNING product_id, sure, (SELECT last_value FROM sync_version) = $3 AS latest;

-- name: confirm_written
-- The engine has acknowledged these products with this version: marks them as up to date, unless a newer batch has read
-- them since; and deletes their dead letters.
WITH acknowledged AS (
    UPDATE search_known SET sure = true WHERE product_id = ANY ($1::text[]) AND version = $2
)
DELETE FROM dead_letters WHERE pipeline = $3 AND key = ANY ($1::text[]);

-- name: is_newest
SELECT EXISTS (SELECT FROM search_known WHERE version = $1 AND product_id = ANY ($2::text[]));

-- name: mark_uncertain
-- Makes the next batch that can read these products write them, so that their dead letters are deleted.
UPDATE search_known SET sure = false WHERE product_id = ANY ($1::text[]);

-- name: sums
-- The number of products in these buckets and the sums of their fingerprints: as last read from the catalog (`seen`),
-- and as search should hold them (`wanted`). By bucket if $3, else in total, as bucket $1.
SELECT CASE WHEN $3 THEN bucket ELSE $1::int END AS bucket,
       count(*) FILTER (WHERE seen <> 0) AS seen, sum(seen)::bigint AS seen_sum,
       count(*) FILTER (WHERE fingerprint <> 0) AS wanted, sum(fingerprint)::bigint AS wanted_sum
FROM search_known WHERE bucket >= $1 AND bucket < $2 GROUP BY 1;

-- name: fingerprints
SELECT product_id, seen, fingerprint FROM search_known WHERE bucket >= $1 AND bucket < $2;

-- name: stale_levels
-- The products of these buckets with a SKU whose price or available stock in inventory differs from what the latest
-- batch read. A SKU that is not in inventory has its last price and no stock. `version`, `cents` and `pieces` identify
-- the state.
SELECT product_id, version, sum(coalesce(i.unit_price_cents, 0))::bigint AS cents,
       sum(coalesce(i.stock - i.reserved, 0))::bigint AS pieces
FROM search_known CROSS JOIN LATERAL jsonb_each(levels) AS held(sku, level) LEFT JOIN inventory i ON i.sku = held.sku
WHERE bucket >= $1 AND bucket < $2
  AND (coalesce(i.unit_price_cents, (level ->> 0)::bigint), coalesce(i.stock - i.reserved, 0))
      <> ((level ->> 0)::bigint, (level ->> 1)::bigint)
GROUP BY product_id;

-- name: database_time
SELECT clock_timestamp();

-- name: position
SELECT token FROM sync_positions WHERE pipeline = $1;

-- name: heartbeat
-- The heartbeat of worker $1: acquires or extends its leases on the pieces of work in $2 for $3 seconds; returns those
-- it holds with their fencing tokens. A piece belongs to the live worker with the lowest hash for it (rendezvous
-- hashing): so workers agree without communicating, and one that starts or stops moves no more pieces than its share. A
-- piece that another worker still holds is not taken. All times are by the database's clock.
WITH lives AS (
    INSERT INTO work_leases (piece, worker, until) VALUES ($1, $1, now() + $3::float8 * interval '1 second')
    ON CONFLICT (piece) DO UPDATE SET until = excluded.until
), living AS (
    SELECT worker FROM work_leases WHERE piece = worker AND until > now() UNION SELECT $1
)
INSERT INTO work_leases AS held (piece, worker, until)
SELECT wanted, $1, now() + $3::float8 * interval '1 second' FROM unnest($2::text[]) AS wanted
WHERE (SELECT worker FROM living ORDER BY md5(wanted || worker) LIMIT 1) = $1 ORDER BY wanted
ON CONFLICT (piece) DO UPDATE
SET worker = excluded.worker, until = excluded.until, token = held.token + (held.worker <> excluded.worker)::int
WHERE held.worker = excluded.worker OR held.until <= now()
RETURNING piece, token;

-- name: release_leases
-- Releases these leases, if this worker still holds them.
UPDATE work_leases SET until = now() WHERE worker = $1 AND piece = ANY ($2::text[]);

-- name: sweep_workers
DELETE FROM work_leases WHERE piece = worker AND until < now() - interval '1 minute';

-- name: caught_up
SELECT caught_up_at FROM sync_positions WHERE pipeline = 'changes';

-- name: save_position
-- Saves the position from which to resume after a crash, called only after everything before it was acknowledged. Saves
-- nothing if a lease ($5, with the fencing tokens $6) has another owner by now, who resumes from the previous position.
INSERT INTO sync_positions AS p (pipeline, token, caught_up_at, batches, items)
SELECT $1, $2, $3, ($4 > 0)::int, $4
WHERE (SELECT count(*) FROM work_leases JOIN unnest($5::text[], $6::bigint[]) AS ours(piece, token) USING (piece, token))
      = cardinality($5::text[])
ON CONFLICT (pipeline) DO UPDATE
SET token = excluded.token, caught_up_at = greatest(p.caught_up_at, excluded.caught_up_at),
    batches = p.batches + excluded.batches, items = p.items + excluded.items;

-- name: discard_position
-- Deletes a position that can't be resumed from, unless a lease has another owner by now.
UPDATE sync_positions SET token = NULL
WHERE pipeline = $1
  AND (SELECT count(*) FROM work_leases JOIN unnest($2::text[], $3::bigint[]) AS ours(piece, token) USING (piece, token))
      = cardinality($2::text[]);

-- name: count_retry
INSERT INTO sync_positions AS p (pipeline, retries) VALUES ($1, 1)
ON CONFLICT (pipeline) DO UPDATE SET retries = p.retries + 1;

-- name: positions
SELECT pipeline, token, caught_up_at, batches, items, retries FROM sync_positions ORDER BY pipeline;

-- name: ask_rebuild
-- At most one rebuild is open: a second request has no effect.
INSERT INTO sync_rebuilds (reason, kind) VALUES ($1, $2) ON CONFLICT DO NOTHING;

-- name: open_rebuild
SELECT id, state, kind, reason, total, done, rate, error, index_name, upto, without, asked_at, started_at, ended_at
FROM sync_rebuilds
WHERE state IN ('asked', 'building');

-- name: get_rebuild
SELECT id, state, kind, reason, total, done, rate, error, index_name, upto, without, asked_at, started_at, ended_at
FROM sync_rebuilds WHERE id = $1;

-- name: last_rebuild
SELECT id, state, kind, reason, total, done, rate, error, index_name, upto, without, asked_at, started_at, ended_at
FROM sync_rebuilds
ORDER BY id DESC LIMIT 1;

-- name: begin_rebuild
-- From now on every batch writes to that index as well.
UPDATE sync_rebuilds SET state = 'building', index_name = $2, total = $3, done = 0, upto = 0, started_at = now()
WHERE id = $1;

-- name: advance_rebuild
-- All products of the buckets below $2 are written. If two workers run the rebuild for a moment, progress never goes
-- back.
UPDATE sync_rebuilds SET upto = $2, done = $3, total = greatest(total, $3), rate = $4, error = NULL
WHERE id = $1 AND upto <= $2;

-- name: block_rebuild
-- Records why the rebuild does not go live yet.
UPDATE sync_rebuilds SET error = $2 WHERE id = $1;

-- name: exclude_from_rebuild
-- The index being built goes live without this product, which staff have given up.
UPDATE sync_rebuilds SET without = array_append(without, $1) WHERE state = 'building';

-- name: count_blocking_letters
-- The number of dead letters that block this rebuild: those of products that staff have not given up. A product given
-- up gets a new dead letter whenever it is read again.
SELECT count(*) FROM dead_letters
WHERE pipeline = $1 AND key <> ALL (SELECT unnest(without) FROM sync_rebuilds WHERE id = $2);

-- name: end_rebuild
UPDATE sync_rebuilds SET state = CASE WHEN $2::text IS NULL THEN 'done' ELSE 'failed' END, error = $2, ended_at = now()
WHERE id = $1;

-- name: observe
-- Adds observations to this minute's histogram.
INSERT INTO sync_freshness AS f (what, minute, bound, n, seconds)
SELECT what, date_trunc('minute', now()), bound, n, seconds
FROM unnest($1::text[], $2::float8[], $3::bigint[], $4::float8[]) AS given(what, bound, n, seconds)
ON CONFLICT (what, minute, bound) DO UPDATE SET n = f.n + excluded.n, seconds = f.seconds + excluded.seconds;

-- name: freshness
-- The histogram of each measurement: in total, and of the last five minutes.
SELECT what, bound, sum(n)::bigint AS n, sum(seconds) AS seconds,
       coalesce(sum(n) FILTER (WHERE minute > now() - interval '5 minutes'), 0)::bigint AS lately
FROM sync_freshness GROUP BY what, bound ORDER BY what, bound;

-- name: sweep_freshness
-- Sums up rows older than an hour in one row per bucket, dated to the epoch, since Prometheus counters must not
-- decrease.
WITH past AS (
    DELETE FROM sync_freshness WHERE minute < now() - interval '1 hour' AND minute > 'epoch' RETURNING *
)
INSERT INTO sync_freshness AS f (what, minute, bound, n, seconds)
SELECT what, 'epoch', bound, sum(n), sum(seconds) FROM past GROUP BY what, bound
ON CONFLICT (what, minute, bound) DO UPDATE SET n = f.n + excluded.n, seconds = f.seconds + excluded.seconds;

-- name: record_canary_write
INSERT INTO sync_canary (what, sung) VALUES ($1, $2) ON CONFLICT (what) DO UPDATE SET sung = excluded.sung;

-- name: record_canary_found
UPDATE sync_canary SET heard = greatest(heard, $2) WHERE what = $1;

-- name: canary_states
SELECT what, sung AS written_ms, heard AS found_ms FROM sync_canary ORDER BY what;

-- name: canary_price
SELECT sung FROM sync_canary WHERE what = 'stock';
