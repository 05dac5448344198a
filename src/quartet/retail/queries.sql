-- name: begin
-- One import at a time: two concurrent ones would both import a missing month.
SELECT pg_try_advisory_xact_lock(7177000060);

-- name: turns
SELECT month, turn FROM retail_months WHERE source = $1;

-- name: keep_months
INSERT INTO retail_months (source, month, turn) SELECT $1, month, $3 FROM unnest($2::text[]) AS month;

-- name: unshelved
SELECT month FROM retail_months WHERE source = $1 AND shelved_at IS NULL;

-- name: has_month
SELECT EXISTS (SELECT FROM retail_months WHERE month = $1 AND shelved_at IS NOT NULL);

-- name: shelve
UPDATE retail_months SET shelved_at = now() WHERE source = $1 AND month = ANY ($2::text[]);

-- name: add_customers
INSERT INTO users (id, email, display_name, created_at)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[])
ON CONFLICT DO NOTHING;

-- name: add_goods
-- The table's trigger writes the ledger's opening entry and the event. Existing rows keep their price.
INSERT INTO inventory (sku, name, stock, unit_price_cents, currency, category)
SELECT sku, name, stock, price, $5, category
FROM unnest($1::text[], $2::text[], $3::int[], $4::bigint[], $6::text[]) AS goods(sku, name, stock, price, category)
ORDER BY sku
ON CONFLICT DO NOTHING;

-- name: take_refunds
-- Adds the refunds of this run ($1) to their orders' totals, each order once.
UPDATE orders
SET refunded_cents = refunded_cents + back.cents, updated_at = greatest(updated_at, back.at)
FROM (SELECT order_id, sum(amount_cents) AS cents, max(at) AS at FROM refunds WHERE id = ANY ($1::uuid[]) GROUP BY 1) AS back
WHERE orders.id = back.order_id;

-- name: take_pieces
-- The same for units refunded, which no longer count as sold: of several lines of one SKU the first are used up first.
WITH back AS (
    SELECT r.order_id, part.sku, sum(part.quantity) AS qty FROM refunds r JOIN refund_items part ON part.refund_id = r.id
    WHERE r.id = ANY ($1::uuid[]) GROUP BY 1, 2
), line AS (
    SELECT i.id, i.quantity - i.refunded_qty AS left, back.qty,
           sum(i.quantity - i.refunded_qty) OVER (PARTITION BY order_id, sku ORDER BY i.id) AS upto
    FROM order_items i JOIN back USING (order_id, sku)
)
UPDATE order_items SET refunded_qty = refunded_qty + least(line.left, line.qty - (line.upto - line.left))
FROM line WHERE order_items.id = line.id AND line.qty > line.upto - line.left AND line.left > 0;

-- name: pay_back
-- Marks the imported payments of these orders as refunded, in part or in full.
UPDATE payments
SET refunded_cents = payments.refunded_cents + back.cents,
    status = CASE WHEN payments.refunded_cents + back.cents = amount_cents THEN 'refunded' ELSE payments.status END,
    updated_at = greatest(updated_at, back.at)
FROM (SELECT order_id, sum(amount_cents) AS cents, max(at) AS at FROM refunds WHERE id = ANY ($1::uuid[]) GROUP BY 1) AS back
WHERE payments.order_id = back.order_id AND payments.provider = 'import';

-- name: finish_refunded
-- Separate from take_refunds, because there the trigger of the state machine would refuse a transition from delivered
-- to delivered.
WITH done AS (
    UPDATE orders SET status = 'refunded'
    WHERE id IN (SELECT order_id FROM refunds WHERE id = ANY ($1::uuid[]))
      AND refunded_cents = total_cents AND status = 'delivered'
    RETURNING id, updated_at
)
INSERT INTO order_history (order_id, at, from_status, to_status, by, reason)
SELECT id, updated_at, 'delivered', 'refunded', 'import', 'everything was taken back' FROM done;

-- name: look_again
-- Reports may be requested before autovacuum has updated the statistics of tables that are now a thousand times larger.
ANALYZE users, inventory, orders, order_items, order_history, payments, refunds, refund_items, credits;

-- name: booked
-- What the import has written for a period, counted directly in the tables.
SELECT
    (SELECT count(*) FROM order_items JOIN payments USING (order_id) JOIN orders ON orders.id = order_id
     WHERE provider = 'import' AND orders.created_at >= $1 AND orders.created_at < $2) AS lines_sold,
    (SELECT coalesce(sum(quantity * unit_price_cents), 0)::bigint
     FROM order_items JOIN payments USING (order_id) JOIN orders ON orders.id = order_id
     WHERE provider = 'import' AND orders.created_at >= $1 AND orders.created_at < $2) AS sold_cents,
    back.lines + given.lines AS lines_given_back,
    (back.cents + given.cents)::bigint AS given_back_cents
FROM (SELECT count(*) AS lines, coalesce(sum(amount_cents), 0) AS cents FROM refunds
      WHERE by = 'import' AND at >= $1 AND at < $2) AS back,
     (SELECT count(*) AS lines, coalesce(sum(amount_cents), 0) AS cents FROM credits
      WHERE at >= $1 AND at < $2) AS given;
