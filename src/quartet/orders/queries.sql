-- name: place
-- Reserves stock, writes the order and reads it back in one round trip.
SELECT order_document(place_order($1, $2, $3, $4, $5, $6, $7));

-- name: place_under_key
SELECT (request).owner AS claimed_by, (request).fingerprint, (request).status AS answered, (request).headers,
       (request).body, placed
FROM place_order_under_key($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: get
SELECT order_document($1);

-- name: order_with_recipient
-- The order, and the present e-mail address of its buyer: the account's, null if that was erased, or the guest's.
SELECT order_document(o.id) AS document, coalesce(u.email, o.email) AS address
FROM orders o LEFT JOIN users u ON u.id = o.user_id AND u.erased_at IS NULL WHERE o.id = $1;

-- name: lock
-- Locks the order's row until the transaction ends; orders are always locked before inventory.
SELECT order_document(id) FROM (SELECT id FROM orders WHERE id = $1 FOR NO KEY UPDATE) AS held;

-- name: cancel
SELECT order_document(cancel_order($1, $2, $3));

-- name: ship
SELECT order_document(ship_order($1, $2, $3));

-- name: deliver
SELECT order_document(deliver_order($1, $2, $3));

-- name: expire
SELECT expire_orders($1, coalesce($2::timestamptz, now()), $3);

-- name: has_bought
-- Uses idx_orders_user and idx_order_items_order: the cost grows with this user's orders.
SELECT EXISTS (
    SELECT FROM orders o JOIN order_items i ON i.order_id = o.id
    WHERE o.user_id = $1 AND o.status IN ('confirmed', 'shipped', 'delivered') AND i.sku = ANY ($2::text[]));

-- name: of_user
-- Uses idx_orders_user: reads only the rows of the page.
SELECT order_document(id) FROM (
    SELECT id FROM orders
    WHERE user_id = $4 AND ($5::text IS NULL OR status = $5)
      AND (created_at, id) < ($1, $2)
    ORDER BY created_at DESC, id DESC LIMIT $3) AS page;

-- name: of_address
-- A guest's by orders_email, an account's by idx_orders_user. An address has few orders, so sorting them is cheap.
SELECT order_document(id) FROM (
    SELECT id FROM orders
    WHERE (email = $4 OR user_id = (SELECT u.id FROM users u WHERE u.email = $4)) AND ($5::text IS NULL OR status = $5)
      AND (created_at, id) < ($1, $2)
    ORDER BY created_at DESC, id DESC LIMIT $3) AS page;

-- name: of_number
-- The order with this number, by orders_number, if the other filters match as well.
SELECT order_document(id) FROM orders
WHERE number = $4 AND ($5::uuid IS NULL OR user_id = $5)
  AND ($6::text IS NULL OR email = $6 OR user_id = (SELECT u.id FROM users u WHERE u.email = $6))
  AND ($7::text IS NULL OR status = $7)
  AND (created_at, id) < ($1, $2)
LIMIT $3;

-- name: claim
SELECT claim_orders($1, $2);

-- name: newest
-- All buyers' orders, by orders_newest.
SELECT order_document(id) FROM (
    SELECT id FROM orders
    WHERE (created_at, id) < ($1, $2)
    ORDER BY created_at DESC, id DESC LIMIT $3) AS page;

-- name: still_open
-- Pending or confirmed orders: the second condition lets the planner use the partial index idx_orders_status.
SELECT order_document(id) FROM (
    SELECT id FROM orders
    WHERE status = $4 AND status IN ('pending', 'confirmed')
      AND (created_at, id) < ($1, $2)
    ORDER BY created_at DESC, id DESC LIMIT $3) AS page;

-- name: done
-- The same for the other states, by orders_done.
SELECT order_document(id) FROM (
    SELECT id FROM orders
    WHERE status = $4 AND status IN ('shipped', 'delivered', 'cancelled', 'refunded')
      AND (created_at, id) < ($1, $2)
    ORDER BY created_at DESC, id DESC LIMIT $3) AS page;

-- name: counted_since
-- Orders confirmed since $1, with the part of their price that was not refunded, 0 for cancelled ones; without orders
-- that were a guest's when confirmed, even if claimed by an account since, and those of erased buyers. A refund that
-- the provider returned will be made again, so the lowest amount ever left counts, as on the leaderboards. Of refunds
-- at the same time a returned one (a negative amount) comes first, since another was made in its place.
SELECT o.id AS order_id, o.user_id, o.currency, paid.at AS confirmed_at,
       CASE o.status WHEN 'cancelled' THEN 0 ELSE o.total_cents - coalesce((
           SELECT max(so_far) FROM (SELECT sum(amount_cents) OVER (ORDER BY at, amount_cents, id) AS so_far
                                    FROM refunds WHERE order_id = o.id) AS given), 0)::bigint END AS left_cents
FROM order_history AS paid
JOIN orders AS o ON o.id = paid.order_id
JOIN users AS buyer ON buyer.id = o.user_id AND buyer.erased_at IS NULL
WHERE paid.from_status = 'pending' AND paid.to_status = 'confirmed' AND paid.at >= $1
  AND NOT EXISTS (SELECT FROM order_history AS claim
                  WHERE claim.order_id = o.id AND claim.from_status = claim.to_status AND claim.id > paid.id);

-- name: lock_of_person
-- The user's orders, and guest orders with the user's verified address; locked in the same order as by claim_orders.
SELECT id FROM orders WHERE user_id = $1 OR email = $2 ORDER BY id FOR NO KEY UPDATE;

-- name: forget
-- Removes what the buyer has written, and a guest's address.
UPDATE orders
SET metadata = '{}', email = NULL, guest_cart = NULL, erased_at = CASE WHEN user_id IS NULL THEN $2::timestamptz END
WHERE id = ANY ($1);
