-- migrate:up

-- How often a query was searched per day, and how often with results. Suggestions are computed from this, so that the
-- search log may be kept for a shorter time.
CREATE TABLE query_days (
    day      DATE NOT NULL,
    query    TEXT COLLATE "C" NOT NULL,
    searches BIGINT NOT NULL,
    found    BIGINT NOT NULL,
    PRIMARY KEY (day, query)
);
