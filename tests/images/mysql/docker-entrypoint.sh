#!/bin/bash
# First start: a data folder with the user, passwords and database of the environment. Then the server.
set -euo pipefail

DATA=/var/lib/mysql
SOCKET=/var/run/mysqld/mysqld.sock

docker_process_sql() {
    MYSQL_PWD=${MYSQL_ROOT_PASSWORD:-} mysql --protocol=socket -uroot --socket="$SOCKET" --comments "$@"
}
quoted() { printf '%s' "$1" | sed "s/'/''/g"; }

[ "${1:0:1}" != - ] || set -- mysqld "$@"
if [ "$1" = mysqld ] && [ "$(id -u)" = 0 ]; then
    find "$DATA" \! -user mysql -exec chown mysql '{}' +
    exec gosu mysql "${BASH_SOURCE[0]}" "$@"
fi
if [ "$1" = mysqld ] && [ ! -d "$DATA/mysql" ]; then
    if [ -z "${MYSQL_ROOT_PASSWORD:-}${MYSQL_RANDOM_ROOT_PASSWORD:-}" ]; then
        echo "[ERROR] [Entrypoint]: Database is uninitialized and password option is not specified" >&2
        exit 1
    fi
    MYSQL_ROOT_PASSWORD=${MYSQL_ROOT_PASSWORD:-$(head -c 24 /dev/urandom | base64)}
    "$@" --initialize-insecure --datadir="$DATA"
    # Reached through its socket only, until all is there.
    "$@" --datadir="$DATA" --skip-networking --socket="$SOCKET" &
    server=$!
    until MYSQL_PWD='' mysql -uroot --socket="$SOCKET" -e 'SELECT 1' >/dev/null 2>&1; do
        kill -0 "$server" || exit 1
        sleep 0.2
    done
    password=$(quoted "$MYSQL_ROOT_PASSWORD")
    MYSQL_PWD='' mysql -uroot --socket="$SOCKET" <<END
ALTER USER root@localhost IDENTIFIED BY '$password';
$([ "${MYSQL_ROOT_HOST:-%}" = localhost ] || echo "CREATE USER root@'${MYSQL_ROOT_HOST:-%}' IDENTIFIED BY '$password';
GRANT ALL ON *.* TO root@'${MYSQL_ROOT_HOST:-%}' WITH GRANT OPTION;")
$([ -z "${MYSQL_DATABASE:-}" ] || echo "CREATE DATABASE \`$MYSQL_DATABASE\`;")
$([ -z "${MYSQL_USER:-}" ] || echo "CREATE USER '$MYSQL_USER'@'%' IDENTIFIED BY '$(quoted "$MYSQL_PASSWORD")';
GRANT ALL ON \`${MYSQL_DATABASE//_/\\_}\`.* TO '$MYSQL_USER'@'%';")
END
    for file in /docker-entrypoint-initdb.d/*; do
        # shellcheck disable=SC1090  # whatever is mounted there
        case $file in
        *.sh) if [ -x "$file" ]; then "$file"; else . "$file"; fi ;;
        *.sql) docker_process_sql --database="$MYSQL_DATABASE" <"$file" ;;
        esac
    done
    MYSQL_PWD=$MYSQL_ROOT_PASSWORD mysqladmin -uroot --socket="$SOCKET" shutdown
    wait "$server"
    echo "[Note] [Entrypoint]: MySQL init process done. Ready for start up."
fi
exec "$@"
