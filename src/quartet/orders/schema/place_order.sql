-- Reports invalid items, one by one. Raises QT003 with DETAIL [{"index", "field", "message"}].
CREATE OR REPLACE FUNCTION refuse_order_items(p_items JSONB) RETURNS void LANGUAGE plpgsql AS $$
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
                   CASE WHEN jsonb_typeof(line -> 'qty') = 'number' AND line ->> 'qty' ~ '^[1-9][0-9]{0,2}$'
                        THEN (line -> 'qty')::int END AS qty
            FROM jsonb_array_elements(p_items) WITH ORDINALITY AS given(line, n)
        ), counted AS (
            SELECT *, sum(qty) OVER (PARTITION BY sku) AS together FROM lines
        )
        SELECT jsonb_agg(jsonb_build_object('index', index, 'field', field, 'message', message) ORDER BY index, field)
        INTO v_faults
        FROM counted, LATERAL (VALUES
            ('sku', 'must be a text', named IS NOT TRUE),
            ('qty', 'must be a whole number from 1 to 999', qty IS NULL),
            ('qty', 'comes to more than 999 of one SKU', qty IS NOT NULL AND together > 999)
        ) AS fault(field, message, holds)
        WHERE holds;
    END IF;
    RAISE EXCEPTION 'these are no order lines: %', coalesce(v_faults ->> 0, 'null')
        USING ERRCODE = 'QT003', DETAIL = coalesce(v_faults, '[]')::text;
END $$;

-- Reports every unknown SKU (QT002), or every SKU with insufficient stock (QT001). Returns if there is none, because
-- stock was released in the meantime.
CREATE OR REPLACE FUNCTION refuse_shortage(p_skus TEXT[], p_qtys INT[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_unknown JSONB;
    v_short   JSONB;
BEGIN
    SELECT jsonb_agg(line.sku ORDER BY n) FILTER (WHERE inventory.sku IS NULL),
           jsonb_agg(jsonb_build_object('sku', line.sku, 'requested', qty, 'available', stock - reserved) ORDER BY n)
               FILTER (WHERE stock - reserved < qty)
    INTO v_unknown, v_short
    FROM unnest(p_skus, p_qtys) WITH ORDINALITY AS line(sku, qty, n) LEFT JOIN inventory USING (sku);
    IF v_unknown IS NOT NULL THEN
        RAISE EXCEPTION 'Unknown SKU %', (SELECT string_agg(sku, ', ') FROM jsonb_array_elements_text(v_unknown) AS sku)
            USING ERRCODE = 'QT002', DETAIL = v_unknown::text;
    ELSIF v_short IS NOT NULL THEN
        RAISE EXCEPTION 'Insufficient stock for SKU %',
                (SELECT string_agg(short ->> 'sku', ', ') FROM jsonb_array_elements(v_short) AS short)
            USING ERRCODE = 'QT001', DETAIL = v_short::text;
    END IF;
END $$;

-- Reports that the total is not the expected one, with the current price of each item. Raises QT009.
CREATE OR REPLACE FUNCTION refuse_total(
    p_expected BIGINT, p_total BIGINT, p_currency TEXT, p_skus TEXT[], p_qtys INT[], p_prices BIGINT[]
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'it costs % now, not %', p_total, p_expected
        USING ERRCODE = 'QT009', DETAIL = json_build_object(
            'expected_total_cents', p_expected, 'total_cents', p_total, 'currency', p_currency,
            'changes', (SELECT json_agg(json_build_object('sku', sku, 'qty', qty, 'unitPriceCents', price,
                                                          'lineTotalCents', price * qty) ORDER BY n)
                        FROM unnest(p_skus, p_qtys, p_prices) WITH ORDINALITY AS line(sku, qty, price, n)))::text;
END $$;

-- Reserves stock and creates the order, all or nothing; returns its id.
--   p_items     [{"sku": "LAPTOP-001", "qty": 1}, …]; items with the same SKU are added up, at most 999 pieces of each
--   p_hold      how long stock is reserved for an unpaid order
--   p_expected  the total that the buyer was shown; null: any total is accepted
--   p_email     the guest's address if p_user_id is null
--   p_cart      the guest's cart, from which the ordered items are removed once they are bought
-- Raises QT001 insufficient stock, DETAIL [{"sku", "requested", "available"}] for every such SKU;
--        QT002 unknown SKUs, DETAIL ["sku", …]; QT003 invalid items; QT006 several currencies;
--        QT009 unexpected total, DETAIL {"expected_total_cents", "total_cents", "currency", "changes"}.
-- Inventory rows are locked in SKU order, here and everywhere (order_steps.sql), so that carts with the same SKUs in a
-- different order wait for each other and do not deadlock. bench/place_order.py measures what each part costs.
CREATE OR REPLACE FUNCTION place_order(
    p_user_id  UUID,
    p_items    JSONB,
    p_metadata JSONB DEFAULT '{}',
    p_hold     INTERVAL DEFAULT '15 minutes',
    p_expected BIGINT DEFAULT NULL,
    p_email    TEXT DEFAULT NULL,
    p_cart     TEXT DEFAULT NULL
) RETURNS UUID LANGUAGE plpgsql AS $$
DECLARE
    v_order_id   UUID := gen_random_uuid();
    v_line       JSONB;
    v_sku        TEXT COLLATE "C";
    v_skus       TEXT[] := '{}';
    v_qtys       INT[] := '{}';
    v_ascending  BOOLEAN := true;
    v_name       TEXT;
    v_names      TEXT[] := '{}';
    v_price      BIGINT;
    v_prices     BIGINT[] := '{}';
    v_priced_in  CHAR(3);
    v_currency   CHAR(3);
    v_total      BIGINT := 0;
BEGIN
    IF jsonb_typeof(p_items) IS DISTINCT FROM 'array' OR jsonb_array_length(p_items) NOT BETWEEN 1 AND 1000 THEN
        PERFORM refuse_order_items(p_items);
    END IF;
    FOR i IN 0 .. jsonb_array_length(p_items) - 1 LOOP
        v_line := p_items -> i;
        IF jsonb_typeof(v_line -> 'sku') = 'string' AND jsonb_typeof(v_line -> 'qty') = 'number'
           AND v_line ->> 'qty' ~ '^[1-9][0-9]{0,2}$' THEN
            v_sku := v_line ->> 'sku';
            v_ascending := v_ascending AND (i = 0 OR v_skus[i] < v_sku);
            v_skus := v_skus || v_sku;
            v_qtys := v_qtys || (v_line -> 'qty')::int;
        ELSE
            PERFORM refuse_order_items(p_items);
        END IF;
    END LOOP;
    IF NOT v_ascending THEN
        SELECT array_agg(sku), array_agg(qty) INTO v_skus, v_qtys
        FROM (SELECT sku, sum(qty)::int AS qty FROM unnest(v_skus, v_qtys) AS line(sku, qty)
              GROUP BY sku ORDER BY sku COLLATE "C") AS line;
        IF 999 < ANY (v_qtys) THEN
            PERFORM refuse_order_items(p_items);
        END IF;
    END IF;

    -- The lock that the foreign key takes anyway, and a check that the user is not erased: an order either exists when
    -- the erasure runs, or is never created. Before the inventory rows, so that nobody waits for those meanwhile.
    IF p_user_id IS NOT NULL THEN
        PERFORM FROM users WHERE id = p_user_id AND erased_at IS NULL FOR KEY SHARE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'there is no user %', p_user_id
                USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'orders_user_id_fkey';
        END IF;
    END IF;

    FOR i IN 1 .. cardinality(v_skus) LOOP
        LOOP
            UPDATE inventory SET reserved = reserved + v_qtys[i], revision = revision + 1, updated_at = now()
            WHERE sku = v_skus[i] AND stock - reserved >= v_qtys[i]
            RETURNING name, unit_price_cents, currency INTO v_name, v_price, v_priced_in;
            EXIT WHEN FOUND;
            PERFORM refuse_shortage(v_skus[i:], v_qtys[i:]);
        END LOOP;
        IF v_currency <> v_priced_in THEN
            RAISE EXCEPTION 'an order is paid in one currency'
                USING ERRCODE = 'QT006', DETAIL = (SELECT json_object_agg(sku, currency)::text
                                                   FROM inventory WHERE sku = ANY (v_skus));
        END IF;
        v_currency := v_priced_in;
        v_total := v_total + v_price * v_qtys[i];
        v_prices := v_prices || v_price;
        v_names := v_names || v_name;
    END LOOP;
    IF v_total <> p_expected THEN
        PERFORM refuse_total(p_expected, v_total, v_currency, v_skus, v_qtys, v_prices);
    END IF;

    -- One statement, since starting one costs more than a row does. Ids of items are derived from order and SKU:
    -- generating each would be a system call where PostgreSQL is built without OpenSSL. One event in all: order.placed
    -- implies that the stock of its SKUs has changed, so an order of twenty items is one row for the relay instead of
    -- twenty-one.
    WITH placed AS (
        INSERT INTO orders (id, user_id, email, guest_cart, total_cents, currency, metadata, expires_at)
        VALUES (v_order_id, p_user_id, p_email, p_cart, v_total, v_currency, p_metadata, now() + p_hold)
    ), items AS (
        INSERT INTO order_items (id, order_id, sku, quantity, unit_price_cents, product_name)
        SELECT md5(v_order_id::text || sku)::uuid, v_order_id, sku, qty, price, name
        FROM unnest(v_skus, v_qtys, v_prices, v_names) AS line(sku, qty, price, name)
    ), moved AS (
        INSERT INTO inventory_movements (sku, reserved_delta, reason, order_id, actor)
        SELECT sku, qty, 'reserved', v_order_id, coalesce(p_user_id::text, 'guest')
        FROM unnest(v_skus, v_qtys) AS line(sku, qty)
    )
    INSERT INTO outbox (event_id, topic, key, payload)
    VALUES (v_order_id, 'order.placed', v_order_id::text, jsonb_build_object(
        'order_id', v_order_id, 'user_id', p_user_id, 'currency', v_currency, 'total_cents', v_total,
        'items', p_items));
    RETURN v_order_id;
END $$;

-- The same under an Idempotency-Key, which is claimed first: `request` is claim_request's result, and only if it is
-- null, `placed` is the order as order_document shows it. The caller stores the response under the key before the
-- transaction ends.
CREATE OR REPLACE FUNCTION place_order_under_key(
    p_owner TEXT, p_key TEXT, p_user_id UUID, p_items JSONB, p_metadata JSONB, p_hold INTERVAL, p_expected BIGINT,
    p_email TEXT, p_cart TEXT, OUT request idempotency_keys, OUT placed JSONB
) LANGUAGE plpgsql AS $$
BEGIN
    request := claim_request(p_owner, p_key);
    IF request.owner IS NULL THEN
        placed := order_document(place_order(p_user_id, p_items, p_metadata, p_hold, p_expected, p_email, p_cart));
    END IF;
END $$;
