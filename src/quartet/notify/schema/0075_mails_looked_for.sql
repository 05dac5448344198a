-- migrate:up

CREATE INDEX mails_dead ON mails (id) WHERE state = 'dead';
-- With the id, since of many that wait nearly all are due since ever, and the first of them are asked for.
CREATE INDEX mails_waiting ON mails (not_before, id) WHERE state = 'waiting';
DROP INDEX mails_due;
