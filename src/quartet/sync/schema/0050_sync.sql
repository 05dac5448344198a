-- migrate:up

-- A batch draws its number before it reads; the search engine keeps, of two batches, the one with the higher number.
CREATE SEQUENCE sync_version;

-- How far each pipeline is. `caught_up_at`: everything that had happened by then has been carried over.
CREATE TABLE sync_positions (
    pipeline     TEXT PRIMARY KEY,
    token        JSONB,
    caught_up_at TIMESTAMPTZ,
    batches      BIGINT NOT NULL DEFAULT 0,
    items        BIGINT NOT NULL DEFAULT 0,
    retries      BIGINT NOT NULL DEFAULT 0
);

-- Rebuilds of the search index, asked for and done. One is open at most. One that was cut short goes on where it was, by
-- whichever worker: into `index_name`, from bucket `upto` on.
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
    -- A new index, or back to the one that was live before.
    kind       TEXT NOT NULL DEFAULT 'new' CHECK (kind IN ('new', 'back')),
    index_name TEXT,
    upto       INT NOT NULL DEFAULT 0,
    rate       REAL NOT NULL DEFAULT 0,  -- products a second
    -- Products that staff gave up, by dropping the dead letter that kept the index from going live.
    without    TEXT[] NOT NULL DEFAULT '{}'
);
CREATE UNIQUE INDEX sync_rebuilds_one_open ON sync_rebuilds ((true)) WHERE state IN ('asked', 'building');
