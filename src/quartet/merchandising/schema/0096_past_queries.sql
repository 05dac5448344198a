-- migrate:up

-- How often a query was searched for on a day, and how often it found something: what is offered to whoever types is
-- drawn from here, and staff's log may be shorter.
CREATE TABLE query_days (
    day      DATE NOT NULL,
    query    TEXT COLLATE "C" NOT NULL,
    searches BIGINT NOT NULL,
    found    BIGINT NOT NULL,
    PRIMARY KEY (day, query)
);
