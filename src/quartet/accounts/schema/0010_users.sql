-- migrate:up

CREATE TABLE users (
    id            UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    -- Written in lower case by the shop; the check keeps an import from making two accounts of one address.
    email         TEXT NOT NULL UNIQUE CHECK (email = lower(email COLLATE "C")),
    password_hash TEXT,
    display_name  TEXT,
    plan          TEXT NOT NULL DEFAULT 'free',
    roles         TEXT[] NOT NULL DEFAULT '{}' CHECK (roles <@ ARRAY['staff', 'admin']),
    created_at    TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- A session is one sign-in. Its refresh token changes at every use; only the hash of the latest is kept, and any other
-- one that names this session is a stolen or a stale one.
CREATE TABLE sessions (
    id         UUID PRIMARY KEY,
    user_id    UUID NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    token_hash BYTEA NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at TIMESTAMPTZ NOT NULL,
    ended_at   TIMESTAMPTZ
);
CREATE INDEX sessions_of_user ON sessions (user_id) WHERE ended_at IS NULL;
CREATE INDEX sessions_age ON sessions (expires_at);

CREATE TABLE password_resets (
    token_hash BYTEA PRIMARY KEY,
    user_id    UUID NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    expires_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX password_resets_of_user ON password_resets (user_id);
