-- migrate:up

-- E-mails, each sent once: one row per event and kind, however often the event is delivered. Tokens and addresses are
-- not stored: the address is read from the user's account or the guest's order when the e-mail is sent.
CREATE TABLE mails (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id   UUID NOT NULL,
    kind       TEXT NOT NULL,
    user_id    UUID,  -- the recipient; null for a guest. No foreign key: the row outlives the account
    args       JSONB NOT NULL DEFAULT '{}',
    state      TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'sent', 'dropped', 'dead')),
    attempts   INT NOT NULL DEFAULT 0,
    not_before TIMESTAMPTZ NOT NULL DEFAULT '-infinity',
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    done_at    TIMESTAMPTZ,
    CONSTRAINT mails_once UNIQUE (event_id, kind)
);
-- With the id, since nearly all waiting rows have the same not_before (-infinity), and the first by id are read.
CREATE INDEX mails_waiting ON mails (not_before, id) WHERE state = 'waiting';
CREATE INDEX mails_of_user ON mails (user_id, kind, created_at);
CREATE INDEX mails_age ON mails (done_at) WHERE state IN ('sent', 'dropped');
CREATE INDEX mails_dead ON mails (id) WHERE state = 'dead';
