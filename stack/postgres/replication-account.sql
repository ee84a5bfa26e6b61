-- Airbyte's account in PostgreSQL: reads the tables of schema public and their changes, and nothing else.
--
-- Both engines run this with new data. On a server of your own, as a superuser:
--
--   psql --host HOST --username postgres --dbname airbyte --file stack/postgres/replication-account.sql \
--        --variable reader=airbyte --variable password=SECRET --variable owner=docker
--
-- `owner` is the user of the pipeline, who makes the tables.
CREATE ROLE :"reader" LOGIN REPLICATION PASSWORD :'password';
GRANT USAGE ON SCHEMA public TO :"reader";
GRANT SELECT ON ALL TABLES IN SCHEMA public TO :"reader";
-- The pipeline makes its tables later, and anew after they were dropped.
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" IN SCHEMA public GRANT SELECT ON TABLES TO :"reader";
