#!/bin/sh
# The server as its own user, with its data folder.
set -e
[ "${1#-}" = "$1" ] && [ "${1%.conf}" = "$1" ] || set -- redis-server "$@"
if [ "$1" = redis-server ]; then
    if [ "$(id -u)" = 0 ]; then
        find . \! -user redis -exec chown redis '{}' +
        exec gosu redis "$0" "$@"
    fi
    # The official server is built without protected mode, since containers are reached by their network alone.
    set -- "$@" --protected-mode no
fi
[ "$(umask)" != 0022 ] || umask 0077
exec "$@"
