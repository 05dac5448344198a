-- The order as the API shows it, in one call; null if there is none. VOLATILE, so that `SELECT
-- order_document(place_order(…))` sees what place_order has just written, in one round trip. Payments are read at run
-- time from the table that the payments room owns.
CREATE OR REPLACE FUNCTION order_document(p_order_id UUID) RETURNS JSONB LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN (
        SELECT jsonb_build_object(
            'id', o.id, 'number', 'Q-' || o.number, 'user_id', o.user_id, 'email', o.email, 'status', o.status,
            'items', (
                SELECT jsonb_agg(jsonb_build_object(
                    'sku', i.sku, 'name', i.product_name, 'qty', i.quantity, 'unit_price_cents', i.unit_price_cents,
                    'line_total_cents', i.unit_price_cents * i.quantity) ORDER BY i.sku, i.unit_price_cents, i.id)
                FROM order_items i WHERE i.order_id = o.id),
            'total_cents', o.total_cents, 'captured_cents', o.captured_cents, 'refunded_cents', o.refunded_cents,
            'currency', o.currency, 'metadata', o.metadata,
            'payments', (
                SELECT jsonb_agg(jsonb_build_object(
                    'id', p.id, 'order_id', p.order_id, 'provider', p.provider, 'provider_ref', p.provider_ref,
                    'amount_cents', p.amount_cents, 'status', p.status, 'processed_at', p.processed_at, 'refunds', (
                        SELECT jsonb_agg(jsonb_build_object(
                            'id', r.id, 'amount_cents', r.amount_cents, 'status', r.status, 'reason', r.reason,
                            'created_at', r.created_at, 'processed_at', r.processed_at) ORDER BY r.created_at, r.id)
                        FROM payment_refunds r WHERE r.payment_id = p.id), 'contests', (
                        SELECT jsonb_agg(jsonb_build_object(
                            'provider_ref', c.provider_ref, 'reason', c.reason, 'amount_cents', c.amount_cents, 'contested_at', c.contested_at,
                            'settled_at', c.settled_at) ORDER BY c.contested_at, c.provider_ref)
                        FROM payment_contests c WHERE c.payment_id = p.id))
                    ORDER BY p.created_at, p.id)
                FROM payments p WHERE p.order_id = o.id),
            'history', (
                SELECT jsonb_agg(jsonb_build_object(
                    'at', h.at, 'from', h.from_status, 'to', h.to_status, 'by', h.by, 'reason', h.reason)
                    ORDER BY h.id)
                FROM order_history h WHERE h.order_id = o.id),
            'refunds', CASE WHEN o.captured_cents > 0 THEN (
                SELECT jsonb_agg(jsonb_build_object(
                    'id', r.id, 'at', r.at, 'amount_cents', r.amount_cents, 'restocked', r.restocked, 'by', r.by,
                    'reason', r.reason, 'items', (
                        SELECT jsonb_agg(jsonb_build_object('sku', part.sku, 'qty', part.quantity,
                            'restocked_qty', part.restocked, 'amount_cents', part.amount_cents) ORDER BY part.sku)
                        FROM refund_items part WHERE part.refund_id = r.id)) ORDER BY r.at, r.amount_cents, r.id)
                FROM refunds r WHERE r.order_id = o.id) END,
            'created_at', o.created_at, 'updated_at', o.updated_at, 'expires_at', o.expires_at)
        FROM orders o WHERE o.id = p_order_id);
END $$;
