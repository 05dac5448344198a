-- migrate:up

-- What happened, written in the transaction in which it happened; the worker carries it to the derived stores.
CREATE TABLE outbox (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id   UUID NOT NULL DEFAULT gen_random_uuid(),
    topic      TEXT NOT NULL,
    key        TEXT NOT NULL,
    payload    JSONB NOT NULL DEFAULT '{}',
    attempts   INT NOT NULL DEFAULT 0,
    not_before TIMESTAMPTZ NOT NULL DEFAULT now(),
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
-- The table empties all day long: without this, autovacuum would leave it to bloat until a fifth of it is dead.
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000);
-- Events that were tried and wait; new ones are not in it, so it costs nothing where orders are placed.
CREATE INDEX outbox_waiting ON outbox (key, id) WHERE attempts > 0;

-- What could not be carried out, with the reason, until somebody replays or drops it.
CREATE TABLE dead_letters (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pipeline   TEXT NOT NULL,
    key        TEXT NOT NULL,
    payload    JSONB NOT NULL DEFAULT '{}',
    reason     TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
-- The same thing refused again is the same letter.
CREATE UNIQUE INDEX dead_letters_once ON dead_letters (pipeline, key);
