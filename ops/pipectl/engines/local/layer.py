"""The project's own packages for Airflow: what requirements.txt asks for and the shared Airflow lacks.

stack/airflow/packages.py makes the layer, as it does in containers. Which one is in use follows from the
file and from Airflow's environment alone, so an interrupted installation leaves the one of before.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipectl import json_text, ordinary, surroundings
from pipectl.engines.changes import REQUIREMENTS
from pipectl.engines.local import uv
from pipectl.engines.local.install import UvProgress, follow_tool
from pipectl.engines.requirements import INSTALLED, REMOVED, explained
from pipectl.errors import EngineError, UsageError

if TYPE_CHECKING:
    from pipectl.engines.local.airflow_install import AirflowRuntime
    from pipectl.engines.local.install import Report
    from pipectl.observer import Show
    from pipectl.settings import Settings

PROGRAM = Path("stack", "airflow", "packages.py")

# As packages.py has them.
COMPLETE = "complete"
INDEX_HINT = (
    "uv takes an index from UV_DEFAULT_INDEX or pip's settings, a proxy from HTTPS_PROXY and certificates"
    " from SSL_CERT_FILE. Then run the command again."
)
INCLUDED = re.compile(r"^\s*(?:-r|-c|--requirement|--constraint)[ =]*(\S+)", re.MULTILINE)


def with_packages(settings: Settings, runtime: AirflowRuntime, report: Report, show: Show) -> AirflowRuntime:
    """Return the shared Airflow with the project's packages over it, which are installed if they are missing.

    Raises:
        UsageError: requirements.txt asks for what cannot be had beside Airflow.
        EngineError: packages cannot be had for another reason, such as an index that does not answer.

    """
    folder = _folder(settings, runtime)
    marker = folder / COMPLETE
    before = _last_packages(folder.parent)
    if not marker.is_file():
        _build(settings.project, runtime, folder, report, show)
    packages = _packages(folder)
    if gone := _gone(before, packages):
        report(f"{REMOVED}: {', '.join(gone)}")
    marker.touch()
    return replace(runtime, python=_python(folder)) if packages else runtime


def packages_of(settings: Settings, runtime: AirflowRuntime) -> list[str]:
    """Return what `with_packages` has installed, as lines of requirements. Raises UsageError."""
    return _packages(_folder(settings, runtime))


def look_for_packages(
    settings: Settings, runtime: AirflowRuntime
) -> tuple[AirflowRuntime, str, tuple[str, ...]]:
    """Return what `with_packages` would, what that would install (empty for nothing), and remove.

    What the index has is not asked. Raises UsageError for lines that no index can help.
    """
    folder = _folder(settings, runtime)
    before = _last_packages(folder.parent)
    if (folder / COMPLETE).is_file():
        packages = _packages(folder)
        layered = replace(runtime, python=_python(folder)) if packages else runtime
        return layered, "", _gone(before, packages)
    requirements = settings.project / REQUIREMENTS
    if not requirements.is_file():
        return runtime, "", _gone(before, [])
    if not runtime.python.exists():
        return runtime, f"what {REQUIREMENTS} asks for beside Airflow, if it can be had", ()
    last = with_last_packages(settings, runtime).python
    code, output = follow_tool(
        (
            *(str(runtime.python), "-I", str(settings.project / PROGRAM), "forecast", str(requirements)),
            *(() if last == runtime.python else (str(last.parent.parent),)),
        ),
        EngineError(f"{runtime.python} cannot be started.", hint="Install Airflow anew: pipectl up"),
        surroundings.environment(),
    )
    if code:
        raise explained(output, code, "Mend it.")
    found = json_text.parse(output.splitlines()[-1])
    missing, removed = ", ".join(found["missing"]), tuple(found["unneeded"])
    is_layered = missing or (last != runtime.python and len(removed) < len(before))
    layered = replace(runtime, python=_python(folder)) if is_layered else runtime
    return layered, f"for {REQUIREMENTS}, if it can be had: {missing}" if missing else "", removed


def _gone(before: list[str], packages: list[str]) -> tuple[str, ...]:
    """Return the names of the packages of a layer that the next one has not."""
    names = {_name(package) for package in packages}
    return tuple(_name(package) for package in before if _name(package) not in names)


def _folder(settings: Settings, runtime: AirflowRuntime) -> Path:
    """Return the folder of the layer that the project's requirements.txt asks for. Raises UsageError."""
    requirements = settings.project / REQUIREMENTS
    # The folder counts: an environment cannot be moved.
    parts = [os.fsencode(settings.state_dir), runtime.key.encode()]
    try:
        parts += _contents(requirements, set())
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}.", hint="Mend it.") from error
    key = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    return settings.state_dir / "packages" / key


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _packages(folder: Path) -> list[str]:
    """Return the packages of a layer that is complete."""
    return list(json_text.parse(ordinary.read_text(folder / COMPLETE)))


def with_last_packages(settings: Settings, runtime: AirflowRuntime) -> AirflowRuntime:
    """Return the shared Airflow with the layer that was used last, if that is one over it."""
    markers = _markers(settings.state_dir / "packages")
    python = markers[-1].parent / "bin" / "python" if markers else None
    if python is None or str(runtime.python.parent.parent) not in _base(python.parent.parent):
        return runtime
    return replace(runtime, python=python)


def _base(layer: Path) -> str:
    """Return the line by which a layer sees Airflow's packages; empty if it has no packages."""
    lines = list(layer.glob("lib/python*/site-packages/pipectl.pth"))
    return ordinary.read_text(lines[0]) if lines else ""


def _last_packages(layers: Path) -> list[str]:
    """Return the packages of the layer that was used last."""
    markers = _markers(layers)
    return _packages(markers[-1].parent) if markers else []


def _markers(layers: Path) -> list[Path]:
    """Return the markers of complete layers, that of the one used last at the end."""
    return sorted(layers.glob(f"*/{COMPLETE}"), key=lambda path: path.stat().st_mtime)


def _name(package: str) -> str:
    """Return the name in a line of a layer's packages, as `NAME==VERSION` or `NAME @ URL`."""
    return re.split("==| @ ", package)[0]


def _contents(requirements: Path, seen: set[Path]) -> list[bytes]:
    """Return what is in a file of requirements, and in those that it includes."""
    if requirements in seen or not requirements.is_file():
        return []
    seen.add(requirements)
    content = requirements.read_bytes()
    included = INCLUDED.findall(content.decode(errors="replace"))
    return [content, *(part for name in included for part in _contents(requirements.parent / name, seen))]


def _build(project: Path, runtime: AirflowRuntime, folder: Path, report: Report, show: Show) -> None:
    progress = UvProgress("requirements.txt", show)

    def watch(line: str) -> None:
        if line.startswith(("Installing for", INSTALLED)):
            report(line.strip())
        progress(line)

    with uv.environment() as (program, variables):
        command = (str(runtime.python), "-I", str(project / PROGRAM), "build", str(folder))
        failure = EngineError(f"{runtime.python} cannot be started.", hint="Install Airflow anew: pipectl up")
        code, output = follow_tool(
            (*command, str(project / REQUIREMENTS), program), failure, variables, watch=watch
        )
    if code:
        raise explained(output, code, INDEX_HINT)
