"""All that a machine without a network needs to run a project on the local engine, as one file.

pip downloads the wheels, since uv cannot: those that lock files pin, those that requirements.txt has brought
here, and pipectl with what it needs. They are for this machine's Python and platform.
"""

from __future__ import annotations

import os
import platform
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipectl import __version__
from pipectl.engines.local import uv
from pipectl.engines.local.airflow_install import base_interpreter, ensure_airflow
from pipectl.engines.local.binaries import find_mariadb, lock_file
from pipectl.engines.local.install import run_tool
from pipectl.engines.local.layer import packages_of, with_packages
from pipectl.errors import EngineError, UsageError, remedy
from pipectl.pipeline.scaffold import CLONE, is_clone

if TYPE_CHECKING:
    from pipectl.observer import Observer
    from pipectl.settings import Settings

FOLDER = "pipectl-offline"
LOCKS = ("airflow", "postgres", "pytest")
# In the cache: what comes from the distribution, as programs that run where they lie.
SERVERS = ("mariadb", "mariadb-client", "mariadb-tools")
INSTALLER = r"""#!/bin/sh
# Makes the command `pipectl` in this folder, which must stay where it is. usage: ./install
set -eu
unset CDPATH
cd "$(dirname "$0")"
here=$(pwd -P)
python=${PYTHON:-@PYTHON@}
told=$("$python" -I -c 'import platform, sys
words = "%d.%d" % sys.version_info[:2], sys.platform, platform.machine(), platform.libc_ver()[0]
print(*filter(None, words))' 2>/dev/null) || told=
if [ "$told" != "@MACHINE@" ]; then
    echo "This bundle is for Python @MACHINE@, and $python is ${told:-not there}." >&2
    echo "Name another: PYTHON=/path/to/python ./install" >&2
    exit 1
fi
"$python" -I -m venv environment
environment/bin/python -I -m pip --isolated --quiet --disable-pip-version-check install \
    --no-index --find-links wheels "pipectl==@VERSION@"
cat >pipectl <<'END'
#!/bin/sh
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd -P)
export UV_OFFLINE=1 UV_NO_INDEX=1 UV_FIND_LINKS="$here/wheels"
export PIPECTL_CACHE_DIR="${PIPECTL_CACHE_DIR:-$here/cache}"
exec "$here/environment/bin/python" -I -m pipectl "$@"
END
chmod +x pipectl
echo "Installed. In a project: $here/pipectl up"
"""


@dataclass(frozen=True)
class Bundle:
    """The file that `bundle` wrote: for which `machine`, and how many `wheels` are in it.

    `servers` are programs of the distribution in it; the other machine needs what is not there.
    """

    file: Path
    machine: str
    wheels: int
    servers: tuple[str, ...]
    bytes: int


def bundle(settings: Settings, file: Path, observer: Observer) -> Bundle:
    """Write the file, which must not exist; what the local engine lacks is installed first.

    Raises UsageError if the file cannot be written, and EngineError if a package cannot be had.
    """
    path = file.resolve()
    if path.exists():
        raise UsageError(f"{path} exists already.", hint="Name another file.")
    lock = lock_file(settings, LOCKS[0])
    runtime = ensure_airflow(settings.cache_dir, lock, observer.report, observer.see_progress)
    with_packages(settings, runtime, observer.report, observer.see_progress)
    find_mariadb(settings.cache_dir, observer.report, observer.see_progress)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            draft = Path(folder, "bundle")
            wheels = draft.with_name("wheels")
            wheels.mkdir()
            observer.report("Downloading wheels (some 200 MB)")
            for name in LOCKS:
                _download(wheels, "--no-deps", "--require-hashes", "-r", str(lock_file(settings, name)))
            if packages := packages_of(settings, runtime):
                _download(wheels, "--no-deps", *packages)
            _download(wheels, _pipectl(draft.with_name("built")))
            observer.report("Packing")
            servers = tuple(name for name in SERVERS if (settings.cache_dir / name).is_dir())
            _pack(draft, wheels, settings.cache_dir, servers)
            draft.replace(path)
            count = len(list(wheels.iterdir()))
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror or error}.", hint=remedy(error, path.parent)
        ) from error
    return Bundle(path, _machine(), count, servers, path.stat().st_size)


def _machine() -> str:
    """Return the Python and the platform that wheels are for, as `3.11 linux x86_64 glibc`."""
    major, minor = sys.version_info[:2]
    words = (f"{major}.{minor}", sys.platform, platform.machine(), platform.libc_ver()[0])
    return " ".join(filter(None, words))


def _download(wheels: Path, *arguments: str) -> None:
    with uv.environment() as (program, variables):
        # pip reads its own settings for indexes; those that uv alone has are handed over.
        index = variables.get(uv.OF_PIP["index-url"])
        of_pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        command = (program, "tool", "run", "--python", base_interpreter(), "pip", "download")
        run_tool(
            (*command, "--quiet", "--disable-pip-version-check", "--dest", str(wheels), *arguments),
            EngineError(
                "Wheels for the bundle could not be downloaded.",
                hint="The lines above are pip's. Mend what they name, then run the command again.",
            ),
            variables | ({"PIP_INDEX_URL": index} if index else {}) | of_pip,
        )


def _pipectl(folder: Path) -> str:
    """Return what pip calls this pipectl: a release, or the wheel that a clone is built into."""
    if not is_clone():
        return f"pipectl=={__version__}"
    uv.run(
        ("build", "--quiet", "--wheel", "--out-dir", str(folder), str(CLONE)),
        EngineError(f"pipectl could not be built from {CLONE}.", hint="The lines above are uv's."),
    )
    [wheel] = folder.glob("*.whl")
    return str(wheel)


def _pack(draft: Path, wheels: Path, cache_dir: Path, servers: tuple[str, ...]) -> None:
    installer = draft.with_name("install")
    installer.write_text(_installer(_machine()), encoding="utf-8")
    installer.chmod(0o755)
    # What fills it, wheels, is packed already.
    with tarfile.open(draft, "w:gz", compresslevel=1) as archive:
        archive.add(wheels, f"{FOLDER}/wheels")
        for name in servers:
            archive.add(cache_dir / name, f"{FOLDER}/cache/{name}")
        # The last: a file that was cut off has none to begin with.
        archive.add(installer, f"{FOLDER}/install")


def _installer(machine: str) -> str:
    text = INSTALLER.replace("@PYTHON@", f"python{machine.split(maxsplit=1)[0]}")
    return text.replace("@MACHINE@", machine).replace("@VERSION@", __version__)
