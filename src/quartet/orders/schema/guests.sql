-- Gives the guest orders made with an e-mail address to the user who has verified it; returns how many. The guest's
-- order tokens stop working, and items that are paid later are removed from the user's cart, which the guest's cart was
-- merged into. The row locks let a payment or cancellation in progress finish first; any later one finds the order
-- owned by the user. Only orders are locked here, by id, and expire_orders, the other function that locks several,
-- never waits for one.
CREATE OR REPLACE FUNCTION claim_orders(p_email TEXT, p_user_id UUID) RETURNS INT LANGUAGE plpgsql AS $$
DECLARE
    v_count INT;
BEGIN
    WITH held AS (
        SELECT id FROM orders WHERE email = p_email ORDER BY id FOR NO KEY UPDATE
    ), claimed AS (
        UPDATE orders o SET user_id = p_user_id, email = NULL, guest_cart = NULL, updated_at = now()
        FROM held WHERE o.id = held.id RETURNING o.id, o.status
    )
    INSERT INTO order_history (order_id, from_status, to_status, by, reason)
    SELECT id, status, status, p_user_id::text, 'claimed' FROM claimed;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END $$;
