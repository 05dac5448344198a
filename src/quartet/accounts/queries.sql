-- name: create_user
-- No row: the address is taken. A conflict that raised would spoil the caller's transaction.
INSERT INTO users (id, email, password_hash, display_name, roles, created_at)
VALUES ($1, $2, $3, $4, $5, coalesce($6, now()))
ON CONFLICT (email) DO NOTHING
RETURNING id, email, display_name, plan, roles, created_at;

-- name: user_by_id
SELECT id, email, password_hash, display_name, plan, roles, created_at FROM users WHERE id = $1;

-- name: user_by_email
SELECT id, email, password_hash, display_name, plan, roles, created_at FROM users WHERE email = $1;

-- name: user_exists
SELECT EXISTS (SELECT FROM users WHERE id = $1);

-- name: known_emails
SELECT email FROM users WHERE email = ANY ($1);

-- name: names
SELECT id, display_name FROM users WHERE id = ANY ($1) AND display_name IS NOT NULL;

-- name: rename
UPDATE users SET display_name = $2 WHERE id = $1
RETURNING id, email, display_name, plan, roles, created_at;

-- name: set_password
-- Takes the user's row first, so that a sign-in with the old password either waits and fails, or is seen and ended.
UPDATE users SET password_hash = $2 WHERE id = $1;

-- name: replace_password
-- Only where it is still the one that was checked: of two changes at once, one is told to try again.
UPDATE users SET password_hash = $3 WHERE id = $1 AND password_hash = $2;

-- name: start_session
-- The row lock is FOR SHARE on purpose: a foreign key's own lock lets a password change pass, and a session opened with
-- the old password would outlive it. No row: the password is no longer the one that was checked.
WITH person AS (
    SELECT id FROM users WHERE id = $2 AND ($6::text IS NULL OR password_hash = $6) FOR SHARE
)
INSERT INTO sessions (id, user_id, token_hash, created_at, expires_at)
SELECT $1, person.id, $3, $4, $5 FROM person
RETURNING id;

-- name: rotate
-- One statement decides: the latest token is exchanged, any other ends the session. Two that come at once with the same
-- token queue on the row, and the second finds it changed.
UPDATE sessions
SET token_hash = CASE WHEN sessions.token_hash = $2 THEN $3 ELSE sessions.token_hash END,
    expires_at = CASE WHEN sessions.token_hash = $2 THEN $5 ELSE sessions.expires_at END,
    ended_at = CASE WHEN sessions.token_hash = $2 THEN NULL ELSE $4::timestamptz END
FROM users
WHERE sessions.id = $1 AND users.id = sessions.user_id AND sessions.ended_at IS NULL AND sessions.expires_at > $4
RETURNING sessions.user_id, users.roles, sessions.ended_at;

-- name: end_session
UPDATE sessions SET ended_at = $2 WHERE id = $1 AND ended_at IS NULL RETURNING id;

-- name: end_sessions
-- All of a user's but one ($3, or none).
UPDATE sessions SET ended_at = $2
WHERE user_id = $1 AND ended_at IS NULL AND id IS DISTINCT FROM $3::uuid
RETURNING id;

-- name: keep_reset
INSERT INTO password_resets (token_hash, user_id, expires_at) VALUES ($1, $2, $3);

-- name: find_reset
SELECT user_id, email FROM password_resets JOIN users ON users.id = user_id
WHERE token_hash = $1 AND expires_at > $2;

-- name: spend_reset
DELETE FROM password_resets WHERE token_hash = $1 AND expires_at > $2 RETURNING user_id;

-- name: drop_resets
DELETE FROM password_resets WHERE user_id = $1;

-- name: sweep_sessions
DELETE FROM sessions WHERE expires_at <= $1;

-- name: sweep_resets
DELETE FROM password_resets WHERE expires_at <= $1;
