-- migrate:up

-- Which months of which file are in the books, and with which run they came. A cancellation was matched with sales of
-- its own or an earlier run; a later run needs this to repeat those decisions instead of changing what is booked.
CREATE TABLE retail_months (
    source      TEXT NOT NULL,  -- the file's SHA-256
    month       TEXT NOT NULL CHECK (month ~ '^\d{4}-\d{2}$'),
    turn        INT NOT NULL,
    imported_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    shelved_at  TIMESTAMPTZ,  -- since when its goods are in the catalog, which no transaction of ours reaches
    PRIMARY KEY (source, month)
);
