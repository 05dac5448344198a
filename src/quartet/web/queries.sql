-- name: claim
SELECT owner AS claimed_by, fingerprint, status AS answered, headers, body FROM claim_request($1, $2);

-- name: take
SELECT take_request($1, $2, $3, $4, $5, $6);

-- name: finish
SELECT finish_request($1, $2, $3, $4, $5);

-- name: release
-- Frees a started key whose work did not happen.
DELETE FROM idempotency_keys WHERE owner = $1 AND key = $2 AND status IS NULL;

-- name: sweep
DELETE FROM idempotency_keys
WHERE ctid = ANY (ARRAY(SELECT ctid FROM idempotency_keys WHERE created_at <= now() - interval '24 hours' LIMIT 5000));

-- name: record
INSERT INTO audit_log (actor, action, subject_kind, subject_id, before, after, request_id)
VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: forget_person
-- Deletes the user's own keys, and every answer that contains one of these orders, also a guest's or a colleague's,
-- since it contains what the buyer wrote. An answer that only refers to an order, such as a refund, stays, else the
-- same key would refund again. The table holds one day only, so a sequential scan is good enough.
DELETE FROM idempotency_keys
WHERE owner = 'user:' || $1::text
   OR substring(convert_from(body, 'UTF8') FROM '^{"id":"([^"]+)"') IN (SELECT id::text FROM unnest($2::uuid[]) AS id);
