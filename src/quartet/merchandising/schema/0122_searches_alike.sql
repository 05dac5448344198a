-- migrate:up

-- One row stands for the `times` searches of a moment that differ in nothing but their ids: these have the row's id, but
-- for the last 16 bits, which number them from 1. Of earlier rows each is one search, under its own id.
ALTER TABLE searches ADD COLUMN times INT NOT NULL DEFAULT 1 CHECK (times > 0);

-- The row of that search; null for an earlier one, where `search_id` itself is the row's id.
ALTER TABLE search_opens ADD COLUMN entry_id UUID;
