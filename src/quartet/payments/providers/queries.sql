-- name: sandbox_charge
-- The same reference again finds the first charge; the update that changes nothing makes it come back.
INSERT INTO sandbox.charges (reference, id, method, amount_cents, currency, decline_code, settles_at)
VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp() + make_interval(secs => $7))
ON CONFLICT (reference) DO UPDATE SET reference = excluded.reference
RETURNING id, decline_code, extract(epoch FROM settles_at - clock_timestamp())::float8 AS seconds_left;

-- name: sandbox_look_up
SELECT id, decline_code, extract(epoch FROM settles_at - clock_timestamp())::float8 AS seconds_left
FROM sandbox.charges WHERE reference = $1;

-- name: sandbox_refund
SELECT sandbox.refund($1, $2, $3, $4);
