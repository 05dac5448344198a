-- The life of an Idempotency-Key: claim, take, finish; called one by one, or by a function that does a transaction's
-- whole work in one statement.

-- The key's current state: null if it is free; the row with its response; or a row without a response if another
-- request is in progress, and without a fingerprint if that one has not written anything yet. The advisory lock lasts
-- until the transaction ends. The row is read after trying the lock, so that whoever gets the lock sees what its last
-- holder wrote.
CREATE OR REPLACE FUNCTION claim_request(p_owner TEXT, p_key TEXT) RETURNS idempotency_keys LANGUAGE plpgsql AS $$
DECLARE
    v_free    BOOLEAN := pg_try_advisory_xact_lock(hashtextextended(p_owner || chr(10) || p_key, 0));
    v_request idempotency_keys;
BEGIN
    SELECT * INTO v_request FROM idempotency_keys
    WHERE owner = p_owner AND key = p_key AND created_at > now() - interval '24 hours';
    IF NOT FOUND AND NOT v_free THEN
        v_request.owner := p_owner;
    END IF;
    RETURN v_request;
END $$;

-- Stores the key, with a response or without one yet. Returns false and does nothing if another request has taken it
-- since it was claimed, which is possible because an error response is stored without the lock. A key older than 24
-- hours is free even before it is swept.
CREATE OR REPLACE FUNCTION take_request(
    p_owner TEXT, p_key TEXT, p_fingerprint BYTEA, p_status INT, p_headers JSONB, p_body BYTEA
) RETURNS BOOLEAN LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO idempotency_keys (owner, key, fingerprint, status, headers, body)
    VALUES (p_owner, p_key, p_fingerprint, p_status, p_headers, p_body)
    ON CONFLICT (owner, key) DO UPDATE
        SET fingerprint = excluded.fingerprint, status = excluded.status, headers = excluded.headers,
            body = excluded.body, created_at = now()
        WHERE idempotency_keys.created_at <= now() - interval '24 hours';
    RETURN FOUND;
END $$;

-- Stores the response of a request that was started without one; a response that is already there is kept.
CREATE OR REPLACE FUNCTION finish_request(
    p_owner TEXT, p_key TEXT, p_status INT, p_headers JSONB, p_body BYTEA
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE idempotency_keys SET status = p_status, headers = p_headers, body = p_body
    WHERE owner = p_owner AND key = p_key AND status IS NULL;
END $$;
