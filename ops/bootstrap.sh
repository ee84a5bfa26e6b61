#!/bin/sh
# Make .venv where it is missing and install a hash-pinned requirements file and pipectl itself into it.
# usage: ops/bootstrap.sh REQUIREMENTS STAMP
set -eu
requirements=$1
stamp=$2
unset CDPATH VIRTUAL_ENV
cd "$(dirname "$0")/.."

# How packages are reached, kept and waited for: all that counts of the caller's settings for pip. Of those for
# Python, none does.
kept='INDEX_URL EXTRA_INDEX_URL NO_INDEX FIND_LINKS TRUSTED_HOST CERT CLIENT_CERT PROXY KEYRING_PROVIDER
CACHE_DIR NO_CACHE_DIR DEFAULT_TIMEOUT TIMEOUT RETRIES RESUME_RETRIES'
for name in $(env | sed -n 's/^\(PIP_[A-Z_]*\)=.*/\1/p; s/^\(PYTHON[A-Z0-9_]\{1,\}\)=.*/\1/p'); do
    for known in $kept CONFIG_FILE; do
        [ "$name" != "PIP_$known" ] || continue 2
    done
    unset "$name"
done
# Prints pip's files of settings as variables, those that count and that the environment does not set.
# shellcheck disable=SC2016
export_settings='
import ast, os, shlex, sys
for line in sys.stdin:
    name, _, value = line.strip().partition("=")
    section, _, key = name.rpartition(".")
    variable = key.upper().replace("-", "_")
    if section in ("global", "install") and variable in sys.argv[1:] and "PIP_" + variable not in os.environ:
        print(f"export PIP_{variable}={shlex.quote(ast.literal_eval(value))}")
'

fail() {
    echo "Error: $*" >&2
    exit 1
}

# A .venv holds absolute paths: one that was moved or copied runs the other folder's pipectl, or none.
is_usable() {
    .venv/bin/python -I -c 'import pip, pipectl, sys; sys.exit(pipectl.__file__ != sys.argv[1])' \
        "$(pwd -P)/ops/pipectl/__init__.py" 2>/dev/null
}

if ! is_usable; then
    if [ -n "${PYTHON:-}" ]; then
        set -- "$PYTHON"
    else
        set -- python3 python3.14 python3.13 python3.12 python3.11
    fi
    python=
    for candidate; do
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        python=$candidate
        "$python" -c 'import ensurepip, venv' 2>/dev/null && break
    done
    [ -n "$python" ] || [ -z "${PYTHON:-}" ] || fail "$PYTHON is no Python 3.11 or newer. Name another: make PYTHON=/path/to/python3 …"
    [ -n "$python" ] || fail "no Python 3.11 or newer on PATH. Install one, or name it: make PYTHON=/path/to/python3 …"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python has no module venv. On Debian and Ubuntu: apt install python3-venv"
    echo "Making .venv with $("$python" --version)" >&2
    rm -rf .venv
    "$python" -m venv .venv || fail "$python cannot make .venv; the lines above say why."
fi
echo "Installing $requirements into .venv" >&2
listed=$(.venv/bin/python -m pip config list)
# shellcheck disable=SC2086
settings=$(printf '%s\n' "$listed" | .venv/bin/python -c "$export_settings" $kept)
eval "$settings"
export PIP_CONFIG_FILE=/dev/null
set -- --quiet --disable-pip-version-check
.venv/bin/python -m pip install "$@" --require-hashes -r "$requirements"
.venv/bin/python -m pip install "$@" --no-deps --no-build-isolation -e .
# Of the variables for Python, some end it before it runs anything. In this command it is deaf to them.
python=$(pwd -P | sed "s/'/'\\\\''/g")/.venv/bin/python
cat >.venv/bin/pipectl.new <<END
#!/bin/sh
unset PYTHONEXECUTABLE __PYVENV_LAUNCHER__
exec '$python' -I -m pipectl "\$@"
END
chmod +x .venv/bin/pipectl.new
mv .venv/bin/pipectl.new .venv/bin/pipectl
touch "$stamp"
