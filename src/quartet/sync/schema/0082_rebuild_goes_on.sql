-- migrate:up

-- A rebuild that was cut short goes on where it was, by whichever worker: into `index_name`, from bucket `upto` on.
-- `kind`: a new index, or back to the one that was live before. `rate`: products a second. `without`: products that staff
-- gave up, by dropping the dead letter that kept the index from going live.
ALTER TABLE sync_rebuilds
    ADD COLUMN kind       TEXT NOT NULL DEFAULT 'new' CHECK (kind IN ('new', 'back')),
    ADD COLUMN index_name TEXT,
    ADD COLUMN upto       INT NOT NULL DEFAULT 0,
    ADD COLUMN rate       REAL NOT NULL DEFAULT 0,
    ADD COLUMN without    TEXT[] NOT NULL DEFAULT '{}';
