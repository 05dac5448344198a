-- migrate:up

-- What place_order refuses, said line by line. Raises QT003 with DETAIL [{"index", "field", "message"}].
CREATE FUNCTION refuse_order_items(p_items JSONB) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_faults JSONB;
BEGIN
    IF jsonb_typeof(p_items) IS DISTINCT FROM 'array' OR jsonb_array_length(p_items) = 0 THEN
        v_faults := '[{"index": null, "field": "items", "message": "an order has at least one line"}]';
    ELSIF jsonb_array_length(p_items) > 1000 THEN
        v_faults := '[{"index": null, "field": "items", "message": "an order has at most 1000 lines"}]';
    ELSE
        WITH lines AS (
            SELECT n - 1 AS index, line ->> 'sku' AS sku, jsonb_typeof(line -> 'sku') = 'string' AS named,
                   CASE jsonb_typeof(line -> 'qty') WHEN 'number' THEN (line -> 'qty')::numeric END AS qty
            FROM jsonb_array_elements(p_items) WITH ORDINALITY AS given(line, n)
        ), counted AS (
            SELECT *, qty IS NOT NULL AND qty BETWEEN 1 AND 999 AND qty % 1 = 0 AS good,
                   sum(qty) OVER (PARTITION BY sku) AS together
            FROM lines
        )
        SELECT jsonb_agg(jsonb_build_object('index', index, 'field', field, 'message', message) ORDER BY index, field)
        INTO v_faults
        FROM counted, LATERAL (VALUES
            ('sku', 'must be a text', named IS NOT TRUE),
            ('qty', 'must be a whole number from 1 to 999', NOT good),
            ('qty', 'comes to more than 999 of one SKU', good AND together > 999)
        ) AS fault(field, message, holds)
        WHERE holds;
    END IF;
    RAISE EXCEPTION 'these are no order lines: %', coalesce(v_faults ->> 0, 'null')
        USING ERRCODE = 'QT003', DETAIL = coalesce(v_faults, '[]')::text;
END $$;

-- Reserves stock and writes the order, all or nothing; answers its id.
--   p_items  [{"sku": "LAPTOP-001", "qty": 1}, …]: lines of one SKU are added up, at most 999 pieces of each
--   p_hold   how long an unpaid order keeps its stock
-- Raises QT001 insufficient stock, DETAIL [{"sku", "requested", "available"}], every shortage;
--        QT002 unknown SKUs, DETAIL ["sku", …]; QT003 lines that are none; QT006 SKUs of several currencies.
-- Inventory rows are locked in SKU order, here and everywhere (0032), so that carts holding the same things in another
-- order wait for one another instead of dying of each other.
CREATE FUNCTION place_order(
    p_user_id  UUID,
    p_items    JSONB,
    p_metadata JSONB DEFAULT '{}',
    p_hold     INTERVAL DEFAULT '15 minutes'
) RETURNS UUID LANGUAGE plpgsql AS $$
DECLARE
    v_order_id UUID := gen_random_uuid();
    v_lines    INT := 0;
    v_line     RECORD;
    v_row      RECORD;
    v_skus     TEXT[] := '{}';
    v_qtys     INT[] := '{}';
    v_prices   BIGINT[] := '{}';
    v_names    TEXT[] := '{}';
    v_currency CHAR(3);
    v_total    BIGINT := 0;
    v_unknown  TEXT[];
    v_short    JSONB[];
    v_mixed    BOOLEAN := false;
BEGIN
    IF jsonb_typeof(p_items) IS DISTINCT FROM 'array' OR jsonb_array_length(p_items) NOT BETWEEN 1 AND 1000 THEN
        PERFORM refuse_order_items(p_items);
    END IF;

    FOR v_line IN
        SELECT line ->> 'sku' AS sku, sum((line ->> 'qty')::int)::int AS qty, count(*)::int AS lines
        FROM jsonb_array_elements(p_items) AS line
        WHERE jsonb_typeof(line -> 'sku') = 'string'
          AND CASE jsonb_typeof(line -> 'qty') WHEN 'number'
              THEN (line -> 'qty')::numeric BETWEEN 1 AND 999 AND (line -> 'qty')::numeric % 1 = 0 END
        GROUP BY 1 ORDER BY (line ->> 'sku') COLLATE "C"
    LOOP
        IF v_line.qty > 999 THEN
            PERFORM refuse_order_items(p_items);
        END IF;
        v_lines := v_lines + v_line.lines;
        LOOP
            UPDATE inventory SET reserved = reserved + v_line.qty, revision = revision + 1, updated_at = now()
            WHERE sku = v_line.sku AND stock - reserved >= v_line.qty
            RETURNING name, unit_price_cents, currency INTO v_row;
            EXIT WHEN FOUND;
            -- Held while it is looked at, so that what is reported as short is short; in its turn of SKU order.
            SELECT stock - reserved AS available INTO v_row FROM inventory WHERE sku = v_line.sku FOR NO KEY UPDATE;
            IF NOT FOUND THEN
                v_unknown := v_unknown || v_line.sku;
                EXIT;
            ELSIF v_row.available < v_line.qty THEN
                v_short := v_short || jsonb_build_object(
                    'sku', v_line.sku, 'requested', v_line.qty, 'available', v_row.available);
                EXIT;
            END IF;
        END LOOP;
        CONTINUE WHEN v_unknown IS NOT NULL OR v_short IS NOT NULL;
        v_mixed := v_mixed OR v_currency <> v_row.currency;
        v_currency := v_row.currency;
        v_skus := v_skus || v_line.sku;
        v_qtys := v_qtys || v_line.qty;
        v_prices := v_prices || v_row.unit_price_cents;
        v_names := v_names || v_row.name;
        v_total := v_total + v_row.unit_price_cents * v_line.qty;
    END LOOP;

    IF v_lines <> jsonb_array_length(p_items) THEN
        PERFORM refuse_order_items(p_items);
    ELSIF v_unknown IS NOT NULL THEN
        RAISE EXCEPTION 'Unknown SKU %', array_to_string(v_unknown, ', ')
            USING ERRCODE = 'QT002', DETAIL = to_json(v_unknown)::text;
    ELSIF v_short IS NOT NULL THEN
        RAISE EXCEPTION 'Insufficient stock for SKU %',
                (SELECT string_agg(short ->> 'sku', ', ') FROM unnest(v_short) AS short)
            USING ERRCODE = 'QT001', DETAIL = to_json(v_short)::text;
    ELSIF v_mixed THEN
        RAISE EXCEPTION 'an order is paid in one currency'
            USING ERRCODE = 'QT006', DETAIL = (SELECT json_object_agg(sku, currency)::text
                                               FROM inventory WHERE sku = ANY (v_skus));
    END IF;

    INSERT INTO orders (id, user_id, total_cents, currency, metadata, expires_at)
    VALUES (v_order_id, p_user_id, v_total, v_currency, p_metadata, now() + p_hold);
    INSERT INTO order_items (order_id, sku, quantity, unit_price_cents, product_name)
    SELECT v_order_id, * FROM unnest(v_skus, v_qtys, v_prices, v_names);
    INSERT INTO inventory_movements (sku, reserved_delta, reason, order_id, actor)
    SELECT sku, qty, 'reserved', v_order_id, p_user_id::text FROM unnest(v_skus, v_qtys) AS line(sku, qty);
    INSERT INTO outbox (topic, key, payload)
    SELECT 'order.placed', v_order_id::text, order_event(v_order_id, p_user_id, v_currency, v_total, v_skus, v_qtys)
    UNION ALL
    SELECT 'stock.changed', sku, jsonb_build_object('sku', sku) FROM unnest(v_skus) AS sku;
    RETURN v_order_id;
END $$;

-- The payload of every order event.
CREATE FUNCTION order_event(
    p_order_id UUID, p_user_id UUID, p_currency TEXT, p_total BIGINT, p_skus TEXT[], p_qtys INT[]
) RETURNS JSONB LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_build_object(
        'order_id', p_order_id, 'user_id', p_user_id, 'currency', p_currency, 'total_cents', p_total,
        'items', (SELECT jsonb_agg(jsonb_build_object('sku', sku, 'qty', qty))
                  FROM unnest(p_skus, p_qtys) AS line(sku, qty)))
$$;

-- migrate:down
DROP FUNCTION place_order, refuse_order_items, order_event;
