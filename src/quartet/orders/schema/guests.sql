-- Whoever has proven an address gets the guest orders made with it; answers how many. What was told to the guest opens
-- nothing any more, and the user's own cart, which has taken in the guest's, loses what is still to be paid. The rows'
-- locks let a payment or a cancellation under way end first; whoever comes after finds a user's order. Orders only are
-- locked here, by id, and expire_orders, which locks several as well, waits for none.
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
