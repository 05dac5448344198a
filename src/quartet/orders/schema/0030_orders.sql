-- migrate:up

CREATE SEQUENCE order_numbers START 100001;

CREATE TABLE orders (
    id             UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    number         BIGINT NOT NULL DEFAULT nextval('order_numbers') CONSTRAINT orders_number UNIQUE,
    user_id        UUID NOT NULL REFERENCES users(id),
    status         TEXT NOT NULL DEFAULT 'pending'
                   CHECK (status IN ('pending', 'confirmed', 'shipped', 'delivered', 'cancelled', 'refunded')),
    total_cents    BIGINT NOT NULL,
    captured_cents BIGINT NOT NULL DEFAULT 0,
    refunded_cents BIGINT NOT NULL DEFAULT 0,
    currency       CHAR(3) NOT NULL DEFAULT 'USD',
    metadata       JSONB NOT NULL DEFAULT '{}',
    created_at     TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at     TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at     TIMESTAMPTZ,  -- until when an unpaid order holds its stock; null once that is decided
    CONSTRAINT orders_money CHECK (
        refunded_cents >= 0 AND refunded_cents <= captured_cents AND captured_cents <= total_cents)
);
ALTER SEQUENCE order_numbers OWNED BY orders.number;

CREATE TABLE order_items (
    id               UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    order_id         UUID NOT NULL REFERENCES orders(id) ON DELETE CASCADE,
    sku              TEXT COLLATE "C" NOT NULL REFERENCES inventory(sku),
    quantity         INT NOT NULL CHECK (quantity > 0),
    unit_price_cents BIGINT NOT NULL,  -- as charged
    product_name     TEXT NOT NULL     -- as it was called then
);

-- Every step after the order was placed; the placing itself is the order's own row.
CREATE TABLE order_history (
    id          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id    UUID NOT NULL REFERENCES orders(id) ON DELETE CASCADE,
    at          TIMESTAMPTZ NOT NULL DEFAULT now(),
    from_status TEXT NOT NULL,
    to_status   TEXT NOT NULL,
    by          TEXT NOT NULL DEFAULT 'system',  -- a user's id, or which part of the shop
    reason      TEXT
);

-- Money given back of an order, on its own day.
CREATE TABLE refunds (
    id           UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    order_id     UUID NOT NULL REFERENCES orders(id) ON DELETE CASCADE,
    at           TIMESTAMPTZ NOT NULL DEFAULT now(),
    amount_cents BIGINT NOT NULL CONSTRAINT refunds_amount CHECK (amount_cents > 0),
    currency     CHAR(3) NOT NULL,
    restocked    BOOLEAN NOT NULL DEFAULT false,
    reason       TEXT,
    by           TEXT NOT NULL DEFAULT 'system',
    source_ref   TEXT CONSTRAINT refunds_once UNIQUE  -- the provider's or an import's own name for it
);
-- What part of a refund falls on which SKU; the parts sum up to the refund.
CREATE TABLE refund_items (
    refund_id    UUID NOT NULL REFERENCES refunds(id) ON DELETE CASCADE,
    sku          TEXT COLLATE "C" NOT NULL REFERENCES inventory(sku),
    amount_cents BIGINT NOT NULL CHECK (amount_cents >= 0),
    PRIMARY KEY (refund_id, sku)
);

CREATE INDEX idx_orders_user ON orders(user_id, created_at DESC);
CREATE INDEX idx_orders_status ON orders(status, created_at DESC) WHERE status IN ('pending', 'confirmed');
CREATE INDEX idx_order_items_order ON order_items(order_id);
-- For staff's lists, the sweep of unpaid orders, an order's own page, and reports by day.
CREATE INDEX orders_newest ON orders(created_at DESC, id DESC);
CREATE INDEX orders_done ON orders(status, created_at DESC)
    WHERE status IN ('shipped', 'delivered', 'cancelled', 'refunded');
CREATE INDEX orders_due ON orders(expires_at) WHERE status = 'pending';
CREATE INDEX order_history_order ON order_history(order_id);
CREATE INDEX refunds_order ON refunds(order_id);
CREATE INDEX refunds_at ON refunds(at);
