-- migrate:up

-- Search is defined anew: what a hit shows is stored by itself.
SELECT 1;
