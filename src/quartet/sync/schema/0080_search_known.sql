-- migrate:up

-- What search is known to hold of each product, so that a sale that does not change a product's search document writes
-- nothing there. `version`: the latest batch that read the product, `digest`: the hash of its document then, `home`:
-- the rebuild whose index was live. `sure`: the engine has acknowledged exactly that, and no other write is in flight.
-- The other columns are for comparing many products at once. `bucket`: the product's bucket, which never changes.
-- `seen`: the fingerprint of the catalog's document that the latest batch read, `fingerprint`: that of the document
-- that search should hold, each 0 if there is none. `levels`: price and available stock of each SKU as that batch read
-- them, {"SKU": [cents, pieces]}.
CREATE TABLE search_known (
    product_id  TEXT PRIMARY KEY,
    version     BIGINT NOT NULL,
    digest      BYTEA NOT NULL,
    home        BIGINT NOT NULL,
    sure        BOOLEAN NOT NULL DEFAULT false,
    bucket      INT NOT NULL,
    seen        BIGINT NOT NULL,
    fingerprint BIGINT NOT NULL,
    levels      JSONB NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX search_known_bucket ON search_known (bucket);
