-- The privileges of the application's role: all rows of all tables, with three exceptions. The audit log and the ledger
-- are append-only, migrations are read-only, and no table can be altered, truncated or dropped. Tables that the same
-- owner creates later are covered too. Applied again whenever this file changes; it can also be run by hand, by a role
-- that may create roles.
DO $$
DECLARE
    owner TEXT := (SELECT tableowner FROM pg_tables WHERE tablename = 'audit_log' AND schemaname = current_schema());
    thing RECORD;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'quartet_app') THEN
        IF NOT (SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user) THEN
            RAISE NOTICE '% may not create the role quartet_app: run app_role.sql as somebody who may', current_user;
            RETURN;
        END IF;
        BEGIN
            CREATE ROLE quartet_app NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;  -- another database of this cluster was migrated at the same time
        END;
    END IF;
    FOR thing IN
        SELECT oid, nspname AS name FROM pg_namespace
        WHERE nspname NOT LIKE 'pg\_%' AND nspname <> 'information_schema' AND pg_has_role(nspowner, 'USAGE')
    LOOP
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO quartet_app', thing.name);
    END LOOP;
    FOR thing IN
        SELECT c.oid::regclass AS name, c.relkind = 'S' AS counts
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S') AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema'
          AND pg_has_role(c.relowner, 'USAGE')
    LOOP
        IF thing.counts THEN
            EXECUTE format('GRANT USAGE, SELECT ON SEQUENCE %s TO quartet_app', thing.name);
        ELSE
            EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO quartet_app', thing.name);
        END IF;
    END LOOP;
    EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE %I GRANT USAGE ON SCHEMAS TO quartet_app', owner);
    EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE %I GRANT USAGE, SELECT ON SEQUENCES TO quartet_app', owner);
    EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE %I GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO quartet_app', owner);
    REVOKE UPDATE, DELETE ON audit_log, inventory_movements FROM quartet_app;
    REVOKE INSERT, UPDATE, DELETE ON schema_migrations FROM quartet_app;
END $$;
