-- migrate:up

-- Whether the query may be offered to those who type, once others have searched for it.
ALTER TABLE search_rules ADD COLUMN offered BOOLEAN NOT NULL DEFAULT true;
