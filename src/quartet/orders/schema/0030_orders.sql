-- migrate:up

CREATE SEQUENCE order_numbers START 100001;

-- An order belongs to a user, or to a guest (e-mail address), or to nobody after the guest was erased: always exactly
-- one of the three. An erased user keeps the row in `users`, and so the orders.
CREATE TABLE orders (
    id             UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    number         BIGINT NOT NULL DEFAULT nextval('order_numbers') CONSTRAINT orders_number UNIQUE,
    user_id        UUID REFERENCES users(id),
    status         TEXT NOT NULL DEFAULT 'pending'
                   CHECK (status IN ('pending', 'confirmed', 'shipped', 'delivered', 'cancelled', 'refunded')),
    total_cents    BIGINT NOT NULL,
    captured_cents BIGINT NOT NULL DEFAULT 0,
    refunded_cents BIGINT NOT NULL DEFAULT 0,
    currency       CHAR(3) NOT NULL DEFAULT 'USD',
    metadata       JSONB NOT NULL DEFAULT '{}',
    created_at     TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at     TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at     TIMESTAMPTZ,  -- until when an unpaid order reserves its stock; null once it is paid or cancelled
    email          TEXT,
    erased_at      TIMESTAMPTZ,
    guest_cart     TEXT,  -- id of the guest's cart, a hash of its token: bought units are removed from it
    CONSTRAINT orders_money CHECK (
        refunded_cents >= 0 AND refunded_cents <= captured_cents AND captured_cents <= total_cents),
    CONSTRAINT orders_belong CHECK (num_nonnulls(user_id, email, erased_at) = 1)
);
ALTER SEQUENCE order_numbers OWNED BY orders.number;
CREATE INDEX idx_orders_user ON orders(user_id, created_at DESC);
CREATE INDEX idx_orders_status ON orders(status, created_at DESC) WHERE status IN ('pending', 'confirmed');
-- For staff's lists, and for the sweep of unpaid orders.
CREATE INDEX orders_newest ON orders(created_at DESC, id DESC);
CREATE INDEX orders_done ON orders(status, created_at DESC)
    WHERE status IN ('shipped', 'delivered', 'cancelled', 'refunded');
CREATE INDEX orders_due ON orders(expires_at) WHERE status = 'pending';
-- For users who verify an address and claim its orders, and for staff who search by address.
CREATE INDEX orders_email ON orders(email, created_at DESC) WHERE email IS NOT NULL;

CREATE TABLE order_items (
    id               UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    order_id         UUID NOT NULL REFERENCES orders(id) ON DELETE CASCADE,
    sku              TEXT COLLATE "C" NOT NULL REFERENCES inventory(sku),
    quantity         INT NOT NULL CHECK (quantity > 0),
    unit_price_cents BIGINT NOT NULL,  -- as charged
    product_name     TEXT NOT NULL,    -- as it was called then
    -- Of the units ordered: how many are refunded (or promised) by line, for how many it is settled whether they are
    -- restocked, and how many were restocked. No unit is counted twice.
    refunded_qty     INT NOT NULL DEFAULT 0
                     CONSTRAINT order_items_refunded CHECK (refunded_qty BETWEEN 0 AND quantity),
    settled_qty      INT NOT NULL DEFAULT 0
                     CONSTRAINT order_items_settled CHECK (settled_qty BETWEEN 0 AND quantity),
    restocked_qty    INT NOT NULL DEFAULT 0
                     CONSTRAINT order_items_restocked CHECK (restocked_qty BETWEEN 0 AND settled_qty)
);
CREATE INDEX idx_order_items_order ON order_items(order_id);

-- Every step after the order was placed: changes of status, and its claim by an account, from a status to the same.
CREATE TABLE order_history (
    id          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id    UUID NOT NULL REFERENCES orders(id) ON DELETE CASCADE,
    at          TIMESTAMPTZ NOT NULL DEFAULT now(),
    from_status TEXT NOT NULL,
    to_status   TEXT NOT NULL,
    by          TEXT NOT NULL DEFAULT 'system',  -- a user's id, or which part of the shop
    reason      TEXT
);
CREATE INDEX order_history_order ON order_history(order_id);  -- for an order's own page
-- For rebuilds of leaderboards from orders confirmed since a given time. BRIN, since rows are appended in order of
-- time: it costs writers next to nothing.
CREATE INDEX order_history_at ON order_history USING brin (at);

-- Refunds of orders, on the day of the refund.
CREATE TABLE refunds (
    id           UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    order_id     UUID NOT NULL REFERENCES orders(id) ON DELETE CASCADE,
    at           TIMESTAMPTZ NOT NULL DEFAULT now(),
    amount_cents BIGINT NOT NULL CONSTRAINT refunds_amount CHECK (amount_cents > 0),
    currency     CHAR(3) NOT NULL,
    restocked    BOOLEAN NOT NULL DEFAULT false,
    reason       TEXT,
    by           TEXT NOT NULL DEFAULT 'system',
    source_ref   TEXT CONSTRAINT refunds_once UNIQUE  -- the provider's or an import's id of it
);
-- For an order's own page, and for reports by day.
CREATE INDEX refunds_order ON refunds(order_id);
CREATE INDEX refunds_at ON refunds(at);

-- The parts of a refund by SKU; they add up to the refund.
CREATE TABLE refund_items (
    refund_id    UUID NOT NULL REFERENCES refunds(id) ON DELETE CASCADE,
    sku          TEXT COLLATE "C" NOT NULL REFERENCES inventory(sku),
    amount_cents BIGINT NOT NULL CHECK (amount_cents >= 0),
    quantity     INT NOT NULL DEFAULT 0 CHECK (quantity >= 0),   -- units refunded
    restocked    INT NOT NULL DEFAULT 0 CHECK (restocked >= 0),  -- units put back into stock with it
    PRIMARY KEY (refund_id, sku)
);
