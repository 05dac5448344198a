-- migrate:up

-- Who gave money back is named as everywhere: a user's id, `guest`, or `key:` and an API key's id, which stood here bare.
ALTER TABLE payment_refunds RENAME COLUMN by_user TO actor;
ALTER TABLE payment_refunds ALTER COLUMN actor TYPE TEXT;
UPDATE payment_refunds SET actor = 'key:' || actor WHERE actor IN (SELECT id::text FROM api_keys);
