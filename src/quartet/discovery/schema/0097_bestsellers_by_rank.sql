-- migrate:up

CREATE INDEX bestsellers_by_rank ON bestsellers (period, units DESC, product_id);
