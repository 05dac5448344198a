-- What place_order refuses, said line by line. Raises QT003 with DETAIL [{"index", "field", "message"}].
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

-- What place_order could not reserve: of these SKUs, in these numbers, every one that is unknown (QT002) or short
-- (QT001). Returns when there is none, because somebody gave stock back meanwhile.
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

-- Another total than the buyer was shown: says what each line costs now. Raises QT009.
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

-- Reserves stock and writes the order, all or nothing; answers its id.
--   p_items  [{"sku": "LAPTOP-001", "qty": 1}, …]: lines of one SKU are added up, at most 999 pieces of each
--   p_hold   how long an unpaid order keeps its stock
--   p_expected  what the buyer was shown that it costs; null: whatever it costs
--   p_email     a guest's address, where p_user_id is null
--   p_cart      the name of the guest's cart, which loses what is bought
-- Raises QT001 insufficient stock, DETAIL [{"sku", "requested", "available"}], every shortage;
--        QT002 unknown SKUs, DETAIL ["sku", …]; QT003 lines that are none; QT006 SKUs of several currencies;
--        QT009 another total than expected, DETAIL {"expected_total_cents", "total_cents", "currency", "changes"}.
-- Inventory rows are locked in SKU order, here and everywhere (order_steps.sql), so that carts holding the same things in another
-- order wait for one another instead of dying of each other. bench/place_order.py tells what each part costs.
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

    -- The lock that the foreign key takes anyway, and a look at whether the user was forgotten: what is ordered has to be
    -- there for the erasure to find, or not to be at all. Before the shelf, which nobody shall wait for meanwhile.
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

    -- One statement, because starting one costs more than a row does. Ids of lines are named by order and SKU, since
    -- drawing each would be a system call where PostgreSQL is built without OpenSSL. One event for all: order.placed
    -- says that the stock of its SKUs changed, so a basket of twenty lines is one row for the relay and not twenty-one.
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

-- The same under an Idempotency-Key, which is claimed before: `request` is what claim_request says; only where that is
-- null is an order `placed`, as order_document shows it. Its answer is the caller's to keep before the transaction ends.
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
