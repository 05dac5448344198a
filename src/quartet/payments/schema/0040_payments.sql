-- migrate:up

-- A payment is asked of its provider under its own id, so that a repetition never charges twice. Until the provider has
-- named it, provider_ref holds that id. 'refunded' also marks money that came too late and is on its way back.
-- 'authorized': the buyer's bank holds the money for us, which is taken later (a capture) or let go ('voided'), and
-- 'voided' is written down before the provider is told, as 'refunded' is.
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
    -- Whose request this was, so that whoever mends a crash can keep the answer under its Idempotency-Key.
    request_owner     TEXT,
    request_key       TEXT,
    -- When the provider is asked how an open payment stands, and how often it has been.
    ask_at            TIMESTAMPTZ NOT NULL DEFAULT now(),
    asked             INT NOT NULL DEFAULT 0,
    processed_at      TIMESTAMPTZ,
    created_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    -- What the provider still has to be told; null: nothing.
    due               TEXT CONSTRAINT payments_due CHECK (due IN ('capture', 'void')),
    redirect_url      TEXT  -- where the buyer has to go before the payment goes on
);
CREATE INDEX idx_payments_order ON payments(order_id);
-- Two payments of one order can't both be under way or paid, whatever the code does.
CREATE UNIQUE INDEX payments_one_open ON payments(order_id) WHERE status IN ('pending', 'authorized', 'succeeded');
CREATE INDEX payments_to_ask ON payments(ask_at) WHERE status IN ('pending', 'authorized') OR due IS NOT NULL;
-- Reconciliation goes through a day's payments and refunds in their order.
CREATE INDEX payments_newest ON payments(created_at, id);

CREATE TABLE payment_refunds (
    id            UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    payment_id    UUID NOT NULL REFERENCES payments(id),
    amount_cents  BIGINT NOT NULL CONSTRAINT payment_refunds_amount CHECK (amount_cents > 0),
    status        TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'succeeded', 'failed')),
    reason        TEXT NOT NULL CHECK (reason IN ('asked', 'cancelled', 'late')),
    restock       BOOLEAN NOT NULL DEFAULT false,
    actor         TEXT,  -- who gave it: a user's id, `guest`, or `key:` and an API key's id
    provider_ref  TEXT,
    request_owner TEXT,
    request_key   TEXT,
    ask_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    asked         INT NOT NULL DEFAULT 0,
    processed_at  TIMESTAMPTZ,
    created_at    TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at    TIMESTAMPTZ NOT NULL DEFAULT now(),
    -- What a refund by line is for, as `promise_pieces` counted it, so that whoever finishes the refund finishes the same
    -- one; and why staff gave it, in their words.
    lines         JSONB,
    note          TEXT
);
CREATE INDEX payment_refunds_payment ON payment_refunds(payment_id);
CREATE INDEX payment_refunds_to_ask ON payment_refunds(ask_at) WHERE status = 'pending';
CREATE INDEX payment_refunds_newest ON payment_refunds(created_at, id);

-- Stored in the transaction of its effect: an event seen here has been carried out. It is stored first, so it must not
-- touch the payment's row, as a foreign key would: orders are locked before payments.
CREATE TABLE webhook_events (
    provider    TEXT NOT NULL,
    event_id    TEXT NOT NULL,
    kind        TEXT NOT NULL,
    payment_id  UUID,
    received_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, event_id)
);
CREATE INDEX webhook_events_age ON webhook_events (received_at);
