-- name: prices
-- One look-up of many SKUs by primary key.
SELECT sku, name, stock, reserved, unit_price_cents, currency, category, updated_at
FROM inventory WHERE sku = ANY ($1::text[]);

-- name: lock
-- The rows as they stand, held until the transaction ends; in SKU order, as orders take them.
SELECT sku, name, stock, reserved, unit_price_cents, currency, category, updated_at
FROM inventory WHERE sku = ANY ($1::text[]) ORDER BY sku FOR NO KEY UPDATE;

-- name: page
-- In the primary key's order, so that a page costs what it shows.
SELECT sku, name, stock, reserved, unit_price_cents, currency, category, updated_at
FROM inventory
WHERE sku > $1
  AND ($2::bigint IS NULL OR stock - reserved < $2)
  AND ($3::text IS NULL OR strpos(lower(sku), lower($3)) > 0 OR strpos(lower(name), lower($3)) > 0)
ORDER BY sku LIMIT $4;

-- name: put
-- Stock is left alone; a new row's trigger tells the outbox itself. A null category keeps the one there is. The old price
-- is read under the row's lock, before it is overwritten, so that of two changes at once each tells of its own.
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
-- The price is not touched: whoever renames a product has perhaps not seen the newest.
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
-- Row, ledger and outbox in one statement; no row when there is no such SKU or its stock can't become that.
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
-- Newest first, by the primary key (sku, id).
SELECT id, sku, stock_delta, reserved_delta, reason, order_id, note, actor, created_at
FROM inventory_movements WHERE sku = $1 AND id < $2 ORDER BY id DESC LIMIT $3;
