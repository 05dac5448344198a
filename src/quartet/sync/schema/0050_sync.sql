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
    retries      BIGINT NOT NULL DEFAULT 0,
    updated_at   TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- Rebuilds of the search index, asked for and done. One is open at most.
CREATE TABLE sync_rebuilds (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    state      TEXT NOT NULL DEFAULT 'asked' CHECK (state IN ('asked', 'building', 'done', 'failed')),
    reason     TEXT NOT NULL,
    total      BIGINT NOT NULL DEFAULT 0,
    done       BIGINT NOT NULL DEFAULT 0,
    error      TEXT,
    asked_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
    started_at TIMESTAMPTZ,
    ended_at   TIMESTAMPTZ
);
CREATE UNIQUE INDEX sync_rebuilds_one_open ON sync_rebuilds ((true)) WHERE state IN ('asked', 'building');

-- The same thing refused again is the same letter.
CREATE UNIQUE INDEX dead_letters_once ON dead_letters (pipeline, key);

-- Events that were tried and wait; new ones are not in it, so it costs nothing where orders are placed.
CREATE INDEX outbox_waiting ON outbox (key, id) WHERE attempts > 0;
