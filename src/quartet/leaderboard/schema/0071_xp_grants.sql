-- migrate:up

-- Points given by staff, once per event. Leaderboards can be rebuilt from orders and these.
CREATE TABLE xp_grants (
    event_id TEXT PRIMARY KEY,
    user_id  UUID NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    xp       BIGINT NOT NULL CHECK (xp > 0),
    at       TIMESTAMPTZ NOT NULL
);
CREATE INDEX xp_grants_at ON xp_grants (at);
CREATE INDEX xp_grants_user ON xp_grants (user_id);
