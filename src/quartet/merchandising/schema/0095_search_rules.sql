-- migrate:up

-- Synonyms. Without `means`, all of `words` are equivalent; with it, a search for one of `words` also finds `means`,
-- but not the other way round.
CREATE TABLE search_synonyms (
    id         UUID PRIMARY KEY,
    words      TEXT[] NOT NULL CHECK (cardinality(words) BETWEEN 1 AND 20),
    means      TEXT[] NOT NULL CHECK (cardinality(means) <= 20),
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    CHECK (cardinality(words) > 1 OR cardinality(means) > 0)
);

-- Products that staff pin to the top of a query's results, in this order, and those that they hide. SKUs as given, and
-- the products that have them.
CREATE TABLE search_rules (
    id         UUID PRIMARY KEY,
    query      TEXT COLLATE "C" NOT NULL CONSTRAINT search_rules_query UNIQUE,
    pinned     TEXT[] NOT NULL,
    hidden     TEXT[] NOT NULL,
    pinned_ids TEXT[] NOT NULL,
    hidden_ids TEXT[] NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- How much products that sell well for a query are boosted; and `stamp`, by which processes notice a change of this, of
-- a synonym or of a rule.
CREATE TABLE search_ranking (
    only_one    BOOLEAN PRIMARY KEY DEFAULT true CHECK (only_one),
    most_boost  DOUBLE PRECISION NOT NULL DEFAULT 0.25 CHECK (most_boost BETWEEN 0 AND 10),
    least_units INT NOT NULL DEFAULT 5 CHECK (least_units >= 1),
    days        INT NOT NULL DEFAULT 90 CHECK (days BETWEEN 1 AND 3650),
    stamp       BIGINT NOT NULL DEFAULT 1
);
INSERT INTO search_ranking DEFAULT VALUES;
