-- migrate:up

-- Events, written in the transaction of the change that they report; the worker delivers them to the derived stores.
CREATE TABLE outbox (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id   UUID NOT NULL DEFAULT gen_random_uuid(),
    topic      TEXT NOT NULL,
    key        TEXT NOT NULL,
    payload    JSONB NOT NULL DEFAULT '{}',
    attempts   INT NOT NULL DEFAULT 0,
    not_before TIMESTAMPTZ NOT NULL DEFAULT now(),
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
-- Rows are deleted all the time: by default, autovacuum would wait until a fifth of the table is dead rows.
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000);
-- Events that wait for a retry. New events are not in it, so that it costs nothing when orders are placed.
CREATE INDEX outbox_waiting ON outbox (key, id) WHERE attempts > 0;

-- Items that could not be processed, with the reason, until somebody replays or drops them.
CREATE TABLE dead_letters (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pipeline   TEXT NOT NULL,
    key        TEXT NOT NULL,
    payload    JSONB NOT NULL DEFAULT '{}',
    reason     TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
-- One letter per item, however often it fails.
CREATE UNIQUE INDEX dead_letters_once ON dead_letters (pipeline, key);
