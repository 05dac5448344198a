-- name: next_day
SELECT (min(created_at) AT TIME ZONE 'UTC')::date FROM orders WHERE created_at >= $1;

-- name: count_day
-- Replaces the units sold per SKU on the day that begins at $1; returns how many SKUs have changed. Refunds are not
-- counted as sold: neither refunded orders nor units refunded by line.
WITH sold AS (
    SELECT i.sku, sum(i.quantity - i.refunded_qty) AS units FROM orders o JOIN order_items i ON i.order_id = o.id
    WHERE o.created_at >= $1 AND o.created_at < $1 + interval '1 day' AND o.status IN ('confirmed', 'shipped', 'delivered')
    GROUP BY i.sku HAVING sum(i.quantity - i.refunded_qty) > 0
), gone AS (
    DELETE FROM sold_days d WHERE d.day = ($1 AT TIME ZONE 'UTC')::date
      AND NOT EXISTS (SELECT FROM sold WHERE sold.sku = d.sku)
    RETURNING 1
), put AS (
    INSERT INTO sold_days AS d (day, sku, units)
    SELECT ($1 AT TIME ZONE 'UTC')::date, sku, units FROM sold
    ON CONFLICT (day, sku) DO UPDATE SET units = excluded.units WHERE d.units <> excluded.units
    RETURNING 1
)
SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM put);

-- name: fill_baskets
-- Updates the baskets of that day, and marks SKUs whose baskets have changed as stale. $2: baskets with more SKUs are
-- ignored: they are resellers', and do not show which products go together.
WITH lines AS (
    SELECT i.sku, i.order_id, o.status IN ('confirmed', 'shipped', 'delivered', 'refunded')
                              AND count(*) OVER (PARTITION BY i.order_id) BETWEEN 2 AND $2 AS counts
    -- An imported order may have a SKU on two lines.
    FROM orders o CROSS JOIN LATERAL (SELECT DISTINCT sku, order_id FROM order_items WHERE order_id = o.id) AS i
    WHERE o.created_at >= $1 AND o.created_at < $1 + interval '1 day'
), filled AS (
    INSERT INTO baskets (sku, day, order_id)
    SELECT sku, ($1 AT TIME ZONE 'UTC')::date, order_id FROM lines WHERE counts
      AND NOT EXISTS (SELECT FROM bought_together t WHERE t.sku = lines.sku AND t.since > ($1 AT TIME ZONE 'UTC')::date)
    ON CONFLICT DO NOTHING RETURNING sku
), emptied AS (
    DELETE FROM baskets b USING lines
    WHERE NOT lines.counts AND b.sku = lines.sku AND b.day = ($1 AT TIME ZONE 'UTC')::date
      AND b.order_id = lines.order_id
    RETURNING b.sku
)
INSERT INTO bought_together AS t (sku, baskets)
SELECT sku, sum(n) FROM (SELECT sku, 1 FROM filled UNION ALL SELECT sku, -1 FROM emptied) AS changed(sku, n)
GROUP BY sku ORDER BY sku
ON CONFLICT (sku) DO UPDATE SET baskets = t.baskets + excluded.baskets, stale = true;

-- name: stale
SELECT sku FROM bought_together WHERE stale ORDER BY counted_at LIMIT $1;

-- name: count_together
-- For each SKU: the SKUs bought together with it at least twice, in its latest $2 baskets, of which the best $3 are
-- kept. The count is divided by the root of the other SKU's number of baskets, since what is in every basket is no
-- recommendation; the 10 dampens SKUs with few baskets. `since` becomes the day of the $2-th latest basket, if there
-- are so many.
WITH chosen AS (
    SELECT sku FROM unnest($1::text[]) AS sku
), pairs AS (
    SELECT chosen.sku, other.sku AS other, count(DISTINCT b.order_id) AS times
    FROM chosen
    CROSS JOIN LATERAL (SELECT order_id FROM baskets b WHERE b.sku = chosen.sku ORDER BY day DESC LIMIT $2) AS b
    JOIN order_items other ON other.order_id = b.order_id AND other.sku <> chosen.sku
    GROUP BY 1, 2 HAVING count(DISTINCT b.order_id) > 1
), ranked AS (
    SELECT pairs.sku, other,
           row_number() OVER (PARTITION BY pairs.sku ORDER BY times / sqrt(t.baskets + 10) DESC, other) AS place
    FROM pairs JOIN bought_together t ON t.sku = pairs.other
), best AS (
    SELECT sku, array_agg(other ORDER BY place) AS others FROM ranked WHERE place <= $3 GROUP BY sku
)
UPDATE bought_together t
SET others = coalesce(best.others, '{}'), stale = false, counted_at = now(),
    since = coalesce((SELECT day FROM baskets b WHERE b.sku = t.sku ORDER BY day DESC OFFSET $2 - 1 LIMIT 1), since)
FROM chosen LEFT JOIN best USING (sku) WHERE t.sku = chosen.sku;

-- name: trim_baskets
-- Deletes up to $2 baskets of these SKUs that are too old to be read; any others go when a SKU is counted again.
DELETE FROM baskets WHERE (sku, day, order_id) IN (
    SELECT b.sku, b.day, b.order_id FROM bought_together t JOIN baskets b ON b.sku = t.sku AND b.day < t.since
    WHERE t.sku = ANY ($1::text[]) LIMIT $2
);

-- name: sold_skus
SELECT DISTINCT sku FROM sold_days;

-- name: rank
-- Replaces the $4 best-selling products of each category and period; unchanged rows, which are nearly all, are not
-- written. $2 and $3: SKUs and their products. A product counts in one category, that of its best-selling SKU: a SKU
-- that it had before may still be in another category.
WITH of_sku AS (
    SELECT sku, sum(units) FILTER (WHERE day > $1::date - 2) AS day, sum(units) FILTER (WHERE day > $1::date - 7) AS week,
           sum(units) FILTER (WHERE day > $1::date - 30) AS month,
           sum(units) FILTER (WHERE day > $1::date - 365) AS year, sum(units) AS "all"
    FROM sold_days GROUP BY sku
), of_product AS (
    SELECT period, product_id, sum(p.units)::bigint AS units,
           (array_agg(category ORDER BY p.units DESC, category COLLATE "C" DESC NULLS LAST))[1] AS category
    FROM of_sku JOIN unnest($2::text[], $3::text[]) AS shelf(sku, product_id) USING (sku) JOIN inventory v USING (sku)
    CROSS JOIN LATERAL (
        VALUES ('day', day), ('week', week), ('month', month), ('year', year), ('all', "all")) AS p(period, units)
    WHERE p.units > 0 GROUP BY period, product_id
), placed AS (
    SELECT period, product_id, coalesce(category, '') AS category, units,
           row_number() OVER (PARTITION BY period, category ORDER BY units DESC, product_id COLLATE "C") AS place
    FROM of_product
), given AS (
    SELECT period, product_id, category, units FROM placed WHERE place <= $4
), gone AS (
    DELETE FROM bestsellers AS held
    WHERE NOT EXISTS (SELECT FROM given g WHERE (g.period, g.product_id) = (held.period, held.product_id))
)
INSERT INTO bestsellers AS held SELECT period, product_id, category, units FROM given
ON CONFLICT (period, product_id) DO UPDATE SET category = excluded.category, units = excluded.units
WHERE (held.category, held.units) <> (excluded.category, excluded.units);

-- name: bestsellers
-- $2: only these categories; null: all.
SELECT product_id, units FROM bestsellers WHERE period = $1 AND ($2::text[] IS NULL OR category = ANY ($2))
ORDER BY units DESC, product_id LIMIT $3;

-- name: together
SELECT sku, others FROM bought_together WHERE sku = ANY ($1::text[]);
