-- migrate:up

-- Keys for staff's own programs. Only the hash is kept; `prefix` is what a key's owner recognises it by.
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

-- Whoever changes roles: an admin is left. Two who take each other's away wait for one another here, and the second
-- sees what the first has done.
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
