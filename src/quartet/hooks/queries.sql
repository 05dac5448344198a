-- name: add
INSERT INTO webhook_endpoints (id, url, events, description, salt, created_by, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $7);

-- name: get
SELECT * FROM webhook_endpoints WHERE id = $1;

-- name: lock
SELECT * FROM webhook_endpoints WHERE id = $1 FOR NO KEY UPDATE;

-- name: page
-- Ids are ordered by time, so the primary key lists the newest first.
SELECT * FROM webhook_endpoints WHERE $1::uuid IS NULL OR id < $1 ORDER BY id DESC LIMIT $2;

-- name: save
-- The caller holds the row's lock.
UPDATE webhook_endpoints
SET url = $2, events = $3, description = $4, salt = $5, old_salt = $6, old_until = $7, enabled = $8,
    disabled_reason = $9, failures = $10, opened = $11, open_until = $12, failing_since = $13, updated_at = $14
WHERE id = $1;

-- name: remove
-- Its deliveries are deleted later by `sweep_removed`: a million of them at once would be locked for seconds.
DELETE FROM webhook_endpoints WHERE id = $1;

-- name: keep
-- In the transaction that then deletes the events from the outbox: the payloads are copied within the database, and
-- without endpoints this is cheap. The events are locked, so that an e-mail address that erasure is just removing from
-- one is not copied.
INSERT INTO webhook_deliveries (endpoint_id, event_id, topic, key, payload, happened_at, give_up_at)
SELECT e.id, o.event_id, o.topic, o.key, o.payload, o.created_at, now() + interval '24 hours'
FROM webhook_endpoints AS e JOIN outbox AS o ON e.events && ARRAY[o.topic, '*']
WHERE e.enabled AND o.id = ANY ($1::bigint[]) AND o.topic = ANY ($2::text[])
ORDER BY o.id
FOR UPDATE OF o
ON CONFLICT ON CONSTRAINT webhook_deliveries_once DO NOTHING;

-- name: put
-- A single delivery, to test an endpoint by hand.
INSERT INTO webhook_deliveries (endpoint_id, event_id, topic, key, payload, happened_at, give_up_at)
VALUES ($1, $2, $3, $4, $5, $6, $6::timestamptz + interval '24 hours') RETURNING *;

-- name: take_turns
-- Before each claim and in a separate statement: two concurrent claims would not see each other's deliveries in flight,
-- and give one endpoint twice as many as it may have.
SELECT pg_advisory_xact_lock(hashtextextended('webhook claims', 0));

-- name: claim
-- Leases deliveries to this worker: at most $2 in flight per endpoint, and only one (a probe) if its breaker is
-- half-open. Per key in order: a delivery waits while an earlier one of its key is untried or in flight, but not while
-- that one waits for its retry, else one that is always refused would block all later ones. The probe is of the topic
-- with the fewest failed deliveries: else the one topic at which the endpoint fails would keep the breaker open for all
-- topics. It is found by a loose scan of webhook_deliveries_kind, topic by topic and at most 1000 rows each: a million
-- may be pending, and all other claims wait for this one. If all of those wait for earlier deliveries of their keys,
-- those are taken first.
WITH RECURSIVE open AS (
    SELECT e.id, e.opened > 0 AS alone, CASE WHEN e.opened > 0 THEN 1 ELSE $2::int END - (
        SELECT count(*) FROM webhook_deliveries AS d
        WHERE d.endpoint_id = e.id AND d.state = 'pending' AND d.leased_until > $1) AS free
    FROM webhook_endpoints AS e
    WHERE e.enabled AND (e.open_until IS NULL OR e.open_until <= $1)
), kinds AS (
    SELECT id AS endpoint_id, (SELECT min(topic) FROM webhook_deliveries
                               WHERE endpoint_id = open.id AND state = 'pending') AS topic
    FROM open WHERE alone AND free > 0
    UNION ALL
    SELECT endpoint_id, (SELECT min(d.topic) FROM webhook_deliveries AS d
                         WHERE d.endpoint_id = kinds.endpoint_id AND d.state = 'pending' AND d.topic > kinds.topic)
    FROM kinds WHERE topic IS NOT NULL
), probes AS (
    SELECT DISTINCT ON (kinds.endpoint_id) first.id, first.not_before
    FROM kinds CROSS JOIN LATERAL (
        SELECT count(*) AS times FROM webhook_deliveries AS d
        WHERE d.endpoint_id = kinds.endpoint_id AND d.topic = kinds.topic AND d.state = 'pending' AND d.attempts > 0
    ) AS vain CROSS JOIN LATERAL (
        SELECT d.* FROM (
            SELECT * FROM webhook_deliveries
            WHERE endpoint_id = kinds.endpoint_id AND topic = kinds.topic AND state = 'pending'
              AND not_before <= $1 AND give_up_at > $1 AND (leased_until IS NULL OR leased_until <= $1)
            ORDER BY attempts, id LIMIT 1000) AS d
        WHERE NOT EXISTS (
            SELECT FROM webhook_deliveries AS earlier
            WHERE earlier.endpoint_id = d.endpoint_id AND earlier.key = d.key AND earlier.id < d.id
              AND earlier.state = 'pending' AND (earlier.attempts = 0 OR earlier.leased_until > $1))
        ORDER BY d.attempts, d.id LIMIT 1
    ) AS first
    ORDER BY kinds.endpoint_id, vain.times, first.attempts, first.id
), due AS (
    SELECT id FROM (
        SELECT id, not_before FROM probes
        UNION ALL
        SELECT found.* FROM open CROSS JOIN LATERAL (
            SELECT d.id, d.not_before FROM webhook_deliveries AS d
            WHERE d.endpoint_id = open.id AND d.state = 'pending' AND d.not_before <= $1 AND d.give_up_at > $1
              AND (d.leased_until IS NULL OR d.leased_until <= $1)
              AND NOT EXISTS (
                  SELECT FROM webhook_deliveries AS earlier
                  WHERE earlier.endpoint_id = d.endpoint_id AND earlier.key = d.key AND earlier.id < d.id
                    AND earlier.state = 'pending' AND (earlier.attempts = 0 OR earlier.leased_until > $1))
            ORDER BY d.id LIMIT greatest(open.free, 0)) AS found
        WHERE NOT open.alone) AS either
    ORDER BY not_before, id LIMIT $3
), mine AS (
    SELECT id FROM webhook_deliveries WHERE id IN (SELECT id FROM due) AND state = 'pending' FOR UPDATE SKIP LOCKED
)
UPDATE webhook_deliveries AS d
SET attempts = attempts + 1, leased_until = $1::timestamptz + $4::float8 * interval '1 second'
FROM webhook_endpoints AS e
WHERE d.id IN (SELECT id FROM mine) AND e.id = d.endpoint_id
RETURNING d.*;

-- name: finish
-- Only if this attempt is still the current one: after its lease expired, another worker may have made the next. $9: what
-- was sent. If a person was erased from it meanwhile, the answer, which may repeat it, is not kept.
UPDATE webhook_deliveries
SET state = $3, not_before = $4, leased_until = NULL, status = $5, answer = CASE WHEN payload = $9 THEN $6 END,
    error = $7, done_at = $8
WHERE id = $1 AND attempts = $2 AND state = 'pending' RETURNING id;

-- name: deliveries
SELECT * FROM webhook_deliveries WHERE endpoint_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3;

-- name: deliveries_delivered
-- Uses webhook_deliveries_newest too, since nearly all are delivered.
SELECT * FROM webhook_deliveries WHERE endpoint_id = $1 AND id < $2 AND state = 'delivered' ORDER BY id DESC LIMIT $3;

-- name: deliveries_pending
-- Uses webhook_deliveries_due. Each state has its own query, so that the planner uses its index.
SELECT * FROM webhook_deliveries WHERE endpoint_id = $1 AND id < $2 AND state = 'pending' ORDER BY id DESC LIMIT $3;

-- name: deliveries_dead
-- Uses webhook_deliveries_dead.
SELECT * FROM webhook_deliveries WHERE endpoint_id = $1 AND id < $2 AND state = 'dead' ORDER BY id DESC LIMIT $3;

-- name: again
-- Retries it from the start, requested by hand; with the same event id.
UPDATE webhook_deliveries
SET state = 'pending', attempts = 0, not_before = '-infinity', leased_until = NULL, done_at = NULL,
    give_up_at = $3::timestamptz + interval '24 hours'
WHERE id = $2 AND endpoint_id = $1 AND (leased_until IS NULL OR leased_until <= $3) RETURNING *;

-- name: delivery
SELECT * FROM webhook_deliveries WHERE endpoint_id = $1 AND id = $2;

-- name: expire
-- Gives up deliveries that did not succeed within a day of retries or of an open breaker; returns how many. In batches,
-- as all sweeps: a backlog of days would exceed the statement timeout, and so would never shrink.
WITH dead AS (
    UPDATE webhook_deliveries SET state = 'dead', done_at = $1, error = coalesce(error, 'not taken within a day')
    WHERE id IN (SELECT id FROM webhook_deliveries
                 WHERE state = 'pending' AND give_up_at <= $1 AND (leased_until IS NULL OR leased_until <= $1)
                 LIMIT 5000 FOR UPDATE)
    RETURNING id
)
SELECT count(*) FROM dead;

-- name: sweep
DELETE FROM webhook_deliveries
WHERE id IN (SELECT id FROM webhook_deliveries
             WHERE state <> 'pending' AND done_at < $1::timestamptz - interval '30 days' LIMIT 5000);

-- name: sweep_removed
-- Deletes deliveries of removed endpoints. A loose scan of webhook_deliveries_once finds the endpoints, and its order
-- gives the deliveries of one: else all deliveries of the other endpoints would be scanned as well.
WITH RECURSIVE told AS (
    (SELECT endpoint_id FROM webhook_deliveries ORDER BY endpoint_id LIMIT 1)
    UNION ALL
    SELECT next.endpoint_id FROM told CROSS JOIN LATERAL (
        SELECT endpoint_id FROM webhook_deliveries WHERE endpoint_id > told.endpoint_id ORDER BY endpoint_id LIMIT 1
    ) AS next
)
DELETE FROM webhook_deliveries
WHERE id IN (SELECT theirs.id FROM told CROSS JOIN LATERAL (
                 SELECT id FROM webhook_deliveries WHERE endpoint_id = told.endpoint_id ORDER BY event_id LIMIT 5000
             ) AS theirs
             WHERE NOT EXISTS (SELECT FROM webhook_endpoints AS e WHERE e.id = told.endpoint_id) LIMIT 5000);

-- name: waiting
SELECT count(*) AS waiting, min(happened_at) AS oldest FROM webhook_deliveries
WHERE state = 'pending' AND endpoint_id IN (SELECT id FROM webhook_endpoints);

-- name: breakers
SELECT CASE WHEN NOT enabled THEN 'disabled' WHEN opened = 0 THEN 'closed' WHEN open_until > $1 THEN 'open'
            ELSE 'half-open' END AS breaker, count(*) AS endpoints
FROM webhook_endpoints GROUP BY 1;

-- name: forget_orders
-- Pending deliveries about these orders are sent without a guest's address and without the user: a receiver that has
-- already erased the person would otherwise create them again. Past deliveries lose both too. Uses
-- webhook_deliveries_of_people.
UPDATE webhook_deliveries SET payload = jsonb_set(payload - 'email', '{user_id}', 'null', false), answer = NULL
WHERE key = ANY ($1::uuid[]::text[]) AND payload ?| '{email,user_id}';
