-- migrate:up

-- Other words for words. Without `means` each of `words` stands for every other; with it a search for one of `words` also
-- finds what `means` says, and not the other way round.
CREATE TABLE search_synonyms (
    id         UUID PRIMARY KEY,
    words      TEXT[] NOT NULL CHECK (cardinality(words) BETWEEN 1 AND 20),
    means      TEXT[] NOT NULL CHECK (cardinality(means) <= 20),
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    CHECK (cardinality(words) > 1 OR cardinality(means) > 0)
);

-- What staff put first for a query, in this order, and what they keep out of it. SKUs as they were given, and the
-- products they named.
CREATE TABLE search_rules (
    id         UUID PRIMARY KEY,
    query      TEXT COLLATE "C" NOT NULL CONSTRAINT search_rules_query UNIQUE,
    pinned     TEXT[] NOT NULL,
    hidden     TEXT[] NOT NULL,
    pinned_ids TEXT[] NOT NULL,
    hidden_ids TEXT[] NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- How far what sells for a query may rise; and the stamp that tells every process that any of this has changed.
CREATE TABLE search_ranking (
    only_one    BOOLEAN PRIMARY KEY DEFAULT true CHECK (only_one),
    most_boost  DOUBLE PRECISION NOT NULL DEFAULT 0.25 CHECK (most_boost BETWEEN 0 AND 10),
    least_units INT NOT NULL DEFAULT 5 CHECK (least_units >= 1),
    days        INT NOT NULL DEFAULT 90 CHECK (days BETWEEN 1 AND 3650),
    stamp       BIGINT NOT NULL DEFAULT 1
);
INSERT INTO search_ranking DEFAULT VALUES;
