-- Every query here answers violations: `subject` says which row, `finding` what is wrong with it. None is good.

-- name: counts
-- How many things each rule is held against.
SELECT (SELECT count(*) FROM inventory) AS reserved_is_held,
       (SELECT count(*) FROM inventory) AS ledger_equals_rows,
       (SELECT count(*) FROM orders) AS totals_equal_lines,
       (SELECT count(*) FROM orders) AS payments_equal_orders,
       (SELECT count(*) FROM refunds) AS refunds_equal_orders,
       (SELECT count(*) FROM payment_refunds) AS refunds_equal_payments,
       (SELECT count(*) FROM order_items) AS pieces_equal_refunds,
       (SELECT count(DISTINCT order_id) FROM order_history) AS history_leads_to_status,
       (SELECT count(*) FROM orders WHERE status = 'pending') AS nothing_overdue;

-- name: reserved_is_held
-- What a row has reserved is what pending orders hold, no more and no less.
SELECT coalesce(i.sku, held.sku) AS subject,
       format('reserved is %s, pending orders hold %s', coalesce(i.reserved, 0), coalesce(held.qty, 0)) AS finding
FROM inventory i
FULL JOIN (
    SELECT line.sku, sum(line.quantity) AS qty
    FROM orders o JOIN order_items line ON line.order_id = o.id
    WHERE o.status = 'pending'
    GROUP BY line.sku
) held ON held.sku = i.sku
WHERE coalesce(i.reserved, 0) <> coalesce(held.qty, 0)
ORDER BY 1;

-- name: ledger_equals_rows
-- The ledger of movements adds up to what the row says, also for rows that are gone.
SELECT coalesce(i.sku, ledger.sku) AS subject,
       format('stock %s, reserved %s; the ledger adds up to %s and %s',
              coalesce(i.stock, 0), coalesce(i.reserved, 0), coalesce(ledger.stock, 0), coalesce(ledger.reserved, 0))
           AS finding
FROM inventory i
FULL JOIN (
    SELECT sku, sum(stock_delta) AS stock, sum(reserved_delta) AS reserved FROM inventory_movements GROUP BY sku
) ledger ON ledger.sku = i.sku
WHERE (coalesce(i.stock, 0), coalesce(i.reserved, 0)) <> (coalesce(ledger.stock, 0), coalesce(ledger.reserved, 0))
ORDER BY 1;

-- name: totals_equal_lines
-- An order costs what its lines cost, and has lines.
SELECT o.id::text AS subject,
       format('total is %s, its lines come to %s', o.total_cents, coalesce(lines.cents, 0)) AS finding
FROM orders o
LEFT JOIN (
    SELECT order_id, sum(quantity * unit_price_cents) AS cents FROM order_items GROUP BY order_id
) lines ON lines.order_id = o.id
WHERE o.total_cents IS DISTINCT FROM lines.cents
ORDER BY o.created_at;

-- name: payments_equal_orders
-- What an order says was captured is what its payments say was paid; a confirmed order is paid whole, or the whole sum is
-- held for it; nothing is sent that is not captured. Money that came too late for its order is a payment marked
-- 'refunded', a hold let go one marked 'voided', and both count for nothing here.
SELECT o.id::text AS subject,
       format('%s, total %s, captured %s; its payments come to %s, and %s held',
              o.status, o.total_cents, o.captured_cents, coalesce(paid.cents, 0), coalesce(paid.held, 0)) AS finding
FROM orders o
LEFT JOIN (
    SELECT order_id, coalesce(sum(amount_cents) FILTER (WHERE status = 'succeeded'), 0) AS cents,
           coalesce(sum(amount_cents) FILTER (WHERE status = 'authorized'), 0) AS held
    FROM payments WHERE status IN ('succeeded', 'authorized') GROUP BY order_id
) paid ON paid.order_id = o.id
WHERE (o.status IN ('confirmed', 'shipped', 'delivered')
       AND (coalesce(paid.cents + paid.held, 0) <> o.total_cents OR o.captured_cents <> coalesce(paid.cents, 0)))
   OR (o.status IN ('shipped', 'delivered', 'refunded') AND o.captured_cents <> o.total_cents)
   OR (o.status IN ('pending', 'cancelled') AND coalesce(paid.held, 0) <> 0)
   OR (o.status = 'pending' AND coalesce(paid.cents, 0) <> 0)
ORDER BY o.created_at;

-- name: refunds_equal_orders
-- What an order says was given back is what its refunds add up to, and each refund is the sum of its parts.
SELECT o.id::text AS subject,
       format('refunded is %s, its refunds come to %s', o.refunded_cents, coalesce(given.cents, 0)) AS finding
FROM orders o
LEFT JOIN (SELECT order_id, sum(amount_cents) AS cents FROM refunds GROUP BY order_id) given ON given.order_id = o.id
WHERE o.refunded_cents <> coalesce(given.cents, 0)
UNION ALL
SELECT r.order_id::text,
       format('refund %s is %s, its parts come to %s', r.id, r.amount_cents, coalesce(parts.cents, 0))
FROM refunds r
LEFT JOIN (SELECT refund_id, sum(amount_cents) AS cents FROM refund_items GROUP BY refund_id) parts
       ON parts.refund_id = r.id
WHERE r.amount_cents <> coalesce(parts.cents, 0)
ORDER BY 1;

-- name: refunds_equal_payments
-- What a payment says was given back is what its refunds that came about add up to.
SELECT p.order_id::text AS subject,
       format('payment %s: refunded is %s, its refunds come to %s', p.id, p.refunded_cents, coalesce(given.cents, 0))
           AS finding
FROM payments p
LEFT JOIN (SELECT payment_id, sum(amount_cents) AS cents FROM payment_refunds WHERE status = 'succeeded'
           GROUP BY payment_id) given ON given.payment_id = p.id
WHERE p.refunded_cents <> coalesce(given.cents, 0)
ORDER BY p.created_at;

-- name: pieces_equal_refunds
-- Of no SKU were more pieces refunded by line, or put back, than were ordered; what an order's lines say of it is what
-- refunds and open promises say, and what came back is what the ledger says came back.
WITH lines AS (
    SELECT order_id, sku, sum(quantity) AS ordered, sum(refunded_qty) AS refunded, sum(restocked_qty) AS restocked
    FROM order_items GROUP BY order_id, sku
), given AS (
    SELECT order_id, sku, sum(qty) AS qty
    FROM (SELECT r.order_id, part.sku, part.quantity AS qty
          FROM refunds r JOIN refund_items part ON part.refund_id = r.id WHERE part.quantity <> 0
          UNION ALL
          SELECT p.order_id, line.sku, line.qty
          FROM payment_refunds r JOIN payments p ON p.id = r.payment_id,
               jsonb_to_recordset(r.lines) AS line(sku TEXT, qty INT) WHERE r.status = 'pending') AS parts
    GROUP BY order_id, sku
), returned AS (
    SELECT order_id, sku, sum(stock_delta) AS qty FROM inventory_movements
    WHERE reason = 'returned' AND order_id IS NOT NULL GROUP BY order_id, sku
)
SELECT order_id::text AS subject,
       format('%s: %s ordered, %s refunded by line, %s put back; refunds say %s, the ledger %s', sku,
              coalesce(ordered, 0), coalesce(refunded, 0), coalesce(restocked, 0), coalesce(given.qty, 0),
              coalesce(returned.qty, 0)) AS finding
FROM lines FULL JOIN given USING (order_id, sku) FULL JOIN returned USING (order_id, sku)
WHERE coalesce(refunded, 0) <> coalesce(given.qty, 0) OR coalesce(restocked, 0) <> coalesce(returned.qty, 0)
   OR coalesce(refunded, 0) > coalesce(ordered, 0) OR coalesce(restocked, 0) > coalesce(ordered, 0)
ORDER BY 1, sku;

-- name: history_leads_to_status
-- The last step of an order's history is where it stands, and each step starts where the one before ended.
WITH steps AS (
    SELECT order_id, from_status, to_status,
           lag(to_status, 1, 'pending') OVER (PARTITION BY order_id ORDER BY id) AS before,
           row_number() OVER (PARTITION BY order_id ORDER BY id DESC) = 1 AS is_last
    FROM order_history
)
SELECT o.id::text AS subject,
       format('is %s; its history goes from %s (after %s) to %s', o.status, s.from_status, s.before, s.to_status) AS finding
FROM steps s JOIN orders o ON o.id = s.order_id
WHERE s.from_status <> s.before OR (s.is_last AND s.to_status <> o.status)
ORDER BY o.created_at;

-- name: nothing_overdue
-- Unpaid orders give their stock back soon after their time; a worker that sleeps is seen here.
SELECT id::text AS subject, format('is pending since %s, though it expired at %s', created_at, expires_at) AS finding
FROM orders
WHERE status = 'pending' AND expires_at < now() - interval '1 minute'
ORDER BY expires_at;
