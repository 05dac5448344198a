-- name: start
SELECT * FROM start_payment($1, $2, $3, $4, $5, NULL, NULL, $6, $7);

-- name: start_under_key
SELECT (request).owner AS claimed_by, (request).fingerprint, (request).status AS answered, (request).headers,
       (request).body, (payment).*
FROM start_payment_under_key($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

-- name: complete
-- Also returns the buyer and the order's lines, for the cart. They never change, so the statement's snapshot is
-- current.
SELECT c.*, o.user_id, o.guest_cart, (SELECT jsonb_object_agg(sku, qty) FROM (
           SELECT sku, sum(quantity) AS qty FROM order_items i WHERE i.order_id = o.id GROUP BY sku) AS line) AS bought
FROM complete_payment_with_answer($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) c JOIN orders o ON o.id = c.order_id;

-- name: with_buyer
SELECT p.*, o.user_id, o.email FROM payments p JOIN orders o ON o.id = p.order_id WHERE p.id = $1;

-- name: claim_unsettled
-- Payments to look up at their providers: open ones, and authorizations to be captured or voided, that are due. Each is
-- given to one worker only: ask_at is advanced before the provider is called, with a backoff of 2 s, doubled each time
-- up to an hour; but no later than an unpaid order expires, so that a payment made in time is known by then. Payments
-- of providers that are down ($3) stay due, so that they are not delayed further than the outage; those of amount 0
-- need no provider.
UPDATE payments
SET asked = asked + 1,
    ask_at = least($1::timestamptz + make_interval(secs => least(3600, 2 ^ least(asked + 1, 12))),
                   (SELECT o.expires_at FROM orders o
                    WHERE o.id = payments.order_id AND o.status = 'pending' AND o.expires_at > $1))
WHERE id IN (SELECT id FROM payments
             WHERE (status IN ('pending', 'authorized') OR due IS NOT NULL) AND ask_at <= $1
               AND (provider <> ALL ($3) OR amount_cents = 0)
             ORDER BY ask_at LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING *;

-- name: leave
SELECT * FROM leave_payment($1, $2, $3, $4);

-- name: is_unwanted
SELECT o.status = 'cancelled' OR p.status IN ('failed', 'voided') OR p.due IS NOT DISTINCT FROM 'void'
FROM payments p JOIN orders o ON o.id = p.order_id WHERE p.id = $1;

-- name: start_capture
SELECT * FROM start_capture($1, $2, $3, $4, $5);

-- name: drop_capture
SELECT drop_capture($1, $2);

-- name: start_void
SELECT * FROM start_void($1, $2, $3);

-- name: start_refund
SELECT r.*, p.order_id, p.provider, p.provider_ref AS charge_ref, p.currency
FROM start_refund($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) r JOIN payments p ON p.id = r.payment_id;

-- name: complete_refund
SELECT r.*, p.order_id, p.provider, p.provider_ref AS charge_ref, p.currency
FROM complete_refund($1, $2, $3, $4) r JOIN payments p ON p.id = r.payment_id;

-- name: moved
-- The refund and its payment to which a provider's message refers, or the payment only if we do not know the refund.
SELECT r.id AS refund_id, p.id AS payment_id, r.amount_cents, p.currency
FROM payment_refunds r JOIN payments p ON p.id = r.payment_id
WHERE p.provider = $1 AND (r.id = $2 OR r.provider_ref = $3)
UNION ALL
SELECT NULL, id, NULL, NULL FROM payments WHERE provider = $1 AND (id = $4 OR provider_ref = $5)
ORDER BY refund_id LIMIT 1;

-- name: note_moved
SELECT note_moved($1, $2, $3, $4, $5, $6, $7);

-- name: settle
-- Returns one row per contest (dispute, reversal, refund made at the provider) that is settled by this call.
SELECT reason, provider_ref, amount_cents FROM settle_contests($1, $2, $3, $4);

-- name: refund_came_back
SELECT refund_came_back($1, $2);

-- name: late_refund
-- The refund that complete_payment has started for a payment that came too late; the caller executes it at once.
SELECT r.*, p.order_id, p.provider, p.provider_ref AS charge_ref, p.currency
FROM payment_refunds r JOIN payments p ON p.id = r.payment_id
WHERE r.payment_id = $1 AND r.reason = 'late' AND r.status = 'pending';

-- name: claim_unsettled_refunds
-- As claim_unsettled, but each is given to no other worker for $3 seconds: of two concurrent requests for one refund, the
-- provider may answer one that it failed and the other that it succeeded.
WITH due AS (
    UPDATE payment_refunds
    SET asked = asked + 1,
        ask_at = $1::timestamptz + make_interval(secs => greatest($3::float8, least(3600, 2 ^ least(asked + 1, 12))))
    WHERE id IN (SELECT r.id FROM payment_refunds r JOIN payments p ON p.id = r.payment_id
                 WHERE r.status = 'pending' AND r.ask_at <= $1 AND p.provider <> ALL ($4)
                 ORDER BY r.ask_at LIMIT $2 FOR UPDATE OF r SKIP LOCKED)
    RETURNING *
)
SELECT r.*, p.order_id, p.provider, p.provider_ref AS charge_ref, p.currency
FROM due r JOIN payments p ON p.id = r.payment_id;

-- name: remember_event
-- Returns no row if the event was processed before. A concurrent second delivery waits for the first's transaction.
INSERT INTO webhook_events (provider, event_id, kind, payment_id, received_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING
RETURNING true;

-- name: sweep_events
-- In batches, so that no sweep blocks other sessions.
DELETE FROM webhook_events WHERE ctid = ANY (ARRAY(SELECT ctid FROM webhook_events WHERE received_at < $1 LIMIT $2));

-- name: payments_between
-- A page of a provider's payments ordered by time; uses payments_newest.
SELECT * FROM payments
WHERE provider = $1 AND created_at < $2 AND (created_at, id) > ($3, $4) ORDER BY created_at, id LIMIT $5;

-- name: refunds_between
-- The same for refunds, by payment_refunds_newest; without those that were made at the provider itself.
SELECT r.*, p.order_id, p.provider, p.provider_ref AS charge_ref, p.currency
FROM payment_refunds r JOIN payments p ON p.id = r.payment_id
WHERE p.provider = $1 AND r.reason <> 'elsewhere' AND r.created_at < $2 AND (r.created_at, r.id) > ($3, $4)
ORDER BY r.created_at, r.id LIMIT $5;

-- name: first_payment_at
SELECT min(created_at) FROM payments WHERE provider = $1;

-- name: known_payments
SELECT * FROM payments WHERE provider = $1 AND id = ANY ($2);

-- name: known_refunds
-- By our ids or, for refunds that were made at the provider itself, by the provider's.
SELECT r.*, p.order_id, p.provider, p.provider_ref AS charge_ref, p.currency
FROM payment_refunds r JOIN payments p ON p.id = r.payment_id
WHERE p.provider = $1 AND (r.id = ANY ($2) OR r.reason = 'elsewhere' AND r.provider_ref = ANY ($3));

-- name: is_unresolved
-- Whether a part of this refund's payment is neither refunded nor in a pending refund, and the client has not repeated
-- the request since: with the same Idempotency-Key, within the 24 hours for which it is stored.
SELECT left_of_payment(r.payment_id) > 0
   AND NOT EXISTS (SELECT FROM payment_refunds again
                   WHERE again.payment_id = r.payment_id
                     AND again.created_at > r.created_at AND again.created_at < r.created_at + interval '24 hours'
                     AND (again.request_owner, again.request_key) = (r.request_owner, r.request_key))
FROM payment_refunds r WHERE r.id = $1;

-- name: any_open
-- Whether a payment or refund of these orders is not final at the provider, or an authorization is still held.
SELECT EXISTS (SELECT FROM payments WHERE order_id = ANY ($1) AND (status IN ('pending', 'authorized') OR due IS NOT NULL))
    OR EXISTS (SELECT FROM payment_refunds r JOIN payments p ON p.id = r.payment_id
               WHERE p.order_id = ANY ($1) AND r.status = 'pending');

-- name: forget
-- Removes who made the request, and its Idempotency-Key, which the client chose.
UPDATE payments SET request_owner = NULL, request_key = NULL, redirect_url = NULL WHERE order_id = ANY ($1);

-- name: forget_refunds
UPDATE payment_refunds SET request_owner = NULL, request_key = NULL
WHERE payment_id IN (SELECT id FROM payments WHERE order_id = ANY ($1));
