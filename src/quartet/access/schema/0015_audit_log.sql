-- migrate:up

-- Staff's actions, written in the same transaction. People are referred to by id only, so that entries can stay when
-- somebody is erased; no foreign keys, since entries outlive what they refer to.
CREATE TABLE audit_log (
    id           BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at           TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    actor        TEXT NOT NULL,              -- a user's id, or `key:` and an API key's id
    action       TEXT NOT NULL,              -- inventory.put, order.ship, …
    subject_kind TEXT NOT NULL,
    subject_id   TEXT NOT NULL,
    before       JSONB,
    after        JSONB,
    request_id   TEXT NOT NULL
);
-- One for each filter of GET /audit-log, in the order of its results.
CREATE INDEX audit_log_at ON audit_log (at, id);
CREATE INDEX audit_log_actor ON audit_log (actor, at, id);
CREATE INDEX audit_log_subject ON audit_log (subject_kind, subject_id, at, id);
CREATE INDEX audit_log_action ON audit_log (action, at, id);

-- Protects against the table's owner too; the shop itself should run as a role without these privileges (app_role.sql).
CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is only ever added to' USING ERRCODE = 'QT007';
END $$;
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change();
