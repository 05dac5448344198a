-- migrate:up

-- What helps its owner to recognise a sign-in: what the client calls itself, and the network it was last used from.
ALTER TABLE sessions
    ADD COLUMN user_agent   TEXT CONSTRAINT sessions_user_agent CHECK (length(user_agent) <= 200),
    ADD COLUMN network      TEXT,
    ADD COLUMN last_used_at TIMESTAMPTZ NOT NULL DEFAULT now();
UPDATE sessions SET last_used_at = created_at;

-- A new address takes the old one's place only once it is proved; until then it waits in `pending_email`.
ALTER TABLE users
    ADD COLUMN email_verified_at TIMESTAMPTZ,
    ADD COLUMN pending_email     TEXT CHECK (pending_email = lower(pending_email COLLATE "C"));

-- Links in e-mails, each good once: the hash of its token, and the address that it was sent to and so proves. Of one
-- purpose a user has one at most; a newer one takes its place.
CREATE TABLE mailed_links (
    user_id    UUID NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    purpose    TEXT NOT NULL CHECK (purpose IN ('reset', 'verify')),
    token_hash BYTEA NOT NULL UNIQUE,
    email      TEXT NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (user_id, purpose)
);
INSERT INTO mailed_links (user_id, purpose, token_hash, email, expires_at)
SELECT DISTINCT ON (user_id) user_id, 'reset', token_hash, email, expires_at
FROM password_resets JOIN users ON users.id = user_id
ORDER BY user_id, expires_at DESC;
DROP TABLE password_resets;
CREATE INDEX mailed_links_age ON mailed_links (expires_at);
