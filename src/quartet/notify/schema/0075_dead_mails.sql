-- migrate:up

CREATE INDEX mails_dead ON mails (id) WHERE state = 'dead';

-- migrate:down
DROP INDEX mails_dead;
