-- migrate:up

-- API keys for staff's programs. Only the hash is stored; `prefix` is for the owner to recognise a key.
CREATE TABLE api_keys (
    id           UUID PRIMARY KEY,
    name         TEXT NOT NULL,
    prefix       TEXT NOT NULL,
    key_hash     BYTEA NOT NULL UNIQUE CHECK (length(key_hash) = 32),
    scopes       TEXT[] NOT NULL CHECK (cardinality(scopes) > 0),
    created_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
    created_by   UUID REFERENCES users (id) ON DELETE SET NULL,
    expires_at   TIMESTAMPTZ,
    last_used_at TIMESTAMPTZ,
    revoked_at   TIMESTAMPTZ
);

-- Makes sure that at least one admin is left, whoever changes roles. Two admins who revoke each other's role at the
-- same time take turns here, and the second sees the first's change.
CREATE FUNCTION keep_an_admin() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('the last admin', 0));
    IF NOT EXISTS (SELECT FROM users WHERE 'admin' = ANY (roles)) THEN
        RAISE EXCEPTION 'the last admin stays' USING ERRCODE = 'QT015';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER users_keep_an_admin AFTER UPDATE OF roles ON users
    FOR EACH ROW WHEN ('admin' = ANY (OLD.roles) AND NOT 'admin' = ANY (NEW.roles)) EXECUTE FUNCTION keep_an_admin();
CREATE TRIGGER users_keep_an_admin_there AFTER DELETE ON users
    FOR EACH ROW WHEN ('admin' = ANY (OLD.roles)) EXECUTE FUNCTION keep_an_admin();
