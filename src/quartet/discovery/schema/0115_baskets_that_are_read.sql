-- migrate:up

-- Baskets of days before are read no more, since there are enough of later ones: they go, and are not filled again.
-- `baskets` counts them all the same.
ALTER TABLE bought_together ADD COLUMN since DATE NOT NULL DEFAULT '-infinity';
