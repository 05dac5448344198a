-- name: sandbox_charge
-- Idempotent by reference: a repeated one returns the first charge, which an update without effect makes RETURNING
-- yield.
WITH made AS (
    INSERT INTO sandbox.charges (reference, id, method, amount_cents, currency, decline_code, settles_at, capture,
                                 lapses_at)
    VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp() + make_interval(secs => $7), $8,
            clock_timestamp() + make_interval(secs => $9))
    ON CONFLICT (reference) DO UPDATE SET reference = excluded.reference
    RETURNING id, decline_code, extract(epoch FROM settles_at - clock_timestamp())::float8 AS seconds_left, capture,
              amount_cents, currency
)
SELECT id, amount_cents, currency, decline_code, seconds_left, CASE
    WHEN seconds_left > 0 THEN 'pending'
    WHEN decline_code IS NOT NULL THEN 'failed'
    WHEN capture THEN 'succeeded'
    ELSE 'authorized' END AS status
FROM made;

-- name: sandbox_look_up
SELECT * FROM sandbox.books WHERE reference = $1;

-- name: sandbox_settle
SELECT sandbox.settle($1, $2);

-- name: sandbox_refund
SELECT sandbox.refund($1, $2, $3, $4);

-- name: sandbox_look_up_refund
SELECT id FROM sandbox.refunds WHERE reference = $1;

-- name: sandbox_entries
-- A page of charges and refunds ordered by time, after the entry ($3, $4).
SELECT * FROM (
    SELECT 'charge' AS kind, reference, id, status, amount_cents, captured_cents, currency, created_at, '' AS charge_ref
    FROM sandbox.books
    UNION ALL
    SELECT 'refund', r.reference, r.id, 'succeeded', r.amount_cents, r.amount_cents, c.currency, r.created_at, c.id
    FROM sandbox.refunds r JOIN sandbox.charges c ON c.reference = r.charge) AS entry
WHERE created_at >= $1 AND created_at < $2 AND (created_at, reference) > ($3, $4)
ORDER BY created_at, reference LIMIT $5;
