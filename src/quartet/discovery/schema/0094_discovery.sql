-- migrate:up

-- What sold on a day, of orders that were paid and not cancelled: counted anew day by day.
CREATE TABLE sold_days (
    day   DATE NOT NULL,
    sku   TEXT COLLATE "C" NOT NULL,
    units BIGINT NOT NULL,
    PRIMARY KEY (day, sku)
);

-- Which orders a SKU was in. The lines of orders once more, by SKU: an index on order_items would be paid for by whoever
-- places an order, and this is written behind.
CREATE TABLE baskets (
    sku      TEXT COLLATE "C" NOT NULL,
    day      DATE NOT NULL,
    order_id UUID NOT NULL,
    PRIMARY KEY (sku, day, order_id)
);

-- What is bought together with a SKU, the best first, and how many baskets it is in. `stale`: they have changed since.
CREATE TABLE bought_together (
    sku        TEXT COLLATE "C" PRIMARY KEY,
    others     TEXT[] NOT NULL DEFAULT '{}',
    baskets    BIGINT NOT NULL,
    stale      BOOLEAN NOT NULL DEFAULT true,
    counted_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX bought_together_stale ON bought_together (counted_at) WHERE stale;

-- The products that sold best of each category and period.
CREATE TABLE bestsellers (
    period     TEXT NOT NULL,
    product_id TEXT COLLATE "C" NOT NULL,
    category   TEXT COLLATE "C" NOT NULL,
    units      BIGINT NOT NULL,
    PRIMARY KEY (period, product_id)
);
CREATE INDEX bestsellers_by_rank ON bestsellers (period, units DESC, product_id);
