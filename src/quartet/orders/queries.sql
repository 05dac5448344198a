-- name: place
-- Stock reserved, order written and read back: one statement, one round trip.
SELECT order_document(place_order($1, $2, $3, $4));

-- name: get
SELECT order_document($1);

-- name: lock
-- The order's row lock, held until the transaction ends; orders come before inventory in the order of locks.
SELECT order_document(id) FROM (SELECT id FROM orders WHERE id = $1 FOR NO KEY UPDATE) AS held;

-- name: confirm
SELECT order_document(confirm_order($1, $2, $3));

-- name: cancel
SELECT order_document(cancel_order($1, $2, $3));

-- name: ship
SELECT order_document(ship_order($1, $2, $3));

-- name: deliver
SELECT order_document(deliver_order($1, $2, $3));

-- name: expire
SELECT expire_orders($1, coalesce($2::timestamptz, now()));

-- name: refund
SELECT refund_order($1, $2, $3, $4, $5, $6);

-- name: refund_by_id
SELECT id, order_id, at, amount_cents, currency, restocked, reason, by FROM refunds WHERE id = $1;

-- name: has_bought
-- By idx_orders_user and idx_order_items_order: as dear as this user's orders.
SELECT EXISTS (
    SELECT FROM orders o JOIN order_items i ON i.order_id = o.id
    WHERE o.user_id = $1 AND o.status IN ('confirmed', 'shipped', 'delivered') AND i.sku = ANY ($2::text[]));

-- name: of_user
-- idx_orders_user; a page costs what it shows.
SELECT order_document(id) FROM (
    SELECT id FROM orders
    WHERE user_id = $4 AND ($5::text IS NULL OR status = $5)
      AND (created_at, id) < ($1, $2)
    ORDER BY created_at DESC, id DESC LIMIT $3) AS page;

-- name: newest
-- Everybody's, by orders_newest.
SELECT order_document(id) FROM (
    SELECT id FROM orders
    WHERE (created_at, id) < ($1, $2)
    ORDER BY created_at DESC, id DESC LIMIT $3) AS page;

-- name: still_open
-- Everybody's pending or confirmed ones: the second condition lets the planner use the partial idx_orders_status.
SELECT order_document(id) FROM (
    SELECT id FROM orders
    WHERE status = $4 AND status IN ('pending', 'confirmed')
      AND (created_at, id) < ($1, $2)
    ORDER BY created_at DESC, id DESC LIMIT $3) AS page;

-- name: done
-- The same for the others, by orders_done.
SELECT order_document(id) FROM (
    SELECT id FROM orders
    WHERE status = $4 AND status IN ('shipped', 'delivered', 'cancelled', 'refunded')
      AND (created_at, id) < ($1, $2)
    ORDER BY created_at DESC, id DESC LIMIT $3) AS page;
