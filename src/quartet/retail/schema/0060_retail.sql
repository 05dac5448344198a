-- migrate:up

-- Which months of which file have been imported, and by which run. A cancellation was matched with sales of its own or
-- an earlier run; a later run needs this to repeat those decisions instead of changing what was imported.
CREATE TABLE retail_months (
    source      TEXT NOT NULL,  -- the file's SHA-256
    month       TEXT NOT NULL CHECK (month ~ '^\d{4}-\d{2}$'),
    turn        INT NOT NULL,
    imported_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    shelved_at  TIMESTAMPTZ,  -- when its products were written to the catalog, which is outside the transaction
    PRIMARY KEY (source, month)
);
