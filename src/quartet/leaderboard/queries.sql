-- name: give
-- Idempotent: the same event again changes nothing and returns no row.
INSERT INTO xp_grants (event_id, user_id, xp, at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING RETURNING event_id;

-- name: grant
SELECT user_id, xp, at FROM xp_grants WHERE event_id = $1;

-- name: grants_since
-- Without erased users.
SELECT event_id, user_id, xp, at FROM xp_grants
WHERE at >= $1 AND EXISTS (SELECT FROM users WHERE users.id = user_id AND erased_at IS NULL);
