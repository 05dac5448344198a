-- migrate:up

-- Baskets from before this day are no longer read, since there are enough later ones: they are deleted and not written
-- again. `baskets` still counts them.
ALTER TABLE bought_together ADD COLUMN since DATE NOT NULL DEFAULT '-infinity';
