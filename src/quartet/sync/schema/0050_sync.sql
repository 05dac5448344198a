-- migrate:up

-- A batch draws its version number before it reads; of two batches the search engine keeps the higher version.
CREATE SEQUENCE sync_version;

-- The position of each pipeline. `caught_up_at`: all changes up to this time have been processed.
CREATE TABLE sync_positions (
    pipeline     TEXT PRIMARY KEY,
    token        JSONB,
    caught_up_at TIMESTAMPTZ,
    batches      BIGINT NOT NULL DEFAULT 0,
    items        BIGINT NOT NULL DEFAULT 0,
    retries      BIGINT NOT NULL DEFAULT 0
);

-- Rebuilds of the search index, of which at most one is open. An interrupted one is resumed by any worker: into
-- `index_name`, from bucket `upto` on.
CREATE TABLE sync_rebuilds (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    state      TEXT NOT NULL DEFAULT 'asked' CHECK (state IN ('asked', 'building', 'done', 'failed')),
    reason     TEXT NOT NULL,
    total      BIGINT NOT NULL DEFAULT 0,
    done       BIGINT NOT NULL DEFAULT 0,
    error      TEXT,
    asked_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
    started_at TIMESTAMPTZ,
    ended_at   TIMESTAMPTZ,
    -- 'new': a new index; 'back': the index that was live before.
    kind       TEXT NOT NULL DEFAULT 'new' CHECK (kind IN ('new', 'back')),
    index_name TEXT,
    upto       INT NOT NULL DEFAULT 0,
    rate       REAL NOT NULL DEFAULT 0,  -- products a second
    -- Products that staff have given up, by dropping the dead letter that blocked the index from going live.
    without    TEXT[] NOT NULL DEFAULT '{}'
);
CREATE UNIQUE INDEX sync_rebuilds_one_open ON sync_rebuilds ((true)) WHERE state IN ('asked', 'building');
