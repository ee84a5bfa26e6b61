#!/bin/sh
# Make .venv where it is missing and install a hash-pinned requirements file and pipectl itself into it.
# usage: ops/bootstrap.sh REQUIREMENTS STAMP
set -eu
requirements=$1
stamp=$2
unset CDPATH VIRTUAL_ENV
cd "$(dirname "$0")/.."

# Of the caller's settings for pip, those that say how packages are reached stay; of those for Python, none does.
for name in $(env | sed -n 's/^\(PIP_[A-Z_]*\)=.*/\1/p; s/^\(PYTHON[A-Z0-9_]\{1,\}\)=.*/\1/p'); do
    case $name in
    PIP_CONFIG_FILE | PIP_INDEX_URL | PIP_EXTRA_INDEX_URL | PIP_NO_INDEX | PIP_FIND_LINKS) ;;
    PIP_TRUSTED_HOST | PIP_CERT | PIP_CLIENT_CERT | PIP_PROXY | PIP_KEYRING_PROVIDER) ;;
    PIP_CACHE_DIR | PIP_NO_CACHE_DIR | PIP_DEFAULT_TIMEOUT | PIP_TIMEOUT | PIP_RETRIES | PIP_RESUME_RETRIES) ;;
    *) unset "$name" ;;
    esac
done

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
# pip's configuration file may ask for --user or --target, which install elsewhere.
set -- --quiet --disable-pip-version-check --no-user --target=
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
