-- migrate:up

-- Boards are made anew of what was confirmed since a moment. By blocks, since rows come in the order of time: next to
-- nothing for whoever writes.
CREATE INDEX order_history_at ON order_history USING brin (at);
