-- migrate:up

-- Units sold per day, of orders that were paid and not cancelled; each day is recounted.
CREATE TABLE sold_days (
    day   DATE NOT NULL,
    sku   TEXT COLLATE "C" NOT NULL,
    units BIGINT NOT NULL,
    PRIMARY KEY (day, sku)
);

-- The orders that contain a SKU: a copy of order lines by SKU, written in the background, since an index on order_items
-- would slow down placing orders.
CREATE TABLE baskets (
    sku      TEXT COLLATE "C" NOT NULL,
    day      DATE NOT NULL,
    order_id UUID NOT NULL,
    PRIMARY KEY (sku, day, order_id)
);

-- The SKUs bought together with a SKU, the best first, and its number of baskets. `stale`: these have changed since.
CREATE TABLE bought_together (
    sku        TEXT COLLATE "C" PRIMARY KEY,
    others     TEXT[] NOT NULL DEFAULT '{}',
    baskets    BIGINT NOT NULL,
    stale      BOOLEAN NOT NULL DEFAULT true,
    counted_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX bought_together_stale ON bought_together (counted_at) WHERE stale;

-- The best-selling products of each category and period.
CREATE TABLE bestsellers (
    period     TEXT NOT NULL,
    product_id TEXT COLLATE "C" NOT NULL,
    category   TEXT COLLATE "C" NOT NULL,
    units      BIGINT NOT NULL,
    PRIMARY KEY (period, product_id)
);
CREATE INDEX bestsellers_by_rank ON bestsellers (period, units DESC, product_id);
