-- migrate:up

-- What was searched for, without who did: `id` is drawn for the answer and stands for nothing else.
CREATE TABLE searches (
    id    UUID PRIMARY KEY,
    at    TIMESTAMPTZ NOT NULL,
    query TEXT COLLATE "C" NOT NULL,  -- normalised; what looks like an address or a telephone is masked
    found INT NOT NULL
);
CREATE INDEX searches_at ON searches (at);

-- Products whose page was opened from a search, each once.
CREATE TABLE search_opens (
    search_id  UUID NOT NULL,
    product_id TEXT COLLATE "C" NOT NULL,
    at         TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (search_id, product_id)
);
CREATE INDEX search_opens_at ON search_opens (at);

-- From which search a line of an order came, only until that order is paid or given up: then the row goes, and with it
-- the last thing that could say who searched.
CREATE TABLE search_lines (
    order_id  UUID NOT NULL REFERENCES orders(id) ON DELETE CASCADE,
    sku       TEXT COLLATE "C" NOT NULL,
    search_id UUID NOT NULL,
    PRIMARY KEY (order_id, sku)
);

-- What was bought after a query, added up by day: neither the order nor the search can be told from it.
CREATE TABLE search_sales (
    day         DATE NOT NULL,
    query       TEXT COLLATE "C" NOT NULL,
    sku         TEXT COLLATE "C" NOT NULL,
    currency    CHAR(3) NOT NULL,
    units       BIGINT NOT NULL,
    gross_cents BIGINT NOT NULL,
    PRIMARY KEY (day, query, sku, currency)
);
