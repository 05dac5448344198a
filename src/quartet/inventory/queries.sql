-- name: prices
-- One look-up for many SKUs, by primary key.
SELECT sku, name, stock, reserved, unit_price_cents, currency, category, updated_at
FROM inventory WHERE sku = ANY ($1::text[]);

-- name: lock
-- Locks the rows until the transaction ends, ordered by SKU as orders lock them, to prevent deadlocks.
SELECT sku, name, stock, reserved, unit_price_cents, currency, category, updated_at
FROM inventory WHERE sku = ANY ($1::text[]) ORDER BY sku FOR NO KEY UPDATE;

-- name: page
-- In the primary key's order, so that a page needs no sorting of all rows.
SELECT sku, name, stock, reserved, unit_price_cents, currency, category, updated_at
FROM inventory
WHERE sku > $1
  AND ($2::bigint IS NULL OR stock - reserved < $2)
  AND ($3::text IS NULL OR strpos(lower(sku), lower($3)) > 0 OR strpos(lower(name), lower($3)) > 0)
ORDER BY sku LIMIT $4;

-- name: put
-- Inserts or updates a row, without its stock; for a new row, a trigger writes the event. A null category keeps the
-- present one. The old price is read under the row lock, so that concurrent changes each report the price they replace.
WITH old AS MATERIALIZED (
    SELECT unit_price_cents, currency FROM inventory WHERE sku = $1 FOR NO KEY UPDATE
), put AS (
    INSERT INTO inventory (sku, name, unit_price_cents, currency, category)
    SELECT $1, $2, $3::bigint, $4, $5 FROM (SELECT count(*) FROM old) AS seen
    ON CONFLICT (sku) DO UPDATE
        SET name = excluded.name, unit_price_cents = excluded.unit_price_cents, currency = excluded.currency,
            category = coalesce(excluded.category, inventory.category),
            revision = inventory.revision + 1, updated_at = now()
    RETURNING sku, name, stock, reserved, unit_price_cents, currency, category, updated_at, xmax = 0 AS created
), told AS (
    INSERT INTO outbox (topic, key, payload)
    SELECT 'stock.changed', sku, jsonb_build_object('sku', sku) FROM put WHERE NOT created
    UNION ALL
    SELECT 'price.changed', sku, jsonb_build_object(
        'sku', sku, 'old_price_cents', old.unit_price_cents, 'old_currency', old.currency,
        'price_cents', put.unit_price_cents, 'currency', put.currency)
    FROM put CROSS JOIN old
    WHERE (old.unit_price_cents, old.currency) IS DISTINCT FROM (put.unit_price_cents, put.currency)
)
SELECT * FROM put;

-- name: rename
-- The price is left unchanged: the caller may not have seen the latest.
WITH renamed AS (
    UPDATE inventory SET name = $2, category = coalesce($3, category), revision = revision + 1, updated_at = now()
    WHERE sku = $1
    RETURNING sku, name, stock, reserved, unit_price_cents, currency, category, updated_at
), told AS (
    INSERT INTO outbox (topic, key, payload)
    SELECT 'stock.changed', sku, jsonb_build_object('sku', sku) FROM renamed
)
SELECT * FROM renamed;

-- name: move
-- Updates the row, and writes to ledger and outbox, in one statement. No row is returned if there is no such SKU, or
-- the new stock would be below what is reserved or above the maximum.
WITH moved AS (
    UPDATE inventory SET stock = stock + $2::int, revision = revision + 1, updated_at = now()
    WHERE sku = $1 AND stock::bigint + $2 BETWEEN reserved AND 1000000000
    RETURNING sku
), told AS (
    INSERT INTO outbox (topic, key, payload)
    SELECT 'stock.changed', sku, jsonb_build_object('sku', sku) FROM moved
)
INSERT INTO inventory_movements (sku, stock_delta, reason, note, actor)
SELECT sku, $2::int, $3, $4, $5 FROM moved
RETURNING id, sku, stock_delta, reserved_delta, reason, order_id, note, actor, created_at;

-- name: movements
-- Newest first; uses the primary key (sku, id).
SELECT id, sku, stock_delta, reserved_delta, reason, order_id, note, actor, created_at
FROM inventory_movements WHERE sku = $1 AND id < $2 ORDER BY id DESC LIMIT $3;
