# Sourced by the entry point of MySQL's image at the first start: rights to read changes, and Airbyte's account.
# shellcheck shell=bash

# As hexadecimal digits, so that no character of a name or password can end a string.
set_variable() {
    printf "SET @%s = CONVERT(X'%s' USING utf8mb4);\n" "$1" "$(printf '%s' "$2" | od -An -v -tx1 | tr -d ' \n')"
}

{
    echo "SET NAMES utf8mb4;"
    set_variable owner "$MYSQL_USER"
    cat /etc/pipectl/owner-rights.sql
} | docker_process_sql --database=mysql
if [ -n "${AIRBYTE_REPLICATION_PASSWORD:-}" ]; then
    {
        echo "SET NAMES utf8mb4;"
        set_variable reader "$AIRBYTE_REPLICATION_USER"
        set_variable password "$AIRBYTE_REPLICATION_PASSWORD"
        set_variable database "$MYSQL_DATABASE"
        cat /etc/pipectl/replication-account.sql
    } | docker_process_sql --database=mysql
fi
