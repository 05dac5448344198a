-- Reserves pieces for a refund by item before the provider is called, so that no other refund counts them too; of a SKU
-- with several prices the most expensive first. p_items: [{"sku", "qty"}, …]. Returns the lines to store with the
-- refund: [{"item", "sku", "qty", "cents", "settles"}, …]. `settles`: how many of them were neither restocked nor
-- written off before; this refund decides on these. Raises QT005, DETAIL {"pieces": [{"sku", "requested",
-- "refundable"}, …]}.
CREATE OR REPLACE FUNCTION promise_pieces(p_order_id UUID, p_items JSONB) RETURNS JSONB LANGUAGE plpgsql AS $$
DECLARE
    v_skus  TEXT[];
    v_qtys  INT[];
    v_over  JSONB;
    v_lines JSONB;
BEGIN
    SELECT array_agg(sku), array_agg(qty) INTO v_skus, v_qtys
    FROM (SELECT sku, sum(qty)::int AS qty FROM jsonb_to_recordset(p_items) AS line(sku TEXT, qty INT) GROUP BY sku) AS line;
    SELECT jsonb_agg(jsonb_build_object('sku', sku, 'requested', qty, 'refundable', coalesce(free, 0)) ORDER BY sku)
    INTO v_over
    FROM unnest(v_skus, v_qtys) AS asked(sku, qty)
    LEFT JOIN (SELECT sku, sum(quantity - refunded_qty) AS free FROM order_items WHERE order_id = p_order_id GROUP BY sku)
           AS ours USING (sku)
    WHERE qty > coalesce(free, 0);
    IF v_over IS NOT NULL THEN
        RAISE EXCEPTION 'there are not so many pieces of this order to give the money back for'
            USING ERRCODE = 'QT005', DETAIL = json_build_object('pieces', v_over)::text;
    END IF;
    WITH pieces AS (
        SELECT id, qty, quantity - refunded_qty AS free, quantity - settled_qty AS unsettled,
               sum(quantity - refunded_qty) OVER (PARTITION BY sku ORDER BY unit_price_cents DESC, id) AS upto
        FROM order_items JOIN unnest(v_skus, v_qtys) AS asked(sku, qty) USING (sku) WHERE order_id = p_order_id
    ), taken AS (
        SELECT id, unsettled, least(free, greatest(0, qty - (upto - free)))::int AS qty FROM pieces
    ), counted AS (
        UPDATE order_items i
        SET refunded_qty = refunded_qty + t.qty, settled_qty = settled_qty + least(t.qty, t.unsettled)
        FROM taken t WHERE i.order_id = p_order_id AND i.id = t.id AND t.qty > 0
        RETURNING i.id, i.sku, t.qty, least(t.qty, t.unsettled) AS settles, i.unit_price_cents * t.qty AS cents
    )
    SELECT jsonb_agg(jsonb_build_object('item', id, 'sku', sku, 'qty', qty, 'cents', cents, 'settles', settles)
                     ORDER BY sku, id)
    INTO v_lines FROM counted;
    RETURN v_lines;
END $$;

-- The refund failed: undoes promise_pieces.
CREATE OR REPLACE FUNCTION release_pieces(p_order_id UUID, p_lines JSONB) RETURNS void LANGUAGE sql AS $$
    UPDATE order_items i SET refunded_qty = refunded_qty - line.qty, settled_qty = settled_qty - line.settles
    FROM jsonb_to_recordset(p_lines) AS line(item UUID, qty INT, settles INT)
    WHERE i.order_id = p_order_id AND i.id = line.item
$$;

-- Restocks the pieces of a refund; or, if p_lines is null, all pieces of the order that were neither restocked nor
-- written off. Returns how many of each SKU: {"SKU": pieces}.
CREATE OR REPLACE FUNCTION return_pieces(p_order_id UUID, p_lines JSONB, p_by TEXT) RETURNS JSONB LANGUAGE plpgsql AS $$
DECLARE
    v_skus TEXT[];
    v_qtys INT[];
BEGIN
    WITH back AS (
        SELECT item AS id, settles AS qty, 0 AS settles FROM jsonb_to_recordset(p_lines) AS line(item UUID, settles INT)
        UNION ALL
        SELECT id, quantity - settled_qty, quantity - settled_qty FROM order_items
        WHERE order_id = p_order_id AND p_lines IS NULL
    ), returned AS (
        UPDATE order_items i SET settled_qty = settled_qty + back.settles, restocked_qty = restocked_qty + back.qty
        FROM back WHERE i.order_id = p_order_id AND i.id = back.id AND back.qty > 0
        RETURNING i.sku, back.qty
    )
    SELECT array_agg(sku ORDER BY sku), array_agg(qty ORDER BY sku) INTO v_skus, v_qtys
    FROM (SELECT sku, sum(qty)::int AS qty FROM returned GROUP BY sku) AS line;
    PERFORM move_pieces(p_order_id, v_skus, v_qtys, 1, 0, 'returned', p_by);
    RETURN (SELECT coalesce(jsonb_object_agg(sku, qty), '{}') FROM unnest(v_skus, v_qtys) AS line(sku, qty));
END $$;

-- Records a refund of a captured order; returns its id. A full refund changes the status to 'refunded' (a cancelled
-- order stays cancelled). p_amount null: everything that is left. p_lines: promise_pieces' result. p_restock: restocks
-- these pieces, or without p_lines all that are not settled. p_id: the refund's id, if it already has one. p_replaces:
-- the refund under which this one was announced and withdrawn before it was known to be this one. A p_source_ref seen
-- before returns that refund's id again.
-- Raises QT004 if nothing was captured, QT005 if more is requested than is left, QT008 if there is no such order.
CREATE OR REPLACE FUNCTION refund_order(
    p_order_id   UUID,
    p_amount     BIGINT DEFAULT NULL,
    p_restock    BOOLEAN DEFAULT false,
    p_by         TEXT DEFAULT 'system',
    p_reason     TEXT DEFAULT NULL,
    p_source_ref TEXT DEFAULT NULL,
    p_lines      JSONB DEFAULT NULL,
    p_id         UUID DEFAULT NULL,
    p_replaces   UUID DEFAULT NULL
) RETURNS UUID LANGUAGE plpgsql AS $$
DECLARE
    v_order  orders;
    v_left   BIGINT;
    v_amount BIGINT;
    v_refund UUID;
    v_back   JSONB := '{}';
BEGIN
    SELECT * INTO v_order FROM orders WHERE id = p_order_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no order %', p_order_id USING ERRCODE = 'QT008';
    ELSIF v_order.captured_cents = 0 THEN
        RAISE EXCEPTION 'nothing was paid for this order, so there is nothing to give back'
            USING ERRCODE = 'QT004', DETAIL = json_build_object('from', v_order.status, 'to', 'refunded')::text;
    END IF;
    SELECT id INTO v_refund FROM refunds WHERE source_ref = p_source_ref AND order_id = p_order_id;
    IF FOUND THEN
        RETURN v_refund;
    END IF;
    v_left := v_order.captured_cents - v_order.refunded_cents;
    v_amount := coalesce(p_amount, v_left);
    IF v_amount NOT BETWEEN 1 AND v_left THEN
        RAISE EXCEPTION '% of this order can be given back, not %', v_left, v_amount
            USING ERRCODE = 'QT005',
                  DETAIL = json_build_object('refundable_cents', v_left, 'requested_cents', v_amount)::text;
    END IF;

    IF p_restock THEN
        v_back := return_pieces(p_order_id, p_lines, p_by);
    END IF;
    INSERT INTO refunds (id, order_id, amount_cents, currency, restocked, reason, by, source_ref)
    VALUES (coalesce(p_id, gen_random_uuid()), p_order_id, v_amount, v_order.currency, v_back <> '{}', p_reason, p_by,
            p_source_ref)
    RETURNING id INTO v_refund;

    -- Each refunded line counts towards its SKU, up to what is left of it. The rest, or the whole amount, is divided
    -- among the SKUs in proportion to what is left of each; the cents lost by rounding down go to the largest
    -- remainders (Hamilton's method).
    INSERT INTO refund_items (refund_id, sku, amount_cents, quantity, restocked)
    WITH lines AS (
        SELECT sku, sum(qty) AS qty, sum(cents) AS cents
        FROM jsonb_to_recordset(p_lines) AS line(sku TEXT, qty INT, cents BIGINT) GROUP BY sku
    ), unrefunded AS (
        SELECT i.sku, sum(i.unit_price_cents * i.quantity) - coalesce((
                   SELECT sum(part.amount_cents) FROM refund_items part JOIN refunds r ON r.id = part.refund_id
                   WHERE r.order_id = p_order_id AND part.sku = i.sku), 0) AS cents
        FROM order_items i WHERE i.order_id = p_order_id GROUP BY i.sku
    ), direct AS (
        SELECT sku, coalesce(qty, 0) AS qty, least(u.cents, coalesce(lines.cents, 0)) AS own,
               u.cents - least(u.cents, coalesce(lines.cents, 0)) AS left_over
        FROM unrefunded u LEFT JOIN lines USING (sku)
    ), spread AS (
        SELECT *, v_amount - sum(own) OVER () AS amount, nullif(sum(left_over) OVER (), 0) AS all_left FROM direct
    ), shares AS (
        SELECT *, coalesce(div(amount * left_over, all_left), 0) AS whole,
               coalesce((amount * left_over) % all_left, 0) AS rest
        FROM spread
    ), ranked AS (
        SELECT *, row_number() OVER (ORDER BY rest DESC, sku) AS place, amount - sum(whole) OVER () AS spare FROM shares
    ), parts AS (
        SELECT sku, own + whole + (place <= spare)::int AS cents, qty, coalesce((v_back ->> sku)::int, 0) AS back FROM ranked
    )
    SELECT v_refund, sku, cents, qty, back FROM parts WHERE cents > 0 OR qty > 0 OR back > 0;

    UPDATE orders SET refunded_cents = refunded_cents + v_amount, updated_at = now() WHERE id = p_order_id;
    IF v_amount = v_left AND v_order.status NOT IN ('cancelled', 'refunded') THEN  -- it may be, after a failed refund
        PERFORM step_order(p_order_id, 'refunded', p_by, p_reason);
    END IF;
    PERFORM tell_orders('order.refunded', ARRAY[p_order_id], jsonb_strip_nulls(jsonb_build_object(
        'refund_id', v_refund, 'amount_cents', v_amount, 'replaces', p_replaces)));
    RETURN v_refund;
END $$;

-- A refund failed after it was recorded (p_lines: promise_pieces' result for it), and its money is back: recorded as a
-- negative refund on the day of the failure. It can be refunded again, for the same pieces as well. Whether these are
-- in stock does not change, nor does the order's status: 'refunded' is final.
CREATE OR REPLACE FUNCTION take_refund_back(p_order_id UUID, p_source_ref TEXT, p_lines JSONB, p_by TEXT, p_reason TEXT)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_given refunds;
    v_taken UUID;
BEGIN
    SELECT * INTO STRICT v_given FROM refunds WHERE order_id = p_order_id AND source_ref = p_source_ref;
    INSERT INTO refunds (order_id, amount_cents, currency, reason, by, takes_back)
    VALUES (p_order_id, -v_given.amount_cents, v_given.currency, p_reason, p_by, v_given.id) RETURNING id INTO v_taken;
    INSERT INTO refund_items (refund_id, sku, amount_cents, quantity)
    SELECT v_taken, sku, -amount_cents, -quantity FROM refund_items WHERE refund_id = v_given.id;
    UPDATE order_items i SET refunded_qty = refunded_qty - line.qty
    FROM jsonb_to_recordset(p_lines) AS line(item UUID, qty INT) WHERE i.order_id = p_order_id AND i.id = line.item;
    UPDATE orders SET refunded_cents = refunded_cents - v_given.amount_cents, updated_at = now() WHERE id = p_order_id;
END $$;
