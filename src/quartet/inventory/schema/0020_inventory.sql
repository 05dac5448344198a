-- migrate:up

-- Minor units; with the limits of an order's lines no total overflows BIGINT. A domain, because every statement
-- that writes a row has to load the table's CHECKs, and most do not change the price.
CREATE DOMAIN price_cents AS BIGINT CHECK (VALUE BETWEEN 0 AND 100000000000);

-- Price and stock, a row per sellable SKU. SKUs compare byte by byte (COLLATE "C"), because rows are locked in SKU
-- order, which must not depend on a server's locale.
CREATE TABLE inventory (
    sku              TEXT COLLATE "C" PRIMARY KEY,
    name             TEXT NOT NULL,
    stock            INT NOT NULL DEFAULT 0,
    reserved         INT NOT NULL DEFAULT 0,
    unit_price_cents price_cents NOT NULL,
    currency         CHAR(3) NOT NULL DEFAULT 'USD',
    category         TEXT,  -- a copy of the catalog's, for reports
    -- Incremented by every change that writes its own ledger entry; other changes were made by hand, directly in SQL.
    revision         BIGINT NOT NULL DEFAULT 0,
    updated_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT inventory_reserved CHECK (reserved >= 0 AND reserved <= stock)  -- so the stock is never below 0 either
) WITH (fillfactor = 70);  -- room for new row versions on the same page: HOT updates, which write no indexes

-- The ledger: every change of stock and reserved, with its reason. Its sums equal the row. It has no foreign keys,
-- since entries outlive what they refer to, and each would cost a look-up per line when an order is placed.
CREATE TABLE inventory_movements (
    sku            TEXT COLLATE "C" NOT NULL,
    id             BIGINT GENERATED ALWAYS AS IDENTITY,
    stock_delta    INT NOT NULL DEFAULT 0,
    reserved_delta INT NOT NULL DEFAULT 0,
    reason         TEXT NOT NULL,  -- opening, received, adjusted, reserved, released, sold, returned, or free text
    order_id       UUID,
    note           TEXT,
    actor          TEXT NOT NULL DEFAULT 'system',  -- a user's id, or which part of the shop
    created_at     TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (sku, id)
);

CREATE FUNCTION refuse_ledger_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger of inventory movements is only ever added to' USING ERRCODE = 'QT007';
END $$;
CREATE TRIGGER inventory_movements_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON inventory_movements
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_ledger_change();

-- Writes the ledger's opening entry for every new row, however it was inserted: by the shop, by COPY, by hand.
CREATE FUNCTION open_ledger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO inventory_movements (sku, stock_delta, reserved_delta, reason)
    SELECT sku, stock, reserved, 'opening' FROM fresh WHERE stock <> 0 OR reserved <> 0;
    INSERT INTO outbox (topic, key, payload)
    SELECT 'stock.changed', sku, jsonb_build_object('sku', sku) FROM fresh;
    RETURN NULL;
END $$;
CREATE TRIGGER inventory_opens_ledger AFTER INSERT ON inventory REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION open_ledger();

-- Writes to ledger and outbox when a row was changed or deleted by hand.
CREATE FUNCTION follow_hand() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.stock <> 0 OR OLD.reserved <> 0 THEN
            INSERT INTO inventory_movements (sku, stock_delta, reserved_delta, reason, actor)
            VALUES (OLD.sku, -OLD.stock, -OLD.reserved, 'adjusted', session_user);
        END IF;
    ELSIF OLD.sku <> NEW.sku THEN
        RAISE EXCEPTION 'a SKU keeps its name: add %, and take the stock of % down', NEW.sku, OLD.sku
            USING ERRCODE = 'QT007';
    ELSIF OLD.stock <> NEW.stock OR OLD.reserved <> NEW.reserved THEN
        INSERT INTO inventory_movements (sku, stock_delta, reserved_delta, reason, actor)
        VALUES (NEW.sku, NEW.stock - OLD.stock, NEW.reserved - OLD.reserved, 'adjusted', session_user);
    END IF;
    INSERT INTO outbox (topic, key, payload)
    VALUES ('stock.changed', OLD.sku, jsonb_build_object('sku', OLD.sku));
    RETURN NULL;
END $$;
CREATE TRIGGER inventory_follows_hand AFTER UPDATE ON inventory
    FOR EACH ROW WHEN (OLD.revision = NEW.revision) EXECUTE FUNCTION follow_hand();
CREATE TRIGGER inventory_follows_deletion AFTER DELETE ON inventory
    FOR EACH ROW EXECUTE FUNCTION follow_hand();
