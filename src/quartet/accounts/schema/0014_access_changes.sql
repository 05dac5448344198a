-- migrate:up

-- What makes access tokens bad before their time, by when it was: Redis is told again what it may not have heard.
ALTER TABLE users ADD COLUMN roles_changed_at TIMESTAMPTZ;
CREATE INDEX users_roles_changed ON users (roles_changed_at) WHERE roles_changed_at IS NOT NULL;
CREATE INDEX sessions_ended ON sessions (ended_at) WHERE ended_at IS NOT NULL;
-- Ended ones too: who is forgotten leaves no trace of any.
CREATE INDEX sessions_of_person ON sessions (user_id);
DROP INDEX sessions_of_user;
