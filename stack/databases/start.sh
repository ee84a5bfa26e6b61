#!/bin/sh
# Entry point of the database containers: copies the server's files, then runs the entry point of the image.
#
# The server's user may be unable to read the project's files, and mysqld ignores a configuration file that others
# may write. The copies can be read by all and written by root alone, whatever modes the project's files have.
set -eu
mkdir -p /etc/pipectl /docker-entrypoint-initdb.d
cp /opt/pipectl/server/* /etc/pipectl/
cp /etc/pipectl/*.sh /docker-entrypoint-initdb.d/
chmod 0755 /etc/pipectl /docker-entrypoint-initdb.d
chmod 0644 /etc/pipectl/* /docker-entrypoint-initdb.d/*.sh
exec docker-entrypoint.sh "$@"
