-- migrate:up

-- `exact`: what was found has all of its words as they are; of what was logged before nobody can tell. `spelt`: as it was
-- typed, with its accents, where that is another text. From now on `found` of query_days counts what was found exactly.
ALTER TABLE searches ADD COLUMN exact BOOLEAN NOT NULL DEFAULT false, ADD COLUMN spelt TEXT;
ALTER TABLE query_days ADD COLUMN spelt TEXT;
