-- name: start
SELECT * FROM start_payment($1, $2, $3, $4, $5, $6, $7, $8);

-- name: complete
-- Who bought what comes along for the cart; it never changes, so that the call's own snapshot does for it.
SELECT c.*, o.user_id, (SELECT jsonb_object_agg(sku, qty) FROM (
           SELECT sku, sum(quantity) AS qty FROM order_items i WHERE i.order_id = o.id GROUP BY sku) AS line) AS bought
FROM complete_payment($1, $2, $3, $4, $5, $6) c JOIN orders o ON o.id = c.order_id;

-- name: by_id
SELECT p.* FROM payments p JOIN orders o ON o.id = p.order_id
WHERE p.id = $1 AND ($2::uuid IS NULL OR o.user_id = $2);

-- name: take_to_ask
-- Open payments whose time has come, each given to one worker only: ask_at moves on before the provider is asked, by
-- 2 s, doubled each time, an hour at most.
UPDATE payments
SET asked = asked + 1, ask_at = $1::timestamptz + make_interval(secs => least(3600, 2 ^ least(asked + 1, 12)))
WHERE id IN (SELECT id FROM payments WHERE status = 'pending' AND ask_at <= $1
             ORDER BY ask_at LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING *;

-- name: start_refund
SELECT r.*, p.order_id, p.provider, p.provider_ref AS charge_ref, p.currency
FROM start_refund($1, $2, $3, $4, $5, $6, $7, $8, $9) r JOIN payments p ON p.id = r.payment_id;

-- name: complete_refund
SELECT r.*, p.order_id, p.provider, p.provider_ref AS charge_ref, p.currency
FROM complete_refund($1, $2, $3, $4) r JOIN payments p ON p.id = r.payment_id;

-- name: late_refund
-- What complete_payment put on its way back, for whoever completed the payment to see to at once.
SELECT r.*, p.order_id, p.provider, p.provider_ref AS charge_ref, p.currency
FROM payment_refunds r JOIN payments p ON p.id = r.payment_id
WHERE r.payment_id = $1 AND r.reason = 'late' AND r.status = 'pending';

-- name: take_refunds_to_ask
-- As take_to_ask.
WITH due AS (
    UPDATE payment_refunds
    SET asked = asked + 1, ask_at = $1::timestamptz + make_interval(secs => least(3600, 2 ^ least(asked + 1, 12)))
    WHERE id IN (SELECT id FROM payment_refunds WHERE status = 'pending' AND ask_at <= $1
                 ORDER BY ask_at LIMIT $2 FOR UPDATE SKIP LOCKED)
    RETURNING *
)
SELECT r.*, p.order_id, p.provider, p.provider_ref AS charge_ref, p.currency
FROM due r JOIN payments p ON p.id = r.payment_id;

-- name: remember_event
-- No row back when the event has been carried out before. A second delivery waits here for the first's transaction.
INSERT INTO webhook_events (provider, event_id, kind, payment_id, received_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING
RETURNING true;
