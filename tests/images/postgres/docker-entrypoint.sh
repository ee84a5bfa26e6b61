#!/bin/bash
# First start: a cluster with the user, password and database of the environment. Then the server.
set -euo pipefail

[ "${1:0:1}" != - ] || set -- postgres "$@"
if [ "$1" = postgres ] && [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA"
    chmod 0700 "$PGDATA"
    find "$PGDATA" \! -user postgres -exec chown postgres '{}' +
    exec gosu postgres "${BASH_SOURCE[0]}" "$@"
fi
if [ "$1" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
    if [ -z "${POSTGRES_PASSWORD:-}" ]; then
        echo "Error: Database is uninitialized and superuser password is not specified." >&2
        exit 1
    fi
    user=${POSTGRES_USER:-postgres}
    database=${POSTGRES_DB:-$user}
    initdb --username="$user" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") >/dev/null
    printf '\nhost all all all scram-sha-256\n' >>"$PGDATA/pg_hba.conf"
    # Reached through its socket only, until all is there.
    PGPASSWORD=$POSTGRES_PASSWORD pg_ctl -D "$PGDATA" -o "$(printf '%q ' "${@:2}") -c listen_addresses=''" -w start >/dev/null
    sql=(psql -v ON_ERROR_STOP=1 --no-psqlrc --username "$user")
    [ "$database" = postgres ] || "${sql[@]}" --dbname postgres -c "CREATE DATABASE \"$database\"" >/dev/null
    for file in /docker-entrypoint-initdb.d/*; do
        # shellcheck disable=SC1090  # whatever is mounted there
        case $file in
        *.sh) if [ -x "$file" ]; then "$file"; else . "$file"; fi ;;
        *.sql) "${sql[@]}" --dbname "$database" -f "$file" ;;
        esac
    done
    pg_ctl -D "$PGDATA" -m fast -w stop >/dev/null
    echo "PostgreSQL init process complete; ready for start up."
fi
exec "$@"
