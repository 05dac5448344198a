-- name: write_searches
-- Idempotent, so it can be retried after a timeout.
INSERT INTO searches (id, at, times, query, spelt, found, exact)
SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::int[], $4::text[], $5::text[], $6::int[], $7::bool[])
ON CONFLICT DO NOTHING;

-- name: write_opens
-- A page that is reloaded counts as opened once. A search of before 0122 has a row under its own id.
INSERT INTO search_opens (search_id, entry_id, product_id, at)
SELECT search_id, CASE WHEN search_id = entry_id OR NOT EXISTS (SELECT FROM searches WHERE id = search_id)
                       THEN entry_id END, product_id, at
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[]) AS given(search_id, entry_id, product_id, at)
ORDER BY search_id, product_id
ON CONFLICT DO NOTHING;

-- name: expect
-- Only for lines that the order has, and once per SKU: the first search given counts.
INSERT INTO search_lines (order_id, sku, search_id)
SELECT DISTINCT ON (line.sku) line.order_id, line.sku, given.search_id
FROM unnest($2::text[], $3::uuid[]) WITH ORDINALITY AS given(sku, search_id, n)
JOIN order_items line ON line.order_id = $1 AND line.sku = given.sku
ORDER BY line.sku, n;

-- name: credit
-- Credits the sales of these orders to the queries that led to them; deleting the lines makes each count once.
-- Processes write their searches in batches: if an order is paid before its search is written, its line stays for a
-- later call (`paid`). A search is counted by the row whose id is its own but for the number in the last 16 bits; those
-- of before 0122 have one under their own.
WITH lines AS (
    SELECT order_id, sku, search_id, (left(search_id::text, 32) || '0000')::uuid AS entry_id,
           ('x' || right(search_id::text, 4))::bit(16)::int AS number
    FROM search_lines WHERE order_id = ANY ($1::uuid[])
), sold AS (
    DELETE FROM search_lines l USING lines, searches s
    WHERE l.order_id = lines.order_id AND l.sku = lines.sku
      AND s.id IN (lines.search_id, entry_id) AND (s.id <> entry_id OR number BETWEEN 1 AND times)
    RETURNING l.order_id, l.sku, s.query
)
INSERT INTO search_sales AS s (day, query, sku, currency, units, gross_cents)
SELECT (o.created_at AT TIME ZONE 'UTC')::date, sold.query, sold.sku, o.currency, sum(line.quantity),
       sum(line.quantity * line.unit_price_cents)
FROM sold JOIN orders o ON o.id = sold.order_id
JOIN order_items line ON line.order_id = sold.order_id AND line.sku = sold.sku
GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
ON CONFLICT (day, query, sku, currency) DO UPDATE
SET units = s.units + excluded.units, gross_cents = s.gross_cents + excluded.gross_cents;

-- name: paid
-- Paid orders with lines that are not counted yet, except those that another transaction is counting now.
SELECT l.order_id FROM search_lines l JOIN orders o ON o.id = l.order_id
WHERE o.status NOT IN ('pending', 'cancelled') FOR UPDATE OF l SKIP LOCKED;

-- name: give_up
-- Deletes lines of these orders whose search is still unknown after 10 minutes: a genuine one is written long before.
DELETE FROM search_lines l USING orders o
WHERE l.order_id = ANY ($1::uuid[]) AND o.id = l.order_id AND o.created_at < now() - interval '10 minutes';

-- name: forget_lines
DELETE FROM search_lines WHERE order_id = ANY ($1::uuid[]);

-- name: report
-- The queries of a period with the products opened and sold after them, sorted by $4. The row without a query is the
-- total. Sales count on the day of the order, even if nobody searched for the query within the period. The opens are
-- read in one scan, since looking them up search by search took twice as long; an open comes after its search, but
-- clocks may differ, by less than a day.
WITH opens AS (
    SELECT coalesce(entry_id, search_id) AS entry_id, count(DISTINCT search_id)::int AS opened  -- added up sooner
    FROM search_opens
    WHERE at >= $1::timestamptz - interval '1 day' AND at < $2::timestamptz + interval '1 day' GROUP BY 1
), asked AS (
    SELECT query, sum(times) AS searches, sum(times) FILTER (WHERE found = 0) AS without_results,
           sum(least(coalesce(opened, 0), times)) AS opened  -- `least`: the last bits of an id can be made up
    FROM searches LEFT JOIN opens ON entry_id = id WHERE at >= $1 AND at < $2 GROUP BY query
), sold AS (
    SELECT query, sum(units)::bigint AS units, sum(gross_cents)::bigint AS gross_cents FROM search_sales
    WHERE currency = $3 AND day >= ($1 AT TIME ZONE 'UTC')::date
      AND day < ($2 AT TIME ZONE 'UTC' + interval '1 day - 1 us')::date
    GROUP BY query
), together AS (
    SELECT query, coalesce(searches, 0)::bigint AS searches, coalesce(without_results, 0)::bigint AS without_results,
           coalesce(opened, 0)::bigint AS opened, coalesce(units, 0) AS units, coalesce(gross_cents, 0) AS gross_cents
    FROM asked FULL JOIN sold USING (query)
), shown AS (
    SELECT * FROM together WHERE $4 <> 'withoutResults' OR without_results > 0
    ORDER BY CASE $4 WHEN 'withoutResults' THEN without_results WHEN 'opened' THEN opened
                     WHEN 'revenue' THEN gross_cents ELSE searches END DESC, searches DESC, query
    LIMIT $5
)
SELECT * FROM shown UNION ALL
SELECT NULL, coalesce(sum(searches), 0)::bigint, coalesce(sum(without_results), 0)::bigint,
       coalesce(sum(opened), 0)::bigint, coalesce(sum(units), 0)::bigint, coalesce(sum(gross_cents), 0)::bigint
FROM together;

-- name: sweep_searches
-- In batches, so that no sweep blocks other sessions.
DELETE FROM searches WHERE id IN (SELECT id FROM searches WHERE at < $1 ORDER BY at LIMIT $2);

-- name: sweep_opens
DELETE FROM search_opens WHERE (search_id, product_id) IN (
    SELECT search_id, product_id FROM search_opens WHERE at < $1 ORDER BY at LIMIT $2
);

-- name: sweep_sales
DELETE FROM search_sales WHERE day < ($1 AT TIME ZONE 'UTC')::date;

-- name: stamp
SELECT stamp FROM search_ranking;

-- name: touch
UPDATE search_ranking SET stamp = stamp + 1;

-- name: all_synonyms
SELECT id, words, means, created_at FROM search_synonyms ORDER BY id;

-- name: all_rules
SELECT id, query, pinned, hidden, pinned_ids, hidden_ids, offered, updated_at FROM search_rules ORDER BY query;

-- name: synonyms_page
SELECT id, words, means, created_at FROM search_synonyms WHERE id < $1 ORDER BY id DESC LIMIT $2;

-- name: rules_page
SELECT id, query, pinned, hidden, pinned_ids, hidden_ids, offered, updated_at FROM search_rules
WHERE query > $1 ORDER BY query LIMIT $2;

-- name: add_synonyms
INSERT INTO search_synonyms (id, words, means, created_at) VALUES ($1, $2, $3, $4);

-- name: drop_synonyms
DELETE FROM search_synonyms WHERE id = $1 RETURNING id, words, means, created_at;

-- name: lock_rule
SELECT id, query, pinned, hidden, pinned_ids, hidden_ids, offered, updated_at FROM search_rules
WHERE query = $1 FOR UPDATE;

-- name: put_rule
-- Replaces the rule of this query, if there is one, which keeps its id.
INSERT INTO search_rules AS r (id, query, pinned, hidden, pinned_ids, hidden_ids, offered, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (query) DO UPDATE
SET pinned = excluded.pinned, hidden = excluded.hidden, pinned_ids = excluded.pinned_ids,
    hidden_ids = excluded.hidden_ids, offered = excluded.offered, updated_at = excluded.updated_at
RETURNING id, query, pinned, hidden, pinned_ids, hidden_ids, offered, updated_at;

-- name: drop_rule
DELETE FROM search_rules WHERE id = $1
RETURNING id, query, pinned, hidden, pinned_ids, hidden_ids, offered, updated_at;

-- name: ranking
SELECT most_boost, least_units, days FROM search_ranking;

-- name: lock_ranking
SELECT most_boost, least_units, days FROM search_ranking FOR UPDATE;

-- name: set_ranking
UPDATE search_ranking SET most_boost = $1, least_units = $2, days = $3;

-- name: best_of_queries
-- The SKUs that sell best per query, the most sold first.
SELECT query, sku, sum(units)::bigint AS units FROM search_sales
WHERE day > ($1 AT TIME ZONE 'UTC')::date - $2::int
GROUP BY query, sku HAVING sum(units) >= $3 ORDER BY units DESC, query, sku LIMIT $4;

-- name: count_queries
-- Counts the queries of the day that begins at $1 again, from the log. Each answer has a new search id, so a query
-- counts once a minute: else a client that reloads a page would look like many. Only searches with exact hits count as
-- successful: similar products are also found for misspelt words, and for any words beside one of the catalog's.
INSERT INTO query_days AS d (day, query, searches, found, spelt)
SELECT (at AT TIME ZONE 'UTC')::date, query, count(DISTINCT date_trunc('minute', at)),
       count(DISTINCT date_trunc('minute', at)) FILTER (WHERE exact),
       mode() WITHIN GROUP (ORDER BY coalesce(spelt, query))
FROM searches WHERE at >= $1 AND at < $1 + interval '1 day' AND strpos(query, '…') = 0
GROUP BY 1, 2 ORDER BY 1, 2
ON CONFLICT (day, query) DO UPDATE SET searches = excluded.searches, found = excluded.found, spelt = excluded.spelt
WHERE (d.searches, d.found, d.spelt) IS DISTINCT FROM (excluded.searches, excluded.found, excluded.spelt);

-- name: sweep_query_days
DELETE FROM query_days WHERE day < ($1 AT TIME ZONE 'UTC')::date;

-- name: draw_frequent
-- The most frequent queries with at least $2 successful searches, which are more than half of all for the query; spelt
-- as on the latest day. Unchanged rows, which are nearly all, are not written.
WITH drawn AS (
    SELECT query, (array_agg(coalesce(spelt, query) ORDER BY day DESC))[1] AS spelt, sum(searches)::bigint AS searches
    FROM query_days WHERE day >= ($1 AT TIME ZONE 'UTC')::date
    GROUP BY query HAVING sum(found) >= $2 AND 2 * sum(found) > sum(searches)
    ORDER BY searches DESC, query LIMIT $3
), gone AS (
    DELETE FROM frequent_queries AS held WHERE NOT EXISTS (SELECT FROM drawn WHERE drawn.query = held.query)
)
INSERT INTO frequent_queries AS held SELECT query, spelt, searches FROM drawn
ON CONFLICT (query) DO UPDATE SET spelt = excluded.spelt, searches = excluded.searches
WHERE (held.spelt, held.searches) <> (excluded.spelt, excluded.searches);

-- name: past_queries
SELECT spelt, searches FROM frequent_queries ORDER BY searches DESC, query;
