-- migrate:up

-- A histogram of how long it took until a change was visible in search: `n` observations up to `bound` seconds (and
-- above the next lower bound) and their sum in seconds; per minute, and old ones summed up in one row dated to the
-- epoch.
CREATE TABLE sync_freshness (
    what    TEXT NOT NULL,
    minute  TIMESTAMPTZ NOT NULL,
    bound   DOUBLE PRECISION NOT NULL,
    n       BIGINT NOT NULL,
    seconds DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (what, minute, bound)
) WITH (fillfactor = 50);

-- The canary product's marks, in milliseconds since 1970: the last one written (`sung`), and the last found (`heard`).
CREATE TABLE sync_canary (
    what TEXT PRIMARY KEY,
    sung BIGINT NOT NULL,
    heard BIGINT NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
