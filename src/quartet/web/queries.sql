-- name: claim
SELECT owner AS claimed_by, fingerprint, status AS answered, headers, body FROM claim_request($1, $2);

-- name: take
SELECT take_request($1, $2, $3, $4, $5, $6);

-- name: finish
SELECT finish_request($1, $2, $3, $4, $5);

-- name: release
-- A started key whose work turned out not to have happened.
DELETE FROM idempotency_keys WHERE owner = $1 AND key = $2 AND status IS NULL;

-- name: sweep
DELETE FROM idempotency_keys
WHERE ctid = ANY (ARRAY(SELECT ctid FROM idempotency_keys WHERE created_at <= now() - interval '24 hours' LIMIT 5000));

-- name: record
INSERT INTO audit_log (actor, action, subject_kind, subject_id, before, after, request_id)
VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: forget_person
-- The user's own, and any answer that has the address they have proved, such as a guest's. All there are is a day's: a
-- scan will do.
DELETE FROM idempotency_keys
WHERE owner = 'user:' || $1::text
   OR position(convert_to('"email":' || to_json($2::text)::text, 'UTF8') IN body) > 0;
