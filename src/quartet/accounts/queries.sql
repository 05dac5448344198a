-- name: create_user
-- No row: the address is taken. A conflict that raised would spoil the caller's transaction.
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
-- Takes the user's row first, so that a sign-in with the old password either waits and fails, or is seen and ended.
UPDATE users SET password_hash = $2 WHERE id = $1 AND erased_at IS NULL;

-- name: replace_password
-- Only where it is still the one that was checked: of two changes at once, one is told to try again.
UPDATE users SET password_hash = $3 WHERE id = $1 AND password_hash = $2;

-- name: start_session
-- The row lock is FOR SHARE on purpose: a foreign key's own lock lets a password change pass, and a session opened with
-- the old password would outlive it. No row: the password is no longer the one that was checked.
WITH person AS (
    SELECT id FROM users WHERE id = $2 AND erased_at IS NULL AND ($6::text IS NULL OR password_hash = $6) FOR SHARE
)
INSERT INTO sessions (id, user_id, token_hash, created_at, last_used_at, expires_at, user_agent, network)
SELECT $1, person.id, $3, $4, $4, $5, $7, $8 FROM person
RETURNING id;

-- name: rotate
-- One statement decides: the latest token is exchanged, any other ends the session. Two that come at once with the same
-- token queue on the row, and the second finds it changed.
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
-- Those that still open something, the newest sign-in first: ids go by time.
SELECT id, created_at, last_used_at, expires_at, user_agent, network FROM sessions
WHERE user_id = $1 AND ended_at IS NULL AND expires_at > $2 AND ($3::uuid IS NULL OR id < $3)
ORDER BY id DESC LIMIT $4;

-- name: end_session
UPDATE sessions SET ended_at = $2 WHERE id = $1 AND ended_at IS NULL RETURNING id;

-- name: end_own_session
-- Only its owner's; no row: there is none to end.
UPDATE sessions SET ended_at = $3
WHERE id = $1 AND user_id = $2 AND ended_at IS NULL AND expires_at > $3
RETURNING id;

-- name: end_sessions
-- All of a user's but one ($3, or none).
UPDATE sessions SET ended_at = $2
WHERE user_id = $1 AND ended_at IS NULL AND id IS DISTINCT FROM $3::uuid
RETURNING id;

-- name: ask_reset
-- Of an unknown address an event is written too, which nobody answers: the call takes as long either way.
INSERT INTO outbox (topic, key, payload)
SELECT 'user.reset_asked', coalesce(users.id, gen_random_uuid())::text, jsonb_build_object('user_id', users.id)
FROM (SELECT $1::text AS email) AS asked LEFT JOIN users USING (email);

-- name: mint_reset
-- A newer link takes the older one's place. No row: the address is not this user's any more. The name goes along only
-- where the address is proved: else it is a stranger who chose the words that somebody else reads in a mail of ours.
-- Locked as a foreign key does: whoever is just being forgotten has no link left behind.
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
-- To the address that waits to be proved, and so without a name. No row: another one does by now, or none.
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
-- Waits in `pending_email` until it is proved; the account's own address takes back a change under way. No row: somebody
-- has it already.
UPDATE users SET pending_email = nullif($2, email)
WHERE id = $1 AND erased_at IS NULL AND NOT EXISTS (SELECT FROM users AS other WHERE other.email = $2 AND other.id <> $1)
RETURNING id, email, display_name, plan, roles, created_at, email_verified_at, pending_email;

-- name: drop_resets_elsewhere
-- A mailbox that is the account's no longer opens it no longer.
DELETE FROM mailed_links WHERE user_id = $1 AND purpose = 'reset' AND email <> $2;

-- name: drop_resets
DELETE FROM mailed_links WHERE user_id = $1 AND purpose = 'reset';

-- name: drop_email_change
-- Whoever knew the old password may have asked for it: the link in their mailbox must not take the account away.
UPDATE users SET pending_email = NULL WHERE id = $1 AND pending_email IS NOT NULL;

-- name: hold_password
-- No row: it is another one by now. It stays until the transaction ends.
SELECT id FROM users WHERE id = $1 AND password_hash = $2 FOR NO KEY UPDATE;

-- name: proven_email
SELECT email FROM users WHERE id = $1 AND email_verified_at IS NOT NULL;

-- name: prove_email
-- The address that the link was sent to is the user's, and from now on the account's: only while the account still has
-- it, or still wants it.
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
-- In the index's order, so that a page costs what it shows. An address has no character beyond chr(1114111).
SELECT id, email, password_hash, display_name, plan, roles, created_at, email_verified_at, pending_email FROM users
WHERE email COLLATE "C" > $2 AND email COLLATE "C" >= $1 AND email COLLATE "C" < $1 || chr(1114111)
  AND erased_at IS NULL
ORDER BY email COLLATE "C" LIMIT $3;

-- name: lock_user
SELECT id, email, password_hash, display_name, plan, roles, created_at, email_verified_at, pending_email FROM users
WHERE id = $1 AND erased_at IS NULL FOR NO KEY UPDATE;

-- name: set_roles
-- A trigger keeps one admin at least.
UPDATE users SET roles = $2, roles_changed_at = $3 WHERE id = $1
RETURNING id, email, display_name, plan, roles, created_at, email_verified_at, pending_email;

-- name: roles_of_session
SELECT users.roles FROM sessions JOIN users ON users.id = sessions.user_id
WHERE sessions.id = $1 AND sessions.ended_at IS NULL AND sessions.expires_at > $2;

-- name: sessions_ended_since
SELECT user_id, id FROM sessions WHERE ended_at >= $1;

-- name: roles_changed_since
SELECT id, roles FROM users WHERE roles_changed_at >= $1;

-- name: slide
-- A page is used, and its session lives on from now. No row: it has ended.
UPDATE sessions SET expires_at = $3, last_used_at = $2 FROM users
WHERE sessions.id = $1 AND users.id = sessions.user_id AND sessions.ended_at IS NULL AND sessions.expires_at > $2
RETURNING users.roles;

-- name: session_began
SELECT created_at FROM sessions WHERE id = $1 AND ended_at IS NULL;

-- name: erase
-- The row stays for the orders that name it; a constraint keeps it from ever saying again who it was.
UPDATE users
SET email = 'erased-' || id || '@erased.invalid', pending_email = NULL, email_verified_at = NULL, password_hash = NULL,
    display_name = NULL, plan = 'free', roles = '{}', erased_at = $2
WHERE id = $1 AND erased_at IS NULL
RETURNING id;

-- name: erase_sessions
-- Ended, and kept until they run out, since their access tokens have to be refused until then.
UPDATE sessions SET ended_at = coalesce(ended_at, $2), user_agent = NULL, network = NULL WHERE user_id = $1
RETURNING id;

-- name: sessions_of_erased
SELECT sessions.id FROM sessions JOIN users ON users.id = user_id WHERE user_id = $1 AND erased_at IS NOT NULL;

-- name: drop_links
DELETE FROM mailed_links WHERE user_id = $1;
