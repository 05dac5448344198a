-- migrate:up

-- Search reads words in another way: invisible characters are none.
SELECT 1;
