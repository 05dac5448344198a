-- migrate:up

-- What comparisons of many products at once go by. `bucket`: where the product belongs, for good. `seen`: the fingerprint
-- of the catalog's document that the latest batch saw, `fingerprint` that of the document which search should hold, each 0
-- where there is none. `levels`: price and pieces of each SKU as that batch saw them, {"SKU": [cents, pieces]}.
-- What was known before is forgotten, which costs one write of each product and nothing else.
TRUNCATE search_known;
ALTER TABLE search_known
    ADD COLUMN bucket      INT NOT NULL,
    ADD COLUMN seen        BIGINT NOT NULL,
    ADD COLUMN fingerprint BIGINT NOT NULL,
    ADD COLUMN levels      JSONB NOT NULL;
CREATE INDEX search_known_bucket ON search_known (bucket);
