-- name: start
-- The order's row is locked by the caller. No row back: another payment of the order is open.
INSERT INTO payments (id, order_id, provider, provider_ref, amount_cents, currency, request_owner, request_key, ask_at,
                      created_at, updated_at)
VALUES ($1, $2, $3, $1::text, $4, $5, $6, $7, $8, $9, $9)
ON CONFLICT (order_id) WHERE status IN ('pending', 'succeeded') DO NOTHING
RETURNING *;

-- name: by_id
SELECT * FROM payments WHERE id = $1;

-- name: of_order
SELECT * FROM payments WHERE order_id = $1 ORDER BY created_at, id;

-- name: note_pending
-- The provider has it in hand: its name for it, and when we ask again should no webhook come.
UPDATE payments SET provider_ref = $2, ask_at = $3, updated_at = $4 WHERE id = $1 AND status = 'pending' RETURNING *;

-- name: settle
-- Under the order's lock. A failed payment may still turn out to have been charged; a captured one stays so.
UPDATE payments
SET status = $2, provider_ref = $3, decline_code = $4, processed_at = $5, updated_at = $5
WHERE id = $1 AND status IN ('pending', 'failed')
RETURNING *;

-- name: take_to_ask
-- Open payments whose time has come, each given to one worker only: ask_at moves on before the provider is asked.
UPDATE payments SET asked = asked + 1, ask_at = $1::timestamptz + make_interval(secs => least(3600, 2 ^ least(asked + 1, 12)))
WHERE id IN (SELECT id FROM payments WHERE status = 'pending' AND ask_at <= $1
             ORDER BY ask_at LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING *;

-- name: start_refund
INSERT INTO payment_refunds (id, payment_id, amount_cents, reason, restock, by_user, request_owner, request_key, ask_at,
                             created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)
RETURNING *;

-- name: refund_by_id
SELECT * FROM payment_refunds WHERE id = $1;

-- name: on_its_way
-- What has been promised back and has not arrived.
SELECT coalesce(sum(amount_cents), 0)::bigint FROM payment_refunds WHERE payment_id = $1 AND status = 'pending';

-- name: settle_refund
-- Under the order's lock. No row back: it was settled before.
UPDATE payment_refunds SET status = $2, provider_ref = $3, processed_at = $4, updated_at = $4
WHERE id = $1 AND status = 'pending'
RETURNING *;

-- name: add_refunded
UPDATE payments
SET refunded_cents = refunded_cents + $2, updated_at = $3,
    status = CASE WHEN refunded_cents + $2 = amount_cents THEN 'refunded' ELSE status END
WHERE id = $1
RETURNING *;

-- name: take_refunds_to_ask
UPDATE payment_refunds SET asked = asked + 1, ask_at = $1::timestamptz + make_interval(secs => least(3600, 2 ^ least(asked + 1, 12)))
WHERE id IN (SELECT id FROM payment_refunds WHERE status = 'pending' AND ask_at <= $1
             ORDER BY ask_at LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING *;

-- name: remember_event
-- False when the event has been carried out before. A second delivery waits here for the first one's transaction.
INSERT INTO webhook_events (provider, event_id, kind, payment_id, received_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING
RETURNING true;
