-- name: is_there
SELECT to_regclass('public.schema_migrations') IS NOT NULL;

-- name: point
-- Without functions (name@digest): the version that restores creates its own.
SELECT clock_timestamp() AS point, array(SELECT version FROM schema_migrations WHERE version NOT LIKE '%@%' ORDER BY 1)
    AS migrations;

-- name: holds
-- Whether the database holds data that a restore would destroy.
SELECT EXISTS (SELECT FROM users) OR EXISTS (SELECT FROM inventory) OR EXISTS (SELECT FROM orders);

-- name: clear
-- Drops everything, whatever the version of its schema.
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
-- So that the next migration creates them again, with the privileges of roles, which a backup does not contain.
DELETE FROM schema_migrations WHERE version LIKE '%@%';
