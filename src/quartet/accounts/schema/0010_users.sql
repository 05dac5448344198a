-- migrate:up

CREATE TABLE users (
    id                UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    -- Written in lower case by the shop; the check keeps an import from making two accounts of one address.
    email             TEXT NOT NULL UNIQUE CHECK (email = lower(email COLLATE "C")),
    password_hash     TEXT,
    display_name      TEXT,
    plan              TEXT NOT NULL DEFAULT 'free',
    roles             TEXT[] NOT NULL DEFAULT '{}' CHECK (roles <@ ARRAY['staff', 'admin']),
    created_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    email_verified_at TIMESTAMPTZ,
    -- A new address, until it is verified and replaces the old one.
    pending_email     TEXT CHECK (pending_email = lower(pending_email COLLATE "C")),
    erased_at         TIMESTAMPTZ,
    roles_changed_at  TIMESTAMPTZ,
    -- An erased user keeps a row, for the orders that must be kept. It has no personal data, and none can be written to
    -- it again.
    CONSTRAINT users_erased CHECK (
        erased_at IS NULL
        OR (email = 'erased-' || id || '@erased.invalid' AND roles = '{}'
            AND num_nonnulls(password_hash, display_name, pending_email, email_verified_at) = 0))
);
-- Changes that invalidate access tokens early, by time: they are sent to Redis again after it may have missed some.
CREATE INDEX users_roles_changed ON users (roles_changed_at) WHERE roles_changed_at IS NOT NULL;
-- For the check that an admin is left.
CREATE INDEX users_admins ON users (id) WHERE 'admin' = ANY (roles);
-- For staff who search for users by the beginning of the address.
CREATE INDEX users_by_email ON users (email COLLATE "C");

-- A session is one sign-in. Its refresh token is rotated at every use; only the hash of the latest is stored, and any
-- other token of this session is stolen or outdated.
CREATE TABLE sessions (
    id           UUID PRIMARY KEY,
    user_id      UUID NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    token_hash   BYTEA NOT NULL,
    created_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at   TIMESTAMPTZ NOT NULL,
    ended_at     TIMESTAMPTZ,
    -- For its owner to recognise it: the client's User-Agent, and the network it was last used from.
    user_agent   TEXT CONSTRAINT sessions_user_agent CHECK (length(user_agent) <= 200),
    network      TEXT,
    last_used_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
-- Includes ended sessions, since erasing a user clears the personal data of all of them.
CREATE INDEX sessions_of_person ON sessions (user_id);
CREATE INDEX sessions_age ON sessions (expires_at);
-- For the same purpose as users_roles_changed.
CREATE INDEX sessions_ended ON sessions (ended_at) WHERE ended_at IS NOT NULL;
