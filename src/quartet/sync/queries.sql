-- name: draw
-- The number under which a batch will write, drawn before it reads anything; and whether an index is being rebuilt, to
-- which it then writes as well. In one statement: a batch that misses a rebuild here has drawn, and so its events had
-- happened, before the rebuild's own scan began.
-- `home` names the live index by the rebuild that made it.
SELECT nextval('sync_version') AS version, EXISTS (SELECT FROM sync_rebuilds WHERE state = 'building') AS rebuilding,
       (SELECT coalesce(max(id), 0) FROM sync_rebuilds WHERE state = 'done') AS home;

-- name: leap
-- Ahead of every number that was drawn since the point which the stores were put back to: search may still hold them,
-- and would refuse what is lower. Nobody draws a million million.
SELECT setval('sync_version', nextval('sync_version') + 1000000000000);

-- name: note
-- What a batch is about to write, before it does; those that come back sure need not be written. A batch that is
-- overtaken learns what the newer one knows and changes nothing of it. So of all batches that looked at a product the
-- newest decides what is known, whether it wrote or not, and a slow one can't put its older state over what that one
-- left alone. $5: whether what is known may be believed. In order of ids, so that two batches wait for each other.
-- `latest`: no batch has begun since this one did, so none has read a document before this one wrote its copies.
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

-- name: settle
-- The engine has acknowledged these under this number: they are known, unless a newer batch has looked at them since;
-- and what has gone in is no dead letter any more.
WITH acknowledged AS (
    UPDATE search_known SET sure = true WHERE product_id = ANY ($1::text[]) AND version = $2
)
DELETE FROM dead_letters WHERE pipeline = $3 AND key = ANY ($1::text[]);

-- name: is_newest
SELECT EXISTS (SELECT FROM search_known WHERE version = $1 AND product_id = ANY ($2::text[]));

-- name: doubt
-- Whatever is known of these, the next batch that can read them writes them, so that their dead letters go.
UPDATE search_known SET sure = false WHERE product_id = ANY ($1::text[]);

-- name: sums
-- How many products these buckets hold as the catalog was seen, and as search should hold them, with the sums of their
-- fingerprints: by bucket ($3), or all together under the first.
SELECT CASE WHEN $3 THEN bucket ELSE $1::int END AS bucket,
       count(*) FILTER (WHERE seen <> 0) AS seen, sum(seen)::bigint AS seen_sum,
       count(*) FILTER (WHERE fingerprint <> 0) AS wanted, sum(fingerprint)::bigint AS wanted_sum
FROM search_known WHERE bucket >= $1 AND bucket < $2 GROUP BY 1;

-- name: fingerprints
SELECT product_id, seen, fingerprint FROM search_known WHERE bucket >= $1 AND bucket < $2;

-- name: stale_levels
-- The products of these buckets of which a SKU has another price or other pieces in inventory than the latest batch saw.
-- One that inventory does not know has its last price, and no pieces. With what tells this state from another.
SELECT product_id, version, sum(coalesce(i.unit_price_cents, 0))::bigint AS cents,
       sum(coalesce(i.stock - i.reserved, 0))::bigint AS pieces
FROM search_known CROSS JOIN LATERAL jsonb_each(levels) AS held(sku, level) LEFT JOIN inventory i ON i.sku = held.sku
WHERE bucket >= $1 AND bucket < $2
  AND (coalesce(i.unit_price_cents, (level ->> 0)::bigint), coalesce(i.stock - i.reserved, 0))
      <> ((level ->> 0)::bigint, (level ->> 1)::bigint)
GROUP BY product_id;

-- name: moment
SELECT clock_timestamp();

-- name: position
SELECT token FROM sync_positions WHERE pipeline = $1;

-- name: beat
-- This worker lives ($1 its name) and takes or keeps those of the pieces $2 that are its own, for $3 seconds; answers
-- them with their tokens. A piece is its worker's who draws lowest for it among all that live, so that they agree without
-- speaking to each other, and one who comes or goes moves no more pieces than its share. What another still holds is
-- waited for. All by the clock of the database.
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

-- name: give_up
-- These pieces are free at once, if they are still this worker's.
UPDATE work_leases SET until = now() WHERE worker = $1 AND piece = ANY ($2::text[]);

-- name: sweep_workers
DELETE FROM work_leases WHERE piece = worker AND until < now() - interval '1 minute';

-- name: caught_up
SELECT caught_up_at FROM sync_positions WHERE pipeline = 'changes';

-- name: save
-- Where to go on after a crash; only ever called once everything before it is acknowledged. Saves nothing once one of
-- the pieces ($5, each with its token in $6) has another owner, who goes on from what was saved before.
INSERT INTO sync_positions AS p (pipeline, token, caught_up_at, batches, items)
SELECT $1, $2, $3, ($4 > 0)::int, $4
WHERE (SELECT count(*) FROM work_leases JOIN unnest($5::text[], $6::bigint[]) AS ours(piece, token) USING (piece, token))
      = cardinality($5::text[])
ON CONFLICT (pipeline) DO UPDATE
SET token = excluded.token, caught_up_at = greatest(p.caught_up_at, excluded.caught_up_at),
    batches = p.batches + excluded.batches, items = p.items + excluded.items;

-- name: lose
-- The position can't be resumed from. Of one that is another's by now nothing is said.
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
-- One is open at most: asking twice is asking once.
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
-- From here on every batch writes to that index too.
UPDATE sync_rebuilds SET state = 'building', index_name = $2, total = $3, done = 0, upto = 0, started_at = now()
WHERE id = $1;

-- name: advance_rebuild
-- All below bucket $2 is in; a rebuild that is done twice for a moment never falls back.
UPDATE sync_rebuilds SET upto = $2, done = $3, total = greatest(total, $3), rate = $4, error = NULL
WHERE id = $1 AND upto <= $2;

-- name: hold_rebuild
-- Why it does not go live yet.
UPDATE sync_rebuilds SET error = $2 WHERE id = $1;

-- name: leave_out
-- The index under way goes live without this product, which staff gave up.
UPDATE sync_rebuilds SET without = array_append(without, $1) WHERE state = 'building';

-- name: in_the_way
-- Dead letters of products that staff have not given up for this rebuild. What they gave up is refused again whenever
-- somebody looks at it.
SELECT count(*) FROM dead_letters
WHERE pipeline = $1 AND key <> ALL (SELECT unnest(without) FROM sync_rebuilds WHERE id = $2);

-- name: end_rebuild
UPDATE sync_rebuilds SET state = CASE WHEN $2::text IS NULL THEN 'done' ELSE 'failed' END, error = $2, ended_at = now()
WHERE id = $1;

-- name: observe
-- So many times more it took so long, this minute.
INSERT INTO sync_freshness AS f (what, minute, bound, n, seconds)
SELECT what, date_trunc('minute', now()), bound, n, seconds
FROM unnest($1::text[], $2::float8[], $3::bigint[], $4::float8[]) AS given(what, bound, n, seconds)
ON CONFLICT (what, minute, bound) DO UPDATE SET n = f.n + excluded.n, seconds = f.seconds + excluded.seconds;

-- name: freshness
-- How often it took how long: ever, and in the last five minutes.
SELECT what, bound, sum(n)::bigint AS n, sum(seconds) AS seconds,
       coalesce(sum(n) FILTER (WHERE minute > now() - interval '5 minutes'), 0)::bigint AS lately
FROM sync_freshness GROUP BY what, bound ORDER BY what, bound;

-- name: sweep_freshness
-- Hours that are past become one row each, under the epoch: what is told to Prometheus never shrinks.
WITH past AS (
    DELETE FROM sync_freshness WHERE minute < now() - interval '1 hour' AND minute > 'epoch' RETURNING *
)
INSERT INTO sync_freshness AS f (what, minute, bound, n, seconds)
SELECT what, 'epoch', bound, sum(n), sum(seconds) FROM past GROUP BY what, bound
ON CONFLICT (what, minute, bound) DO UPDATE SET n = f.n + excluded.n, seconds = f.seconds + excluded.seconds;

-- name: sing
INSERT INTO sync_canary (what, sung) VALUES ($1, $2) ON CONFLICT (what) DO UPDATE SET sung = excluded.sung;

-- name: hear
UPDATE sync_canary SET heard = greatest(heard, $2) WHERE what = $1;

-- name: songs
SELECT what, sung, heard FROM sync_canary ORDER BY what;

-- name: song
SELECT sung FROM sync_canary WHERE what = 'stock';
