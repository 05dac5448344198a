-- migrate:up

-- Money given back that belongs to no order the shop knows: a discount granted afterwards, or a return whose sale was
-- made before the books begin. A refund takes back an order's money; a credit stands alone and counts against revenue
-- on its own day.
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
