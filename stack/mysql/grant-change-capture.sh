# Sourced by the entry point of MySQL's image at the first start: what change data capture needs to read.
# shellcheck shell=bash
docker_process_sql --database=mysql <<END
GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO '$MYSQL_USER'@'%';
END
