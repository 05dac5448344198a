-- migrate:up

-- E-mails to be sent, each once: an event and what it is told as are one row, however often the event is carried. No
-- token and no address lies here: a user's is asked of the account, a guest's of the order, when the e-mail is sent.
CREATE TABLE mails (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id   UUID NOT NULL,
    kind       TEXT NOT NULL,
    user_id    UUID,  -- whom it is for; null for a guest. No foreign key: it outlives the account
    args       JSONB NOT NULL DEFAULT '{}',
    state      TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'sent', 'dropped', 'dead')),
    attempts   INT NOT NULL DEFAULT 0,
    not_before TIMESTAMPTZ NOT NULL DEFAULT '-infinity',
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    done_at    TIMESTAMPTZ,
    CONSTRAINT mails_once UNIQUE (event_id, kind)
);
-- With the id, since of many that wait nearly all are due since ever, and the first of them are asked for.
CREATE INDEX mails_waiting ON mails (not_before, id) WHERE state = 'waiting';
CREATE INDEX mails_of_user ON mails (user_id, kind, created_at);
CREATE INDEX mails_age ON mails (done_at) WHERE state IN ('sent', 'dropped');
CREATE INDEX mails_dead ON mails (id) WHERE state = 'dead';
