-- migrate:up

-- Webhook endpoints of shops' own systems. Their signing secrets are not stored: each is derived from the shop's secret
-- and the salt, so that neither of the two is enough.
CREATE TABLE webhook_endpoints (
    id              UUID PRIMARY KEY,
    url             TEXT NOT NULL,
    events          TEXT[] NOT NULL CHECK (cardinality(events) > 0),
    description     TEXT,
    salt            BYTEA NOT NULL,
    old_salt        BYTEA,
    old_until       TIMESTAMPTZ,  -- until when the secret before the last rotation also signs
    enabled         BOOLEAN NOT NULL DEFAULT true,
    disabled_reason TEXT,
    failures        INT NOT NULL DEFAULT 0,  -- consecutive
    opened          INT NOT NULL DEFAULT 0,  -- how often the breaker has opened consecutively
    open_until      TIMESTAMPTZ,
    failing_since   TIMESTAMPTZ,
    created_by      UUID NOT NULL,
    created_at      TIMESTAMPTZ NOT NULL,
    updated_at      TIMESTAMPTZ NOT NULL
);

-- Deliveries of events to endpoints, one per event and endpoint.
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
    status       INT,   -- HTTP status of the last response, if there was one
    answer       TEXT,  -- the beginning of its body
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
-- Deliveries with a guest's e-mail address, by order: to remove it when the guest is erased.
CREATE INDEX webhook_deliveries_of_guests ON webhook_deliveries (key) WHERE payload ? 'email';
-- For each claim to count an endpoint's deliveries in flight, however many are pending.
CREATE INDEX webhook_deliveries_leased ON webhook_deliveries (endpoint_id, leased_until)
    WHERE state = 'pending' AND leased_until IS NOT NULL;
