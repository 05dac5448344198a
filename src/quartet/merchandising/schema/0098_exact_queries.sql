-- migrate:up

-- `exact`: the hits have all words of the query as typed; unknown for earlier searches. `spelt`: the query as typed,
-- with accents, if that differs. From now on `found` of query_days counts exact searches.
ALTER TABLE searches ADD COLUMN exact BOOLEAN NOT NULL DEFAULT false, ADD COLUMN spelt TEXT;
ALTER TABLE query_days ADD COLUMN spelt TEXT;
