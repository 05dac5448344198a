-- migrate:up

-- Where shops' own systems want to be told what happens. No secret lies here: it is drawn from the shop's secret and the
-- salt, so that neither of the two tells it alone.
CREATE TABLE webhook_endpoints (
    id              UUID PRIMARY KEY,
    url             TEXT NOT NULL,
    events          TEXT[] NOT NULL CHECK (cardinality(events) > 0),
    description     TEXT,
    salt            BYTEA NOT NULL,
    old_salt        BYTEA,
    old_until       TIMESTAMPTZ,  -- until when what was signed before the last rotation signs as well
    enabled         BOOLEAN NOT NULL DEFAULT true,
    disabled_reason TEXT,
    failures        INT NOT NULL DEFAULT 0,  -- in a row
    opened          INT NOT NULL DEFAULT 0,  -- how often in a row the breaker has opened
    open_until      TIMESTAMPTZ,
    failing_since   TIMESTAMPTZ,
    created_by      UUID NOT NULL,
    created_at      TIMESTAMPTZ NOT NULL,
    updated_at      TIMESTAMPTZ NOT NULL
);

-- What is to be told to whom, each event once an endpoint.
CREATE TABLE webhook_deliveries (
    id           BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    endpoint_id  UUID NOT NULL REFERENCES webhook_endpoints (id) ON DELETE CASCADE,
    event_id     UUID NOT NULL,
    topic        TEXT NOT NULL,
    key          TEXT NOT NULL,
    payload      JSONB NOT NULL,
    happened_at  TIMESTAMPTZ NOT NULL,
    state        TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'dead')),
    attempts     INT NOT NULL DEFAULT 0,
    not_before   TIMESTAMPTZ NOT NULL DEFAULT '-infinity',
    leased_until TIMESTAMPTZ,
    give_up_at   TIMESTAMPTZ NOT NULL,
    status       INT,   -- of the last answer, if there was one
    answer       TEXT,  -- its beginning
    error        TEXT,
    created_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
    done_at      TIMESTAMPTZ,
    CONSTRAINT webhook_deliveries_once UNIQUE (endpoint_id, event_id)
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (endpoint_id, id) WHERE state = 'pending';
CREATE INDEX webhook_deliveries_key ON webhook_deliveries (endpoint_id, key, id) WHERE state = 'pending';
CREATE INDEX webhook_deliveries_end ON webhook_deliveries (give_up_at) WHERE state = 'pending';
CREATE INDEX webhook_deliveries_age ON webhook_deliveries (done_at) WHERE state <> 'pending';
CREATE INDEX webhook_deliveries_newest ON webhook_deliveries (endpoint_id, id);
-- Those that name a guest's address, by their orders: it goes when the guest wants to be forgotten.
CREATE INDEX webhook_deliveries_of_guests ON webhook_deliveries (key) WHERE payload ? 'email';
-- How many of an endpoint's are on their way, which each claim counts, however many wait.
CREATE INDEX webhook_deliveries_leased ON webhook_deliveries (endpoint_id, leased_until)
    WHERE state = 'pending' AND leased_until IS NOT NULL;
