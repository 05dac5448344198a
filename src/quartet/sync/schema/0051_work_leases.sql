-- migrate:up

-- Leases: which worker does which piece of work, until when; and a row for each live worker, under its own name.
-- `token` is a fencing token that rises with every new owner: a save with an older one is refused (queries.sql,
-- `save`).
CREATE TABLE work_leases (
    piece  TEXT PRIMARY KEY,
    worker TEXT NOT NULL,
    token  BIGINT NOT NULL DEFAULT 1,
    until  TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 50);
