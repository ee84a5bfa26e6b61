#!/bin/sh
# Start of every Airflow container.
#
#   entrypoint.sh init          migrate the metadata database and make the administrator's login, then end
#   entrypoint.sh COMMAND …     become COMMAND
#
# First installs what requirements.txt asks for, where the image does not have it.
set -eu

folder=${AIRFLOW_HOME:-/opt/airflow}
requirements=$folder/requirements.txt
launcher=$folder/stack/launcher.py

fail() {
    echo "entrypoint: $*" >&2
    exit 1
}

# Everything that `python -m pip` prints is in the log; the last line says what went wrong.
install_requirements() {
    echo "entrypoint: installing $1" >&2
    log=$(mktemp)
    if command -v uv >/dev/null; then
        uv pip install --no-progress --python "$(command -v python)" -r "$requirements" >"$log" 2>&1 || code=$?
    else
        python -m pip install --disable-pip-version-check -r "$requirements" >"$log" 2>&1 || code=$?
    fi
    if [ "${code:-0}" -ne 0 ]; then
        cat "$log" >&2
        fail "requirements.txt could not be installed (missing: $1)"
    fi
    rm -f "$log"
}

# A user id that the image does not know has no name, which Airflow asks for.
export USER="${USER:-airflow}"

missing=$(python "$folder/stack/missing_requirements.py" "$requirements") || fail "$requirements cannot be read"
[ -z "$missing" ] || install_requirements "$missing"

if [ "${1:-}" = init ]; then
    exec python "$folder/stack/initialise.py"
fi
if [ "${1:-}" = airflow ]; then
    PIPECTL_MIGRATION_HEAD=$(python "$folder/stack/metadata_database.py" head)
    export PIPECTL_MIGRATION_HEAD
    if [ "${2:-}" = api-server ]; then
        python "$folder/stack/login.py"
        PIPECTL_CONNECTIONS=$(python "$folder/stack/connections.py")
        export PIPECTL_CONNECTIONS
    fi
    # The launcher imports Airflow while the database is still being migrated.
    case "$#:${2:-}" in
    2:api-server) service=webserver ;;
    2:scheduler | 2:dag-processor) service=$2 ;;
    *) service='' ;;
    esac
    if [ -n "$service" ] && [ -f "$launcher" ]; then
        exec python -P "$launcher" "$service"
    fi
    python "$folder/stack/metadata_database.py" wait
    [ "${2:-}" != api-server ] || python "$folder/stack/connections.py" write
fi
exec "$@"
