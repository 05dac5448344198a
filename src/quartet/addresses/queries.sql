-- name: lock
-- Serialises changes of one user's addresses, so that exactly one is the default. No row for an erased user.
SELECT id FROM users WHERE id = $1 AND erased_at IS NULL FOR NO KEY UPDATE;

-- name: of_user
-- The default first, then the newest, since ids are ordered by time.
SELECT id, name, line1, line2, city, region, postal_code, country, phone, is_default, created_at, updated_at
FROM addresses WHERE user_id = $1 ORDER BY is_default DESC, id DESC;

-- name: get
SELECT id, name, line1, line2, city, region, postal_code, country, phone, is_default, created_at, updated_at
FROM addresses WHERE id = $1 AND user_id = $2;

-- name: clear_default
-- Before another one is set: the unique index allows only one default at any time.
UPDATE addresses SET is_default = false WHERE user_id = $1 AND is_default;

-- name: insert
-- The first address is always the default. No row if the user has $13 addresses already.
INSERT INTO addresses (id, user_id, name, line1, line2, city, region, postal_code, country, phone, is_default,
                       created_at, updated_at)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10,
       $11 OR NOT EXISTS (SELECT FROM addresses WHERE user_id = $2 AND is_default), $12, $12
WHERE (SELECT count(*) FROM addresses WHERE user_id = $2) < $13
RETURNING id, name, line1, line2, city, region, postal_code, country, phone, is_default, created_at, updated_at;

-- name: update
-- All columns: the fields that a PATCH omits were read under the same lock.
UPDATE addresses
SET name = $3, line1 = $4, line2 = $5, city = $6, region = $7, postal_code = $8, country = $9, phone = $10,
    is_default = $11, updated_at = $12
WHERE id = $1 AND user_id = $2
RETURNING id, name, line1, line2, city, region, postal_code, country, phone, is_default, created_at, updated_at;

-- name: delete
DELETE FROM addresses WHERE id = $1 AND user_id = $2 RETURNING is_default;

-- name: promote
-- After the default was deleted: the newest of the others becomes the default.
UPDATE addresses SET is_default = true
WHERE id = (SELECT id FROM addresses WHERE user_id = $1 ORDER BY id DESC LIMIT 1);

-- name: forget
DELETE FROM addresses WHERE user_id = $1;
