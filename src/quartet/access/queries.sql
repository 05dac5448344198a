-- name: entries
-- Newest first, by audit_log_at.
SELECT id, at, actor, action, subject_kind, subject_id, before, after, request_id FROM audit_log
WHERE (at, id) < ($1, $2) AND at >= $3 AND at < $4
ORDER BY at DESC, id DESC LIMIT $5;

-- name: entries_of_subject
-- By audit_log_subject. The narrowest filter has a query of its own, so that each finds its index; the others are looked
-- at on the way.
SELECT id, at, actor, action, subject_kind, subject_id, before, after, request_id FROM audit_log
WHERE subject_kind = $6 AND subject_id = $7 AND ($8::text IS NULL OR actor = $8) AND ($9::text IS NULL OR action = $9)
  AND (at, id) < ($1, $2) AND at >= $3 AND at < $4
ORDER BY at DESC, id DESC LIMIT $5;

-- name: entries_of_actor
-- By audit_log_actor.
SELECT id, at, actor, action, subject_kind, subject_id, before, after, request_id FROM audit_log
WHERE actor = $6 AND ($7::text IS NULL OR action = $7)
  AND (at, id) < ($1, $2) AND at >= $3 AND at < $4
ORDER BY at DESC, id DESC LIMIT $5;

-- name: entries_of_action
-- By audit_log_action.
SELECT id, at, actor, action, subject_kind, subject_id, before, after, request_id FROM audit_log
WHERE action = $6
  AND (at, id) < ($1, $2) AND at >= $3 AND at < $4
ORDER BY at DESC, id DESC LIMIT $5;

-- name: insert_key
INSERT INTO api_keys (id, name, prefix, key_hash, scopes, created_at, created_by, expires_at)
SELECT $1, $2, $3, $4, $5, $6, id, $8 FROM users WHERE id = $7 AND erased_at IS NULL FOR KEY SHARE
RETURNING id, name, prefix, scopes, created_at, created_by, last_used_at, expires_at, revoked_at;

-- name: keys
-- Newest first: the ids are in the order of time.
SELECT id, name, prefix, scopes, created_at, created_by, last_used_at, expires_at, revoked_at FROM api_keys
WHERE $1::uuid IS NULL OR id < $1
ORDER BY id DESC LIMIT $2;

-- name: good_key
SELECT id, scopes, expires_at, last_used_at FROM api_keys
WHERE key_hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2);

-- name: revoke_key
-- Once or many times the same; the first time stays.
UPDATE api_keys SET revoked_at = coalesce(revoked_at, $2) WHERE id = $1
RETURNING id, name, prefix, scopes, created_at, created_by, last_used_at, expires_at, revoked_at;

-- name: note_use
-- At most once a minute, however many processes saw it.
UPDATE api_keys SET last_used_at = $2
WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2::timestamptz - interval '1 minute');

-- name: person
-- Keys of a person who is gone are nobody's, and so is their id.
SELECT coalesce((SELECT created_by FROM api_keys WHERE id = $1), $1);

-- name: forget
-- Keys that somebody made who is gone open nothing any more.
UPDATE api_keys SET revoked_at = $2 WHERE created_by = $1 AND revoked_at IS NULL RETURNING id;
