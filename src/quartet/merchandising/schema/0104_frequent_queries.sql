-- migrate:up

-- What is offered to whoever types, as the worker drew it from query_days: each process reads these few thousand every
-- minute, and not a month of all queries.
CREATE TABLE frequent_queries (
    query    TEXT COLLATE "C" PRIMARY KEY,
    spelt    TEXT NOT NULL,
    searches BIGINT NOT NULL
);
