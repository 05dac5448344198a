-- migrate:up

-- Counters, updated in the transaction of what they count, so that any process can report them to Prometheus.
CREATE TABLE tallies (
    name TEXT PRIMARY KEY,
    n    BIGINT NOT NULL
);
