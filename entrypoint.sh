#!/bin/sh
# Start of every Airflow container.
#
#   entrypoint.sh init          migrate the metadata database and make the administrator's login, then end
#   entrypoint.sh COMMAND …     become COMMAND
#
# Before both it installs what requirements.txt asks for and the image lacks.
set -eu

folder=${AIRFLOW_HOME:-/opt/airflow}
requirements=$folder/requirements.txt

fail() {
    echo "entrypoint: $*" >&2
    exit 1
}

# What pip and uv need on this machine, for the installation alone: an index, a proxy, certificates.
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
    # Each asks for the certificates by a name of its own.
    if [ -n "${SSL_CERT_FILE:-}" ]; then
        export PIP_CERT="${PIP_CERT:-$SSL_CERT_FILE}" REQUESTS_CA_BUNDLE="${REQUESTS_CA_BUNDLE:-$SSL_CERT_FILE}"
    fi
}

install_with_uv_or_pip() {
    set_up_installers
    if command -v uv >/dev/null; then
        uv pip install --no-progress --python "$(command -v python)" -r "$requirements"
    else
        python -m pip install --disable-pip-version-check -r "$requirements"
    fi
}

# Everything that `python -m pip` prints is in the log; the last line says what went wrong.
install_requirements() {
    echo "entrypoint: installing $1" >&2
    log=$(mktemp)
    if ! (install_with_uv_or_pip) >"$log" 2>&1; then
        cat "$log" >&2
        why=
        ! grep -qiE 'certificate|UnknownIssuer' "$log" ||
            why="; the index's certificate was refused: name yours in stack/airflow/install.env, see README.md"
        fail "requirements.txt could not be installed (missing: $1)$why"
    fi
    rm -f "$log"
}

# As in the official image: what one AIRFLOW_UID makes, another of group 0 may change.
umask 0002

# AIRFLOW_UID may be a user that the image does not know.
if ! whoami >/dev/null 2>&1; then
    export USER="${USER:-airflow}" HOME="${AIRFLOW_USER_HOME_DIR:-/tmp}"
fi

missing=$(python "$folder/stack/missing_requirements.py" "$requirements") || fail "$requirements cannot be read"
[ -z "$missing" ] || install_requirements "$missing"

case "$*" in
init)
    exec python "$folder/stack/initialise.py"
    ;;
'airflow api-server'* | 'airflow scheduler'* | 'airflow dag-processor'* | 'airflow celery worker'*)
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
