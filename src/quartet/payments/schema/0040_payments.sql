-- migrate:up

-- A payment's id is its idempotency key at the provider, so that a retry never charges twice. provider_ref is the
-- provider's id, or ours until that is known. 'refunded' also marks a payment that came too late and is being refunded.
-- 'authorized': the buyer's bank holds the money until it is captured or released ('voided'). 'voided' and 'refunded'
-- are written before the provider is called.
CREATE TABLE payments (
    id                UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    order_id          UUID NOT NULL REFERENCES orders(id),
    provider          TEXT NOT NULL,
    provider_ref      TEXT NOT NULL CONSTRAINT payments_provider_ref_key UNIQUE,
    amount_cents      BIGINT NOT NULL CONSTRAINT payments_amount CHECK (amount_cents >= 0),
    currency          CHAR(3) NOT NULL DEFAULT 'USD',
    status            TEXT NOT NULL DEFAULT 'pending'
                      CONSTRAINT payments_status
                      CHECK (status IN ('pending', 'authorized', 'succeeded', 'failed', 'voided', 'refunded')),
    decline_code      TEXT,
    refunded_cents    BIGINT NOT NULL DEFAULT 0
                      CONSTRAINT payments_refunded CHECK (refunded_cents BETWEEN 0 AND amount_cents),
    -- Who made the request, so that recovery from a crash can store the answer under its Idempotency-Key.
    request_owner     TEXT,
    request_key       TEXT,
    -- When to look up an open payment at the provider, and how often that was done.
    ask_at            TIMESTAMPTZ NOT NULL DEFAULT now(),
    asked             INT NOT NULL DEFAULT 0,
    processed_at      TIMESTAMPTZ,
    created_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    -- The call to the provider that is still to be made; null: none.
    due               TEXT CONSTRAINT payments_due CHECK (due IN ('capture', 'void')),
    redirect_url      TEXT  -- the provider's page at which the buyer has to confirm the payment
);
CREATE INDEX idx_payments_order ON payments(order_id);
-- At most one payment of an order is open or succeeded, whatever the code does.
CREATE UNIQUE INDEX payments_one_open ON payments(order_id) WHERE status IN ('pending', 'authorized', 'succeeded');
CREATE INDEX payments_to_ask ON payments(ask_at) WHERE status IN ('pending', 'authorized') OR due IS NOT NULL;
-- Reconciliation reads a day's payments and refunds in order of time.
CREATE INDEX payments_newest ON payments(created_at, id);

CREATE TABLE payment_refunds (
    id            UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    payment_id    UUID NOT NULL REFERENCES payments(id),
    amount_cents  BIGINT NOT NULL CONSTRAINT payment_refunds_amount CHECK (amount_cents > 0),
    status        TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'succeeded', 'failed')),
    reason        TEXT NOT NULL CHECK (reason IN ('asked', 'cancelled', 'late')),
    restock       BOOLEAN NOT NULL DEFAULT false,
    actor         TEXT,  -- who made the refund: a user's id, `guest`, or `key:` and an API key's id
    provider_ref  TEXT,
    request_owner TEXT,
    request_key   TEXT,
    ask_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    asked         INT NOT NULL DEFAULT 0,
    processed_at  TIMESTAMPTZ,
    created_at    TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at    TIMESTAMPTZ NOT NULL DEFAULT now(),
    -- The lines of a refund by line, as `promise_pieces` counted them, so that it is completed for the same ones; and
    -- the reason that staff gave.
    lines         JSONB,
    note          TEXT
);
CREATE INDEX payment_refunds_payment ON payment_refunds(payment_id);
CREATE INDEX payment_refunds_to_ask ON payment_refunds(ask_at) WHERE status = 'pending';
CREATE INDEX payment_refunds_newest ON payment_refunds(created_at, id);

-- Written in the transaction of the event's effect: an event in this table has been processed. It is written first, so
-- it must not lock the payment's row, as a foreign key would: orders are locked before payments.
CREATE TABLE webhook_events (
    provider    TEXT NOT NULL,
    event_id    TEXT NOT NULL,
    kind        TEXT NOT NULL,
    payment_id  UUID,
    received_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, event_id)
);
CREATE INDEX webhook_events_age ON webhook_events (received_at);
