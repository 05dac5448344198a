-- name: is_there
SELECT to_regclass('public.schema_migrations') IS NOT NULL;

-- name: point
-- Functions (name@digest) are left out: they are put in again from the program that restores.
SELECT clock_timestamp() AS point, array(SELECT version FROM schema_migrations WHERE version NOT LIKE '%@%' ORDER BY 1)
    AS migrations;

-- name: holds
-- Whether anything is in it that somebody would miss.
SELECT EXISTS (SELECT FROM users) OR EXISTS (SELECT FROM inventory) OR EXISTS (SELECT FROM orders);

-- name: clear
-- Whatever schema it had, an older or a newer one, none of it is left.
DO $$
DECLARE
    name TEXT;
BEGIN
    FOR name IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', name);
    END LOOP;
    CREATE SCHEMA public;
    GRANT USAGE ON SCHEMA public TO PUBLIC;
END
$$;

-- name: forget_functions
-- So that the next migration puts them in again, and with them the rights of roles, which a backup does not hold.
DELETE FROM schema_migrations WHERE version LIKE '%@%';
