-- migrate:up

-- How long it took until what was written was found: how many times up to `bound` seconds and past the bound before, and
-- how many seconds those were in all; by the minute, and what is old in one row under the epoch.
CREATE TABLE sync_freshness (
    what    TEXT NOT NULL,
    minute  TIMESTAMPTZ NOT NULL,
    bound   DOUBLE PRECISION NOT NULL,
    n       BIGINT NOT NULL,
    seconds DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (what, minute, bound)
) WITH (fillfactor = 50);

-- The canary's songs, each the milliseconds since 1970 at which it was sung: the newest, and the newest that was found.
CREATE TABLE sync_canary (
    what TEXT PRIMARY KEY,
    sung BIGINT NOT NULL,
    heard BIGINT NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
