-- migrate:up

-- What search is known to hold of each product, so that a sale which changes nothing that is searched for writes nothing
-- there. `version` is the latest batch that looked at the product, `digest` what its document was then, `home` the
-- rebuild whose index was live. `sure`: the engine has acknowledged just that, and no other write is under way.
-- The rest is what comparisons of many products at once go by. `bucket`: where the product belongs, for good. `seen`:
-- the fingerprint of the catalog's document that the latest batch saw, `fingerprint` that of the document which search
-- should hold, each 0 where there is none. `levels`: price and pieces of each SKU as that batch saw them,
-- {"SKU": [cents, pieces]}.
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
