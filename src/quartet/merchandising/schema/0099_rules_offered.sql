-- migrate:up

-- Whether the query may be suggested to others, once it has been searched often enough.
ALTER TABLE search_rules ADD COLUMN offered BOOLEAN NOT NULL DEFAULT true;
