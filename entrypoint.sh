#!/bin/sh
# Start of every Airflow container.
#
#   entrypoint.sh init          migrate the metadata database and make the administrator's login, then end
#   entrypoint.sh COMMAND …     become COMMAND
#
# Before both, what requirements.txt asks for and the image lacks is installed into a volume, by the first container
# that comes; the others wait for it, and use it too.
set -eu

folder=${AIRFLOW_HOME:-/opt/airflow}
requirements=$folder/requirements.txt

fail() {
    echo "entrypoint: $*" >&2
    exit 1
}

# What uv needs on this machine, for the installation alone: an index, a proxy, certificates.
set_up_installers() {
    settings=$folder/stack/install.env
    [ -e "$settings" ] || return 0
    while IFS= read -r line || [ -n "$line" ]; do
        case $line in
        '' | '#'*) ;;
        [A-Za-z_]*=*) export "${line?}" ;;
        *) fail "stack/airflow/install.env has a line that is not NAME=value" ;;
        esac
    done <"$settings"
}

# Where a service notes its heartbeats, for healthcheck.sh: none yet, and this start. Those of an earlier one do not
# count.
(echo "0 $(date +%s)" >"$folder/heartbeat") 2>/dev/null || :

# As in the official image: what one AIRFLOW_UID makes, another of group 0 may change.
umask 0002

# AIRFLOW_UID may be a user that the image does not know.
if ! whoami >/dev/null 2>&1; then
    export USER="${USER:-airflow}" HOME="${AIRFLOW_USER_HOME_DIR:-/tmp}"
fi

# Where Airflow looks for modules such as airflow_local_settings.
[ -e "$folder/config" ] || ln -sfn stack/config "$folder/config"

# Nobody but uv gets its settings.
install() (
    set_up_installers
    exec python "$folder/stack/packages.py" use "$folder/packages" "$requirements"
)

if [ -z "${PIPECTL_REQUIREMENTS_PROBLEM+told}" ]; then
    install || exit
elif ! PIPECTL_REQUIREMENTS_PROBLEM=$(install 2>&1); then
    # What checks DAG files says so, and goes on with the packages that are there.
    PIPECTL_REQUIREMENTS_PROBLEM=$(printf %s "$PIPECTL_REQUIREMENTS_PROBLEM" | tail -c 20000)
    export PIPECTL_REQUIREMENTS_PROBLEM
else
    unset PIPECTL_REQUIREMENTS_PROBLEM
fi

case "$*" in
init)
    exec python "$folder/stack/initialise.py"
    ;;
'airflow api-server'* | 'airflow scheduler'* | 'airflow dag-processor'* | 'airflow triggerer'* | 'airflow celery worker'*)
    shift
    # -P: nothing is imported from the launcher's folder by chance.
    exec python -P "$folder/stack/launcher.py" "$@"
    ;;
airflow | 'airflow '*)
    python "$folder/stack/metadata_database.py" wait
    # Celery's tasks inherit the environment of their worker.
    unset AIRFLOW_ADMIN_PASSWORD
    exec python "$folder/stack/proxies.py" "$@"
    ;;
esac
exec "$@"
