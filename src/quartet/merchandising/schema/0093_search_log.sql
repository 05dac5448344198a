-- migrate:up

-- Searches, anonymous: `id` is random, generated for the answer.
CREATE TABLE searches (
    id    UUID PRIMARY KEY,
    at    TIMESTAMPTZ NOT NULL,
    query TEXT COLLATE "C" NOT NULL,  -- normalised; text like an e-mail address or a telephone number is masked
    found INT NOT NULL
);
CREATE INDEX searches_at ON searches (at);

-- Products whose page was opened from a search, once each.
CREATE TABLE search_opens (
    search_id  UUID NOT NULL,
    product_id TEXT COLLATE "C" NOT NULL,
    at         TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (search_id, product_id)
);
CREATE INDEX search_opens_at ON search_opens (at);

-- The search that an order's line came from, only until the order is paid or given up: then the row is deleted, and
-- with it the last link between a search and a person.
CREATE TABLE search_lines (
    order_id  UUID NOT NULL REFERENCES orders(id) ON DELETE CASCADE,
    sku       TEXT COLLATE "C" NOT NULL,
    search_id UUID NOT NULL,
    PRIMARY KEY (order_id, sku)
);

-- Sales after a query, summed up by day: neither the order nor the search can be identified from it.
CREATE TABLE search_sales (
    day         DATE NOT NULL,
    query       TEXT COLLATE "C" NOT NULL,
    sku         TEXT COLLATE "C" NOT NULL,
    currency    CHAR(3) NOT NULL,
    units       BIGINT NOT NULL,
    gross_cents BIGINT NOT NULL,
    PRIMARY KEY (day, query, sku, currency)
);
