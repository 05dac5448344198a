-- migrate:up

-- Who does which piece of the worker's work, until when; and, under its own name, each worker that lives. `token` rises
-- with every new owner: what is saved under an older one is refused (queries.sql, `save`).
CREATE TABLE work_leases (
    piece  TEXT PRIMARY KEY,
    worker TEXT NOT NULL,
    token  BIGINT NOT NULL DEFAULT 1,
    until  TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 50);
