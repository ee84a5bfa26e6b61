#!/bin/bash
# Exit 0 if this container's service works: `healthcheck.sh SERVICE`.
#
# It asks as healthcheck.py does, in 5 ms instead of 80, and leaves it to that file to say what is wrong.
service=$1

# A server that answers a request with 200.
answers() {
    local status=
    exec 3<>/dev/tcp/127.0.0.1/8080 || return
    printf 'GET %s HTTP/1.0\r\n\r\n' "$1" >&3
    read -r -t 15 _ status _ <&3
    exec 3>&-
    [ "$status" = 200 ]
}

# A heartbeat that the service has written into the metadata database within 30 s.
beats() {
    local moment=0
    read -r moment _ <"$AIRFLOW_HOME/heartbeat" && ((moment <= EPOCHSECONDS && EPOCHSECONDS < moment + 30))
}

# A start of less than a minute ago, which has given no heartbeat: there is nothing to explain yet, and many
# checks of many services in Python would take half of a small machine from what they wait for.
starts() {
    local moment=1 started=0
    read -r moment started <"$AIRFLOW_HOME/heartbeat" &&
        ((moment == 0 && started <= EPOCHSECONDS && EPOCHSECONDS < started + 60)) && echo "$service: starting"
}

{
    case $service in
    webserver) answers /api/v2/version && answers /execution/health && exit 0 ;;
    triggerer) [ -e "$AIRFLOW_HOME/logs/triggerer-needed" ] || { printf waiting && exit 0; } ;;&
    *) beats && exit 0 ;;
    esac
    starts && exit 1
} 2>/dev/null
exec python "${0%.sh}.py" "$service"
