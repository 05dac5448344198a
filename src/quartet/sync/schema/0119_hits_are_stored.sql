-- migrate:up

-- No change here. The search index has a new definition: the fields that a hit shows are stored separately.
SELECT 1;
