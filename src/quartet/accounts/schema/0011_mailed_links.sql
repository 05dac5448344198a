-- migrate:up

-- Links in e-mails, each valid once: the hash of its token, and the address that it was sent to, and so verifies. A
-- user has at most one per purpose; a newer one replaces it.
CREATE TABLE mailed_links (
    user_id    UUID NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    purpose    TEXT NOT NULL CHECK (purpose IN ('reset', 'verify')),
    token_hash BYTEA NOT NULL UNIQUE,
    email      TEXT NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (user_id, purpose)
);
CREATE INDEX mailed_links_age ON mailed_links (expires_at);
