-- migrate:up

-- What a refund by line is for, as `promise_pieces` counted it, so that whoever finishes the refund finishes the same
-- one; and why staff gave it, in their words.
ALTER TABLE payment_refunds ADD COLUMN lines JSONB, ADD COLUMN note TEXT;
