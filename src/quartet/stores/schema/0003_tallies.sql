-- migrate:up

-- How often things happened, counted in the transaction in which they did, so that any process can tell Prometheus.
CREATE TABLE tallies (
    name TEXT PRIMARY KEY,
    n    BIGINT NOT NULL
);
