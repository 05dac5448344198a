-- name: entries
-- Newest first; uses audit_log_at.
SELECT id, at, actor, action, subject_kind, subject_id, before, after, request_id FROM audit_log
WHERE (at, id) < ($1, $2) AND at >= $3 AND at < $4
ORDER BY at DESC, id DESC LIMIT $5;

-- name: entries_of_subject
-- Uses audit_log_subject. There is one query per most selective filter, so that the planner uses its index; the other
-- filters are checked on each row.
SELECT id, at, actor, action, subject_kind, subject_id, before, after, request_id FROM audit_log
WHERE subject_kind = $6 AND subject_id = $7 AND ($8::text IS NULL OR actor = $8) AND ($9::text IS NULL OR action = $9)
  AND (at, id) < ($1, $2) AND at >= $3 AND at < $4
ORDER BY at DESC, id DESC LIMIT $5;

-- name: entries_of_actor
-- Uses audit_log_actor.
SELECT id, at, actor, action, subject_kind, subject_id, before, after, request_id FROM audit_log
WHERE actor = $6 AND ($7::text IS NULL OR action = $7)
  AND (at, id) < ($1, $2) AND at >= $3 AND at < $4
ORDER BY at DESC, id DESC LIMIT $5;

-- name: entries_of_action
-- Uses audit_log_action.
SELECT id, at, actor, action, subject_kind, subject_id, before, after, request_id FROM audit_log
WHERE action = $6
  AND (at, id) < ($1, $2) AND at >= $3 AND at < $4
ORDER BY at DESC, id DESC LIMIT $5;

-- name: insert_key
INSERT INTO api_keys (id, name, prefix, key_hash, scopes, created_at, created_by, expires_at)
SELECT $1, $2, $3, $4, $5, $6, id, $8 FROM users WHERE id = $7 AND erased_at IS NULL FOR KEY SHARE
RETURNING id, name, prefix, scopes, created_at, created_by, last_used_at, expires_at, revoked_at;

-- name: keys
-- Newest first, since ids are ordered by time.
SELECT id, name, prefix, scopes, created_at, created_by, last_used_at, expires_at, revoked_at FROM api_keys
WHERE $1::uuid IS NULL OR id < $1
ORDER BY id DESC LIMIT $2;

-- name: valid_key
SELECT id, scopes, expires_at, last_used_at FROM api_keys
WHERE key_hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2);

-- name: revoke_key
-- Idempotent: the first time of revocation stays.
UPDATE api_keys SET revoked_at = coalesce(revoked_at, $2) WHERE id = $1
RETURNING id, name, prefix, scopes, created_at, created_by, last_used_at, expires_at, revoked_at;

-- name: note_use
-- Written at most once a minute, however many processes see the key used.
UPDATE api_keys SET last_used_at = $2
WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2::timestamptz - interval '1 minute');

-- name: person
-- The user who created the key of this id. If there is no such key, or its user is gone, the id itself, which for a key
-- is nobody's.
SELECT coalesce((SELECT created_by FROM api_keys WHERE id = $1), $1);

-- name: forget
-- Revokes the keys that an erased user created.
UPDATE api_keys SET revoked_at = $2 WHERE created_by = $1 AND revoked_at IS NULL RETURNING id;
