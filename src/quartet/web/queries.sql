-- name: claim
-- One round trip: whether nobody else is at work on this key now, and the first answer if there is one. The lock goes
-- with the transaction. Should two pass here all the same, the primary key lets only one of them commit.
SELECT pg_try_advisory_xact_lock(hashtextextended($1::text || chr(10) || $2::text, 0)) AS free,
       k.owner IS NOT NULL AS known, k.fingerprint, k.status, k.headers, k.body
FROM (VALUES (1)) AS one
LEFT JOIN idempotency_keys k ON k.owner = $1 AND k.key = $2 AND k.created_at > now() - interval '24 hours';

-- name: take
-- With an answer, or started without one. Never over a key that another request has taken, whose row `claim` may have
-- missed: its snapshot can be older than its lock. A key older than 24 hours is free again even before it is swept.
INSERT INTO idempotency_keys (owner, key, fingerprint, status, headers, body)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (owner, key) DO UPDATE
    SET fingerprint = excluded.fingerprint, status = excluded.status, headers = excluded.headers,
        body = excluded.body, created_at = now()
    WHERE idempotency_keys.created_at <= now() - interval '24 hours'
RETURNING owner;

-- name: finish
UPDATE idempotency_keys SET status = $3, headers = $4, body = $5 WHERE owner = $1 AND key = $2 AND status IS NULL;

-- name: release
-- A started key whose work turned out not to have happened.
DELETE FROM idempotency_keys WHERE owner = $1 AND key = $2 AND status IS NULL;

-- name: sweep
DELETE FROM idempotency_keys WHERE created_at <= now() - interval '24 hours';

-- name: record
INSERT INTO audit_log (actor, action, subject_kind, subject_id, before, after, request_id)
VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: forget_person
-- The user's own, and any answer that names the address, such as a guest's. All there are is a day's: a scan will do.
DELETE FROM idempotency_keys WHERE owner = 'user:' || $1::text OR position(convert_to($2, 'UTF8') IN body) > 0;
