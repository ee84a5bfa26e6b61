#!/bin/bash
# First start: a data folder with the user, passwords and database of the environment. Then the server.
set -eo pipefail
shopt -s nullglob

note() { echo "$(date --rfc-3339=seconds) [Note] [Entrypoint]: $*"; }
fail() { echo "$(date --rfc-3339=seconds) [ERROR] [Entrypoint]: $*" >&2; exit 1; }

# option NAME COMMAND …: what the server's files and arguments say.
option() {
    "${@:2}" --verbose --help --log-bin-index="$(mktemp -u)" 2>/dev/null | awk -v name="$1" '$1 == name && /^[^ ]/ { print $2; exit }'
}

# Also for files that are sourced below. A password is in no process's arguments.
password_file() { [ -z "$password" ] || printf '[client]\npassword="%s"\n' "$password"; }
docker_process_sql() {
    [ -z "$MYSQL_DATABASE" ] || [ -z "$password" ] || set -- --database="$MYSQL_DATABASE" "$@"
    mysql --defaults-extra-file=<(password_file) --protocol=socket -uroot --socket="$SOCKET" --comments "$@"
}

[ "${1:0:1}" != - ] || set -- mysqld "$@"
if [ "$1" = mysqld ]; then
    errors=$("$@" --verbose --help --log-bin-index="$(mktemp -u)" 2>&1 >/dev/null) ||
        fail "mysqld failed while attempting to check config: $errors"
    DATADIR=$(option datadir "$@")
    SOCKET=$(option socket "$@")
    if [ "$(id -u)" = 0 ]; then
        find "$DATADIR" "$(dirname "$SOCKET")" \! -user mysql -exec chown --no-dereference mysql '{}' +
        note "Switching to dedicated user 'mysql'"
        exec gosu mysql "${BASH_SOURCE[0]}" "$@"
    fi
fi
if [ "$1" = mysqld ] && [ ! -d "$DATADIR/mysql" ]; then
    [ -n "$MYSQL_ROOT_PASSWORD" ] || fail "Database is uninitialized and password option is not specified"
    # As the server's user: no data is made that would lack what these files add.
    ls /docker-entrypoint-initdb.d/ >/dev/null
    note "Initializing database files"
    "$@" --initialize-insecure --default-time-zone=SYSTEM
    note "Starting temporary server"
    # Reached through its socket only, until all is there.
    "$@" --daemonize --skip-networking --default-time-zone=SYSTEM --socket="$SOCKET" || fail "Unable to start server."
    password=
    mysql_tzinfo_to_sql /usr/share/zoneinfo 2>/dev/null | docker_process_sql --database=mysql
    host=${MYSQL_ROOT_HOST:-%}
    docker_process_sql --database=mysql <<SQL
SET @@SESSION.SQL_LOG_BIN = 0;
ALTER USER root@localhost IDENTIFIED BY '$MYSQL_ROOT_PASSWORD';
$([ "$host" = localhost ] || echo "CREATE USER root@'$host' IDENTIFIED BY '$MYSQL_ROOT_PASSWORD';
GRANT ALL ON *.* TO root@'$host' WITH GRANT OPTION;")
SQL
    password=$MYSQL_ROOT_PASSWORD
    [ -z "$MYSQL_DATABASE" ] || docker_process_sql --database=mysql <<<"CREATE DATABASE IF NOT EXISTS \`$MYSQL_DATABASE\`"
    if [ -n "$MYSQL_USER" ]; then
        docker_process_sql --database=mysql <<<"CREATE USER '$MYSQL_USER'@'%' IDENTIFIED BY '$MYSQL_PASSWORD'"
        [ -z "$MYSQL_DATABASE" ] ||
            docker_process_sql --database=mysql <<<"GRANT ALL ON \`${MYSQL_DATABASE//_/\\_}\`.* TO '$MYSQL_USER'@'%'"
    fi
    for file in /docker-entrypoint-initdb.d/*; do
        # shellcheck disable=SC1090  # whatever is mounted there
        case $file in
        *.sh) if [ -x "$file" ]; then "$file"; else . "$file"; fi ;;
        *.sql) docker_process_sql <"$file" ;;
        esac
    done
    note "Stopping temporary server"
    mysqladmin --defaults-extra-file=<(password_file) shutdown -uroot --socket="$SOCKET" || fail "Unable to shut down server."
    note "MySQL init process done. Ready for start up."
fi
exec "$@"
