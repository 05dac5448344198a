-- name: revenue
-- Gross revenue counts on the day of the order, refunds on the day of the refund, so that past months never change.
-- Cancelled orders are left out, and so are their refunds. The row without a key is the total, in which an order counts
-- once even if it belongs to several groups. $1: currency, $2 and $3: from and before, $4: grouping, $5: limit.
-- A year of half a million lines takes a second or two, because keys are computed once per occasion (a sale, refund or
-- credit) and lines are summed up by order before they are grouped. NOT MATERIALIZED, since PostgreSQL would by default
-- materialise the occasions, which are read four times, and misestimate their number.
-- A customer is a user, or a guest's e-mail address; '' for erased guests.
WITH occasions AS NOT MATERIALIZED (
    SELECT 'sale' AS kind, id, created_at AS at, coalesce(user_id::text, email, '') AS customer FROM orders
    WHERE status IN ('confirmed', 'shipped', 'delivered', 'refunded')
      AND currency = $1 AND created_at >= $2 AND created_at < $3
    UNION ALL
    SELECT 'refund', r.id, r.at, coalesce(o.user_id::text, o.email, '') FROM refunds r JOIN orders o ON o.id = r.order_id
    WHERE o.status <> 'cancelled' AND r.currency = $1 AND r.at >= $2 AND r.at < $3
    UNION ALL
    SELECT 'credit', id, at, user_id::text FROM credits WHERE currency = $1 AND at >= $2 AND at < $3
), keyed AS NOT MATERIALIZED (
    SELECT kind, id, CASE $4
               WHEN 'day' THEN to_char(at, 'YYYY-MM-DD')
               WHEN 'week' THEN to_char(at, 'IYYY-"W"IW')
               WHEN 'month' THEN to_char(at, 'YYYY-MM')
               WHEN 'customer' THEN customer
           END AS key
    FROM occasions
), facts AS (
    SELECT key, order_id, sku, quantity AS units, quantity * unit_price_cents AS gross, 0::bigint AS refunded
    FROM keyed JOIN order_items line ON kind = 'sale' AND line.order_id = keyed.id
    UNION ALL
    SELECT key, NULL, part.sku, 0, 0, part.amount_cents
    FROM keyed JOIN refund_items part ON kind = 'refund' AND part.refund_id = keyed.id
    UNION ALL
    SELECT key, NULL, c.sku, 0, 0, c.amount_cents FROM keyed JOIN credits c ON kind = 'credit' AND c.id = keyed.id
), by_order AS (
    SELECT coalesce(key, CASE $4 WHEN 'product' THEN facts.sku ELSE coalesce(category, '') END) AS key, order_id,
           sum(units) AS units, sum(gross) AS gross, sum(refunded) AS refunded
    FROM facts JOIN inventory USING (sku) GROUP BY 1, 2
), grouped AS (
    SELECT key, count(order_id) AS orders, sum(units)::bigint AS units, sum(gross) AS gross, sum(refunded) AS refunded
    FROM by_order GROUP BY key
), shown AS (
    SELECT * FROM grouped
    ORDER BY CASE WHEN $4 IN ('day', 'week', 'month') THEN key END DESC NULLS LAST, gross - refunded DESC, key
    LIMIT $5
), total AS (
    SELECT NULL, (SELECT count(*) FROM keyed WHERE kind = 'sale'), sum(units)::bigint, sum(gross), sum(refunded)
    FROM grouped
)
SELECT picked.*,
       CASE $4
           WHEN 'week' THEN 'week of ' || to_char(to_date(key, 'IYYY-"W"IW'), 'YYYY-MM-DD')
           WHEN 'month' THEN to_char(to_date(key, 'YYYY-MM'), 'FMMonth YYYY')
           WHEN 'product' THEN (SELECT name FROM inventory WHERE sku = key)
           WHEN 'category' THEN CASE key WHEN '' THEN 'no category' ELSE key END
           WHEN 'customer' THEN CASE
               WHEN key = '' THEN 'forgotten guests'
               WHEN strpos(key, '@') > 0 THEN key
               ELSE (SELECT CASE WHEN erased_at IS NULL THEN coalesce(display_name, email) ELSE 'forgotten customer' END
                     FROM users WHERE id = key::uuid)
           END
           ELSE key
       END AS label
FROM (SELECT * FROM shown UNION ALL SELECT * FROM total) AS picked;

-- name: stock_totals
-- Stock times price is numeric: a thousand million units at the highest price overflow BIGINT.
SELECT count(*) AS skus, coalesce(sum(stock), 0) AS stock, coalesce(sum(reserved), 0) AS reserved,
       coalesce(sum(stock::numeric * unit_price_cents), 0) AS value_cents,
       coalesce(sum(reserved::numeric * unit_price_cents), 0) AS reserved_value_cents,
       count(*) FILTER (WHERE stock - reserved < $2) AS low_stock_skus
FROM inventory WHERE currency = $1;

-- name: low_stock
-- The lowest stock first, with the units sold since $3: those orders are read once, not once per SKU.
WITH low AS MATERIALIZED (
    SELECT sku, name, stock, reserved, stock - reserved AS available, unit_price_cents
    FROM inventory WHERE currency = $1 AND stock - reserved < $2
    ORDER BY stock - reserved, sku LIMIT $4
), sold AS (
    SELECT i.sku, sum(i.quantity)::bigint AS sold FROM orders o JOIN order_items i ON i.order_id = o.id
    WHERE o.created_at >= $3 AND o.status IN ('confirmed', 'shipped', 'delivered', 'refunded')
      AND i.sku IN (SELECT sku FROM low)
    GROUP BY i.sku
)
SELECT low.*, coalesce(sold.sold, 0) AS sold FROM low LEFT JOIN sold ON sold.sku = low.sku
ORDER BY low.available, low.sku;

-- name: best_sellers
-- The SKUs that sold best since $2, with their present stock and the units sold of all SKUs.
SELECT v.sku, v.name, v.stock, v.reserved, v.stock - v.reserved AS available, v.unit_price_cents,
       sold.sold, sold.all_sold
FROM (SELECT i.sku, sum(i.quantity)::bigint AS sold, (sum(sum(i.quantity)) OVER ())::bigint AS all_sold
      FROM orders o JOIN order_items i ON i.order_id = o.id
      WHERE o.currency = $1 AND o.created_at >= $2 AND o.status IN ('confirmed', 'shipped', 'delivered', 'refunded')
      GROUP BY i.sku) AS sold
JOIN inventory v ON v.sku = sold.sku
ORDER BY sold.sold DESC, v.sku LIMIT $3;
