# Sourced by the entry point of PostgreSQL's image at the first start: the account with which Airbyte reads.
# shellcheck shell=bash
if [ -n "${AIRBYTE_REPLICATION_PASSWORD:-}" ]; then
    psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'END'
\getenv reader AIRBYTE_REPLICATION_USER
\getenv password AIRBYTE_REPLICATION_PASSWORD
\getenv owner POSTGRES_USER
\i /etc/pipectl/replication-account.sql
END
fi
