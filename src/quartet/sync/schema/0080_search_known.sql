-- migrate:up

-- What search is known to hold of each product, so that a sale which changes nothing that is searched for writes nothing
-- there. `version` is the latest batch that looked at the product, `digest` what its document was then, `home` the
-- rebuild whose index was live. `sure`: the engine has acknowledged just that, and no other write is under way.
CREATE TABLE search_known (
    product_id TEXT PRIMARY KEY,
    version    BIGINT NOT NULL,
    digest     BYTEA NOT NULL,
    home       BIGINT NOT NULL,
    sure       BOOLEAN NOT NULL DEFAULT false
) WITH (fillfactor = 70);
