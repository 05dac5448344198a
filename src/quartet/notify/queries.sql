-- name: keep
-- Events are delivered at least once: a duplicate does not cause a second e-mail.
INSERT INTO mails (event_id, kind, user_id, args)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::jsonb[])
ON CONFLICT ON CONSTRAINT mails_once DO NOTHING;

-- name: forget_person
-- No further e-mail is sent to an erased person, and nothing is kept against which an address could be tested.
UPDATE mails SET args = '{}', state = CASE state WHEN 'sent' THEN state ELSE 'dropped' END,
                 done_at = CASE state WHEN 'sent' THEN done_at ELSE now() END
WHERE user_id = ANY ($1) AND (state IN ('waiting', 'dead') OR kind = 'verify');

-- name: forget_orders
-- Dead e-mails about orders of an erased buyer are dropped; waiting ones find no recipient when they are due.
UPDATE mails SET state = 'dropped', args = '{}', done_at = now()
WHERE state = 'dead' AND args ->> 'order_id' = ANY ($1::uuid[]::text[]);

-- name: claim
-- Leases e-mails to this worker. They are sent with no transaction open, so after a crash an e-mail is claimed again
-- when its lease expires. The link that confirms a change of address waits until the present address was notified: once
-- the link is used, no e-mail goes to the old address, and somebody who has stolen the password could change the
-- address without the owner's notice.
UPDATE mails SET attempts = attempts + 1, not_before = $1::timestamptz + $2::float8 * interval '1 second'
WHERE id IN (SELECT id FROM mails AS due WHERE state = 'waiting' AND not_before <= $1
               AND NOT (kind = 'verify' AND EXISTS (
                   SELECT FROM mails AS notice WHERE notice.user_id = due.user_id AND notice.kind = 'email-change'
                     AND notice.state = 'waiting' AND notice.id < due.id))
             ORDER BY not_before, id LIMIT $3 FOR UPDATE SKIP LOCKED)
RETURNING id, event_id, kind, user_id, args, attempts, created_at;

-- name: sent_lately
-- How many e-mails of this kind were sent, or are waiting, for this person in the hour before this one.
SELECT count(*) FROM mails AS earlier JOIN mails AS this ON this.id = $1
WHERE earlier.user_id = this.user_id AND earlier.kind = this.kind AND earlier.id < this.id
  AND earlier.created_at > this.created_at - interval '1 hour' AND earlier.state IN ('waiting', 'sent');

-- name: mark_dead
UPDATE mails SET state = 'dead', done_at = $2 WHERE id = $1 AND state = 'waiting';

-- name: mark
-- Records the outcomes and counts them, and deletes the e-mails' dead letters. $1: the ids in order, $2: the outcomes.
WITH letter AS (
    DELETE FROM dead_letters WHERE pipeline = $4 AND key = ANY ($1::bigint[]::text[])
), counted AS (
    INSERT INTO tallies AS t (name, n)
    SELECT 'mails.' || outcome, count(*) FROM unnest($2::text[]) AS outcome GROUP BY outcome ORDER BY outcome
    ON CONFLICT (name) DO UPDATE SET n = t.n + excluded.n
)
UPDATE mails SET state = outcome, done_at = $3 FROM unnest($1::bigint[], $2::text[]) AS done(mail_id, outcome)
WHERE id = mail_id AND state = 'waiting';

-- name: postpone
UPDATE mails SET not_before = $2 WHERE id = $1;

-- name: revive
-- Retries dead ones from the start, with the same Message-ID.
UPDATE mails SET state = 'waiting', attempts = 0, not_before = '-infinity', done_at = NULL
WHERE id = ANY ($1::bigint[]) AND state = 'dead';

-- name: drop
UPDATE mails SET state = 'dropped', done_at = now() WHERE id = $1 AND state = 'dead';

-- name: sweep
-- After so long that none of their events can be delivered again.
DELETE FROM mails
WHERE id IN (SELECT id FROM mails
             WHERE state IN ('sent', 'dropped') AND done_at < $1::timestamptz - interval '90 days' LIMIT 5000);

-- name: waiting
SELECT count(*) AS waiting, min(created_at) AS oldest FROM mails WHERE state = 'waiting';
