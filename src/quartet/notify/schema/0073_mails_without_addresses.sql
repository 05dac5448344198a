-- migrate:up

-- No address lies here at all: a user's is asked of the account, a guest's of the order, when the e-mail is sent.
ALTER TABLE mails DROP COLUMN email;
