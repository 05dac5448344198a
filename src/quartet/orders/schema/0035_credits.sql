-- migrate:up

-- Money given back without an order that the shop knows: a later discount, or the return of goods sold before the
-- records begin. Unlike a refund, a credit belongs to no order; it counts against revenue on its own day.
CREATE TABLE credits (
    id           UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id      UUID NOT NULL REFERENCES users(id),
    at           TIMESTAMPTZ NOT NULL DEFAULT now(),
    amount_cents BIGINT NOT NULL CONSTRAINT credits_amount CHECK (amount_cents > 0),
    currency     CHAR(3) NOT NULL,
    sku          TEXT NOT NULL REFERENCES inventory(sku),
    qty          INT NOT NULL CONSTRAINT credits_qty CHECK (qty > 0),
    reason       TEXT NOT NULL,
    source_ref   TEXT NOT NULL CONSTRAINT credits_once UNIQUE
);
CREATE INDEX credits_at ON credits (at);
