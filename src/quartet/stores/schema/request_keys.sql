-- An Idempotency-Key is claimed, taken and finished by these three, called one by one or by a function that does all of a
-- transaction's work in one statement.

-- The key as it stands: null where nobody has it, the row that holds its first answer, or one without an answer where
-- another request is at work: without a fingerprint as well, as long as that has written nothing. The lock goes with the
-- transaction. The row is looked for after the lock was tried, so that whoever gets it sees what its last holder wrote.
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

-- With an answer, or started without one. False, and nothing done, over a key that another request has taken since it
-- was claimed: a refusal is kept without the lock. A key older than 24 hours is free again even before it is swept.
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

-- The answer of a request that was started without one; a key that has its answer keeps that.
CREATE OR REPLACE FUNCTION finish_request(
    p_owner TEXT, p_key TEXT, p_status INT, p_headers JSONB, p_body BYTEA
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE idempotency_keys SET status = p_status, headers = p_headers, body = p_body
    WHERE owner = p_owner AND key = p_key AND status IS NULL;
END $$;
