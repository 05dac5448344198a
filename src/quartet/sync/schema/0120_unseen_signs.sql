-- migrate:up

-- No change here. The search index analyses text differently: invisible characters are ignored.
SELECT 1;
