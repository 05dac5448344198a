-- migrate:up

-- Who was forgotten keeps a row, for the orders that must be kept; nothing in it tells who it was, and nothing can be put
-- back into it.
ALTER TABLE users
    ADD COLUMN erased_at TIMESTAMPTZ,
    ADD CONSTRAINT users_erased CHECK (
        erased_at IS NULL
        OR (email = 'erased-' || id || '@erased.invalid' AND roles = '{}'
            AND num_nonnulls(password_hash, display_name, pending_email, email_verified_at) = 0));
