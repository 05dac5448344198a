-- The function of the specification, word for word but for the names of the schema and of what it returns to: what
-- ours is measured against. It locks in the buyer's order and checks duplicates apart; see docs/decisions.
CREATE SCHEMA brief;
SET search_path = brief;

CREATE TABLE users (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    email TEXT NOT NULL UNIQUE,
    password_hash TEXT,
    display_name TEXT,
    plan TEXT NOT NULL DEFAULT 'free',
    created_at TIMESTAMPTZ NOT NULL DEFAULT NOW()
);

CREATE TABLE inventory (
    sku TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    stock INT NOT NULL DEFAULT 0 CHECK (stock >= 0),
    reserved INT NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    unit_price_cents INT NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL DEFAULT NOW()
);

CREATE TABLE orders (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id UUID NOT NULL REFERENCES users(id),
    status TEXT NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending','confirmed','shipped','delivered','cancelled','refunded')),
    total_cents INT NOT NULL,
    currency CHAR(3) NOT NULL DEFAULT 'USD',
    metadata JSONB DEFAULT '{}',
    created_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT NOW()
);

CREATE TABLE order_items (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    order_id UUID NOT NULL REFERENCES orders(id) ON DELETE CASCADE,
    sku TEXT NOT NULL REFERENCES inventory(sku),
    quantity INT NOT NULL CHECK (quantity > 0),
    unit_price_cents INT NOT NULL,
    product_name TEXT NOT NULL
);

CREATE INDEX idx_orders_user ON orders(user_id, created_at DESC);
CREATE INDEX idx_orders_status ON orders(status, created_at DESC)
    WHERE status IN ('pending','confirmed');
CREATE INDEX idx_order_items_order ON order_items(order_id);

CREATE OR REPLACE FUNCTION place_order(
    p_user_id UUID,
    p_items JSONB
) RETURNS UUID AS $$
DECLARE
    v_order_id UUID := gen_random_uuid();
    v_total INT := 0;
    v_item JSONB;
    v_sku TEXT;
    v_qty INT;
    v_price INT;
    v_name TEXT;
BEGIN
    FOR v_item IN SELECT * FROM jsonb_array_elements(p_items)
    LOOP
        v_sku := v_item->>'sku';
        v_qty := (v_item->>'qty')::INT;
        SELECT unit_price_cents, name INTO v_price, v_name
        FROM inventory
        WHERE sku = v_sku AND (stock - reserved) >= v_qty
        FOR UPDATE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'Insufficient stock for SKU %', v_sku;
        END IF;
        UPDATE inventory
        SET reserved = reserved + v_qty, updated_at = NOW()
        WHERE sku = v_sku;
        v_total := v_total + (v_price * v_qty);
    END LOOP;
    INSERT INTO orders (id, user_id, total_cents)
    VALUES (v_order_id, p_user_id, v_total);
    FOR v_item IN SELECT * FROM jsonb_array_elements(p_items)
    LOOP
        v_sku := v_item->>'sku';
        v_qty := (v_item->>'qty')::INT;
        SELECT unit_price_cents, name INTO v_price, v_name
        FROM inventory WHERE sku = v_sku;
        INSERT INTO order_items (order_id, sku, quantity, unit_price_cents, product_name)
        VALUES (v_order_id, v_sku, v_qty, v_price, v_name);
    END LOOP;
    RETURN v_order_id;
END;
$$ LANGUAGE plpgsql;
