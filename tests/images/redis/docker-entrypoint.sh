#!/bin/sh
set -eu
[ "${1#-}" = "$1" ] || set -- redis-server "$@"
if [ "$1" = redis-server ]; then
    # Containers are reached by their network, which only the stack's own services join.
    set -- "$@" --protected-mode no
    [ "$(id -u)" != 0 ] || exec gosu redis "$0" "$@"
fi
exec "$@"
