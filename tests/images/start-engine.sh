#!/bin/sh
# Start the engine that install-engine.sh fetched, apart from any other on this machine. Needs root.
#
#   eval "$(tests/images/start-engine.sh)"         sets DOCKER_HOST, DOCKER_CONFIG and PATH
#   tests/images/start-engine.sh --stop
#
# Starting it where it runs already only prints the settings.
set -eu

ENGINE=${ENGINE_FOLDER:-/opt/pipectl-engine}
STATE=${ENGINE_STATE:-/tmp/pipectl-engine}
SOCKET=$STATE/docker.sock
PIDFILE=$STATE/docker.pid

say() { echo "start-engine: $*" >&2; }
answers() { "$ENGINE/usr/bin/docker" -H "unix://$SOCKET" version >/dev/null 2>&1; }
alive() { [ -s "$PIDFILE" ] && kill -0 "$(cat "$PIDFILE")" 2>/dev/null; }

if [ "${1:-}" = --stop ]; then
    if alive; then
        pid=$(cat "$PIDFILE")
        kill "$pid"
        # A Celery worker may take 120 s to end the tasks that it runs.
        for _ in $(seq 1500); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
    fi
    exit 0
fi

if ! alive || ! answers; then
    # One that was told to stop takes seconds for its containers, and a second one beside it would fail.
    for _ in $(seq 1500); do
        alive || break
        answers && break
        sleep 0.1
    done
fi
if ! alive; then
    mkdir -p "$STATE"
    # Containers get no larger packets than the machine's own link carries.
    link=$(sed -n 's/^\([^\t]*\)\t00000000\t.*/\1/p' /proc/net/route | head -n 1)
    mtu=$(cat "/sys/class/net/${link:-lo}/mtu")
    [ "$mtu" -lt 1500 ] || mtu=1500
    # Its own session: the engine outlives the shell that started it, hears no Ctrl-C, and holds no lock of `flock`.
    PATH=$ENGINE/usr/sbin:$ENGINE/usr/bin:$PATH setsid dockerd -H "unix://$SOCKET" --data-root "$STATE/data" \
        --exec-root "$STATE/exec" --pidfile "$PIDFILE" --mtu "$mtu" >"$STATE/dockerd.log" 2>&1 </dev/null 3>&- 4>&- 5>&- &
    for _ in $(seq 300); do
        answers && break
        sleep 0.1
    done
    answers || { say "the engine does not answer; the end of $STATE/dockerd.log:"; tail -n 20 "$STATE/dockerd.log" >&2; exit 1; }
    say "$("$ENGINE/usr/bin/docker" -H "unix://$SOCKET" version --format 'engine {{.Server.Version}}') answers at $SOCKET"
fi
cat <<END
export DOCKER_HOST="unix://$SOCKET"
export DOCKER_CONFIG="$ENGINE/config"
export PATH="$ENGINE/usr/bin:\$PATH"
END
