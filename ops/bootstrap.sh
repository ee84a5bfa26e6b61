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

# One that is half made, of a Python that is gone, or that an earlier version made in another folder, is not.
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
# Of the variables for Python, some end it before it runs anything. In this command it is deaf to them. So does a
# folder in the place of its input.
cat >.venv/bin/pipectl.new <<'END'
#!/bin/sh
unset PYTHONEXECUTABLE __PYVENV_LAUNCHER__
path=$0
while [ -L "$path" ]; do
    target=$(readlink "$path")
    case $target in
    /*) path=$target ;;
    *) path=${path%/*}/$target ;;
    esac
done
if [ -d /dev/stdin ]; then
    echo 'Error: The input of pipectl is a folder. Leave out "<" and the folder.' >&2
    exit 2
fi
exec "${path%/*}/python" -I -m pipectl "$@"
END
chmod +x .venv/bin/pipectl.new
mv .venv/bin/pipectl.new .venv/bin/pipectl
# Nothing in .venv names its folder, so that it works where a clone is moved or copied to.
.venv/bin/python -I - <<'END'
import os, pathlib, sys, sysconfig
root = pathlib.Path(sys.prefix).resolve().parent
packages = pathlib.Path(sysconfig.get_path("purelib")).resolve()
for path in packages.glob("*.pth"):
    if path.read_text(encoding="utf-8").strip() == str(root / "ops"):
        path.write_text(os.path.relpath(root / "ops", packages) + "\n", encoding="utf-8")
launcher = b"#!/bin/sh\n'''exec' \"${0%/*}/python\" \"$0\" \"$@\"\n' '''\n"
for path in (root / ".venv" / "bin").iterdir():
    if path.is_symlink() or not path.is_file():
        continue
    script = path.read_bytes()
    if script.startswith(b"#!" + os.fsencode(root)):
        path.write_bytes(launcher + script.split(b"\n", 1)[1])
    # As pip writes it for a path that is long or has a space.
    elif script.startswith(b"#!/bin/sh\n'''exec' ") and os.fsencode(root) in script.split(b"\n", 2)[1]:
        path.write_bytes(launcher + script.split(b"\n", 3)[3])
END
touch "$stamp"
