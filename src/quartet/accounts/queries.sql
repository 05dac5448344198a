-- name: create_user
-- Returns no row if the address is taken. A unique violation would abort the caller's transaction.
INSERT INTO users (id, email, password_hash, display_name, roles, created_at)
VALUES ($1, $2, $3, $4, $5, coalesce($6, now()))
ON CONFLICT (email) DO NOTHING
RETURNING id, email, display_name, plan, roles, created_at, email_verified_at, pending_email;

-- name: user_by_id
SELECT id, email, password_hash, display_name, plan, roles, created_at, email_verified_at, pending_email FROM users
WHERE id = $1 AND erased_at IS NULL;

-- name: user_by_email
SELECT id, email, password_hash, display_name, plan, roles, created_at, email_verified_at, pending_email FROM users WHERE email = $1;

-- name: user_exists
SELECT EXISTS (SELECT FROM users WHERE id = $1 AND erased_at IS NULL);

-- name: address
SELECT CASE WHEN $2 THEN coalesce(pending_email, email) ELSE email END FROM users WHERE id = $1 AND erased_at IS NULL;

-- name: known_emails
SELECT email FROM users WHERE email = ANY ($1);

-- name: names
SELECT id, display_name FROM users WHERE id = ANY ($1) AND display_name IS NOT NULL;

-- name: rename
UPDATE users SET display_name = $2 WHERE id = $1 AND erased_at IS NULL
RETURNING id, email, display_name, plan, roles, created_at, email_verified_at, pending_email;

-- name: set_password
-- Locks the user's row first: a concurrent sign-in with the old password either waits for it and fails, or comes before
-- and has its session ended.
UPDATE users SET password_hash = $2 WHERE id = $1 AND erased_at IS NULL;

-- name: replace_password
-- Only if it is still the password that was checked: of two concurrent changes one fails and is to be retried.
UPDATE users SET password_hash = $3 WHERE id = $1 AND password_hash = $2;

-- name: start_session
-- FOR SHARE on purpose: the foreign key's lock (FOR KEY SHARE) does not block a password change, and a session opened
-- with the old password would outlive it. Returns no row if the password is no longer the one that was checked.
WITH person AS (
    SELECT id FROM users WHERE id = $2 AND erased_at IS NULL AND ($6::text IS NULL OR password_hash = $6) FOR SHARE
)
INSERT INTO sessions (id, user_id, token_hash, created_at, last_used_at, expires_at, user_agent, network)
SELECT $1, person.id, $3, $4, $4, $5, $7, $8 FROM person
RETURNING id;

-- name: rotate
-- Atomic: the latest refresh token is exchanged, any other ends the session. Of two concurrent requests with the same
-- token the second waits for the row lock and finds it changed.
UPDATE sessions
SET token_hash = CASE WHEN sessions.token_hash = $2 THEN $3 ELSE sessions.token_hash END,
    expires_at = CASE WHEN sessions.token_hash = $2 THEN $5 ELSE sessions.expires_at END,
    last_used_at = CASE WHEN sessions.token_hash = $2 THEN $4 ELSE sessions.last_used_at END,
    user_agent = CASE WHEN sessions.token_hash = $2 THEN $6 ELSE sessions.user_agent END,
    network = CASE WHEN sessions.token_hash = $2 THEN $7 ELSE sessions.network END,
    ended_at = CASE WHEN sessions.token_hash = $2 THEN NULL ELSE $4::timestamptz END
FROM users
WHERE sessions.id = $1 AND users.id = sessions.user_id AND sessions.ended_at IS NULL AND sessions.expires_at > $4
RETURNING sessions.user_id, users.roles, sessions.ended_at;

-- name: sessions
-- Active sessions, the newest sign-in first, since ids are ordered by time.
SELECT id, created_at, last_used_at, expires_at, user_agent, network FROM sessions
WHERE user_id = $1 AND ended_at IS NULL AND expires_at > $2 AND ($3::uuid IS NULL OR id < $3)
ORDER BY id DESC LIMIT $4;

-- name: end_session
UPDATE sessions SET ended_at = $2 WHERE id = $1 AND ended_at IS NULL RETURNING id;

-- name: end_own_session
-- Only if it is this user's; returns no row if there is no active session to end.
UPDATE sessions SET ended_at = $3
WHERE id = $1 AND user_id = $2 AND ended_at IS NULL AND expires_at > $3
RETURNING id;

-- name: end_sessions
-- All sessions of a user except $3; null: all.
UPDATE sessions SET ended_at = $2
WHERE user_id = $1 AND ended_at IS NULL AND id IS DISTINCT FROM $3::uuid
RETURNING id;

-- name: ask_reset
-- For an unknown address an event is written too, without a user, which is then ignored: so the response time does not
-- reveal whether there is an account.
INSERT INTO outbox (topic, key, payload)
SELECT 'user.reset_asked', coalesce(users.id, gen_random_uuid())::text, jsonb_build_object('user_id', users.id)
FROM (SELECT $1::text AS email) AS asked LEFT JOIN users USING (email);

-- name: mint_reset
-- Replaces an older link. Returns no row if the address is no longer this user's. The name is only returned if the
-- address is verified: else a stranger could choose text that others read in the shop's e-mails. Locked FOR KEY SHARE,
-- so that no link is left of a user who is being erased.
WITH person AS (
    SELECT id, email, CASE WHEN email_verified_at IS NOT NULL THEN display_name END AS display_name
    FROM users WHERE id = $1 AND email = $4 AND erased_at IS NULL FOR KEY SHARE
),
link AS (
    INSERT INTO mailed_links (user_id, purpose, token_hash, email, expires_at)
    SELECT id, 'reset', $2, email, $3 FROM person
    ON CONFLICT (user_id, purpose) DO UPDATE
        SET token_hash = excluded.token_hash, email = excluded.email, expires_at = excluded.expires_at
)
SELECT coalesce(display_name, '') FROM person;

-- name: mint_verification
-- For the address to be verified, and therefore without a name. Returns no row if it is not $4 any more.
WITH person AS (
    SELECT id, coalesce(pending_email, email) AS email FROM users
    WHERE id = $1 AND coalesce(pending_email, email) = $4 AND erased_at IS NULL
      AND (pending_email IS NOT NULL OR email_verified_at IS NULL)
    FOR KEY SHARE
),
link AS (
    INSERT INTO mailed_links (user_id, purpose, token_hash, email, expires_at)
    SELECT id, 'verify', $2, email, $3 FROM person
    ON CONFLICT (user_id, purpose) DO UPDATE
        SET token_hash = excluded.token_hash, email = excluded.email, expires_at = excluded.expires_at
)
SELECT '' FROM person;

-- name: find_link
SELECT user_id, email FROM mailed_links WHERE token_hash = $1 AND purpose = $2 AND expires_at > $3;

-- name: spend_link
DELETE FROM mailed_links WHERE token_hash = $1 AND purpose = $2 AND expires_at > $3 RETURNING user_id;

-- name: want_email
-- Stores the address in `pending_email` until it is verified; the account's present address cancels a pending change.
-- Returns no row if another account has the address.
UPDATE users SET pending_email = nullif($2, email)
WHERE id = $1 AND erased_at IS NULL AND NOT EXISTS (SELECT FROM users AS other WHERE other.email = $2 AND other.id <> $1)
RETURNING id, email, display_name, plan, roles, created_at, email_verified_at, pending_email;

-- name: drop_resets_elsewhere
-- After a change of address: links sent to the old mailbox must not open the account.
DELETE FROM mailed_links WHERE user_id = $1 AND purpose = 'reset' AND email <> $2;

-- name: drop_resets
DELETE FROM mailed_links WHERE user_id = $1 AND purpose = 'reset';

-- name: drop_email_change
-- Somebody who knew the old password may have requested it: the link in their mailbox must not take over the account.
UPDATE users SET pending_email = NULL WHERE id = $1 AND pending_email IS NOT NULL;

-- name: lock_password
-- Locks the user's row, so that the password stays until the transaction ends. Returns no row if it has changed.
SELECT id FROM users WHERE id = $1 AND password_hash = $2 FOR NO KEY UPDATE;

-- name: verified_email
SELECT email FROM users WHERE id = $1 AND email_verified_at IS NOT NULL;

-- name: prove_email
-- The address to which the link was sent is verified and becomes the account's, if it is still its present or pending
-- address.
UPDATE users
SET email = $2, pending_email = nullif(pending_email, $2),
    email_verified_at = CASE WHEN email = $2 THEN coalesce(email_verified_at, $3) ELSE $3 END
WHERE id = $1 AND (email = $2 OR pending_email = $2)
RETURNING id;

-- name: sweep_sessions
DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_at <= $1 LIMIT 5000);

-- name: sweep_links
DELETE FROM mailed_links
WHERE token_hash IN (SELECT token_hash FROM mailed_links WHERE expires_at <= $1 LIMIT 5000);

-- name: by_email
-- Users by prefix of the address, in the index's order, so that only the page's rows are read. chr(1114111) is the
-- highest character there is.
SELECT id, email, password_hash, display_name, plan, roles, created_at, email_verified_at, pending_email FROM users
WHERE email COLLATE "C" > $2 AND email COLLATE "C" >= $1 AND email COLLATE "C" < $1 || chr(1114111)
  AND erased_at IS NULL
ORDER BY email COLLATE "C" LIMIT $3;

-- name: lock_user
SELECT id, email, password_hash, display_name, plan, roles, created_at, email_verified_at, pending_email FROM users
WHERE id = $1 AND erased_at IS NULL FOR NO KEY UPDATE;

-- name: set_roles
-- A trigger makes sure that at least one admin is left.
UPDATE users SET roles = $2, roles_changed_at = $3 WHERE id = $1
RETURNING id, email, display_name, plan, roles, created_at, email_verified_at, pending_email;

-- name: roles_of_session
SELECT users.roles FROM sessions JOIN users ON users.id = sessions.user_id
WHERE sessions.id = $1 AND sessions.ended_at IS NULL AND sessions.expires_at > $2;

-- name: sessions_ended_since
SELECT user_id, id FROM sessions WHERE ended_at >= $1;

-- name: roles_changed_since
SELECT id, roles FROM users WHERE roles_changed_at >= $1;

-- name: extend_session
-- Sliding expiry: extends a browser session at each use. Returns no row if it has ended.
UPDATE sessions SET expires_at = $3, last_used_at = $2 FROM users
WHERE sessions.id = $1 AND users.id = sessions.user_id AND sessions.ended_at IS NULL AND sessions.expires_at > $2
RETURNING users.roles;

-- name: session_began
SELECT created_at FROM sessions WHERE id = $1 AND ended_at IS NULL;

-- name: erase
-- The row stays, since orders refer to it; a constraint prevents personal data from being written to it again.
UPDATE users
SET email = 'erased-' || id || '@erased.invalid', pending_email = NULL, email_verified_at = NULL, password_hash = NULL,
    display_name = NULL, plan = 'free', roles = '{}', erased_at = $2
WHERE id = $1 AND erased_at IS NULL
RETURNING id;

-- name: erase_sessions
-- Ends the sessions; the rows stay until they expire, since their access tokens have to be refused until then.
UPDATE sessions SET ended_at = coalesce(ended_at, $2), user_agent = NULL, network = NULL WHERE user_id = $1
RETURNING id;

-- name: sessions_of_erased
SELECT sessions.id FROM sessions JOIN users ON users.id = user_id WHERE user_id = $1 AND erased_at IS NOT NULL;

-- name: drop_links
DELETE FROM mailed_links WHERE user_id = $1;
