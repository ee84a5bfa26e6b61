#!/bin/sh
# Make .venv where it is missing and install a hash-pinned requirements file and pipectl itself into it.
# usage: ops/bootstrap.sh REQUIREMENTS STAMP
set -eu
requirements=$1
stamp=$2
cd "$(dirname "$0")/.."

if [ ! -x .venv/bin/python ]; then
    python=
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            python=$candidate
            break
        fi
    done
    if [ -z "$python" ]; then
        echo "Error: no Python 3.11 or newer on PATH. Install one, or name it: make PYTHON=/path/to/python3 …" >&2
        exit 1
    fi
    echo "Making .venv with $("$python" --version)" >&2
    if ! "$python" -m venv .venv; then
        rm -rf .venv
        echo "Error: $python cannot make a virtual environment. On Debian and Ubuntu: apt install python3-venv" >&2
        exit 1
    fi
fi
echo "Installing $requirements into .venv" >&2
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r "$requirements"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
touch "$stamp"
