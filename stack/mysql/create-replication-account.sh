# Sourced by the entry point of MySQL's image at the first start: rights to read changes, and Airbyte's account.
# shellcheck shell=bash
docker_process_sql --database=mysql <<END
GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO '$MYSQL_USER'@'%';
END
if [ -n "${AIRBYTE_REPLICATION_PASSWORD:-}" ]; then
    # In a grant's database name _ and % are wildcards.
    docker_process_sql --database=mysql <<END
CREATE USER '$AIRBYTE_REPLICATION_USER'@'%' IDENTIFIED BY '$AIRBYTE_REPLICATION_PASSWORD';
GRANT SELECT ON \`${MYSQL_DATABASE//_/\\_}\`.* TO '$AIRBYTE_REPLICATION_USER'@'%';
GRANT RELOAD, SHOW DATABASES, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO '$AIRBYTE_REPLICATION_USER'@'%';
END
fi
