-- Each query returns the violations of one rule: `subject` is the row, `finding` what is wrong with it.

-- name: counts
-- How many rows each rule checks.
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
-- A SKU's reserved stock equals the sum of its pending orders.
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
-- The inventory ledger adds up to the row, also for rows that were deleted.
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
-- An order's total equals the sum of its lines, of which there is at least one.
SELECT o.id::text AS subject,
       format('total is %s, its lines come to %s', o.total_cents, coalesce(lines.cents, 0)) AS finding
FROM orders o
LEFT JOIN (
    SELECT order_id, sum(quantity * unit_price_cents) AS cents FROM order_items GROUP BY order_id
) lines ON lines.order_id = o.id
WHERE o.total_cents IS DISTINCT FROM lines.cents
ORDER BY o.created_at;

-- name: payments_equal_orders
-- An order's captured amount equals the sum of its succeeded payments; a confirmed order is paid or authorized in full;
-- nothing is shipped before it is captured. A payment that came too late for its order is 'refunded', a released
-- authorization is 'voided', and neither counts here.
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
-- An order's refunded amount equals the sum of its refunds, and each refund the sum of its parts.
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
-- A payment's refunded amount equals the sum of its succeeded refunds.
SELECT p.order_id::text AS subject,
       format('payment %s: refunded is %s, its refunds come to %s', p.id, p.refunded_cents, coalesce(given.cents, 0))
           AS finding
FROM payments p
LEFT JOIN (SELECT payment_id, sum(amount_cents) AS cents FROM payment_refunds WHERE status = 'succeeded'
           GROUP BY payment_id) given ON given.payment_id = p.id
WHERE p.refunded_cents <> coalesce(given.cents, 0)
ORDER BY p.created_at;

-- name: pieces_equal_refunds
-- Per order and SKU: no more units were refunded by line, or restocked, than were ordered; the units refunded according
-- to the order's lines equal those of its completed and pending refunds, and the restocked ones those in the ledger.
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
-- The last entry of an order's history is its status, and each entry starts from the status where the previous ended.
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
-- Unpaid orders release their stock soon after they expire; a worker that does not run shows up here.
SELECT id::text AS subject, format('is pending since %s, though it expired at %s', created_at, expires_at) AS finding
FROM orders
WHERE status = 'pending' AND expires_at < now() - interval '1 minute'
ORDER BY expires_at;
