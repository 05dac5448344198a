-- migrate:up

-- Queries to suggest, computed by the worker from query_days: each process reads these few thousand every minute
-- instead of a month of all queries.
CREATE TABLE frequent_queries (
    query    TEXT COLLATE "C" PRIMARY KEY,
    spelt    TEXT NOT NULL,
    searches BIGINT NOT NULL
);
