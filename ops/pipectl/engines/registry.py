"""Which projects this user has started on this machine: a file for each, in the per-user cache.

A stopped project is known by nothing else: its processes and containers are gone, and volumes do not say
whose they are. A file is a hint and no proof: whoever reads it looks at the folder, or what is left of it.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipectl import json_text

if TYPE_CHECKING:
    from pipectl.settings import Settings

FOLDER = "projects"


class Known(NamedTuple):
    """A project that was started on an engine; `project_id` labels what it has on the docker engine."""

    file: Path
    folder: Path
    engine: str
    project_id: str


def note(settings: Settings, engine: str, mark: str, project_id: str) -> None:
    """Remember a project by its folder's mark, so that one that was moved is still one."""
    path = _path(settings.cache_dir, engine, mark)
    # A list that cannot be written is no reason not to start.
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
    json_text.note(path, {"folder": str(settings.project), "engine": engine, "project_id": project_id})


def forget(settings: Settings, engine: str, mark: str) -> None:
    """Remember a project no longer, once it has no data on the engine."""
    with suppress(OSError):
        _path(settings.cache_dir, engine, mark).unlink(missing_ok=True)


def known(cache_dir: Path) -> tuple[Known, ...]:
    """Return the projects that are remembered; a file that says nothing of the kind is left out."""
    found = []
    for path in sorted((cache_dir / FOLDER).glob("*.json")):
        content = json_text.read_object(path)
        folder, engine, project_id = (content.get(name) for name in ("folder", "engine", "project_id"))
        if isinstance(folder, str) and isinstance(engine, str) and Path(folder).is_absolute():
            found.append(Known(path, Path(folder), engine, str(project_id or "")))
    return tuple(found)


def _path(cache_dir: Path, engine: str, mark: str) -> Path:
    return cache_dir / FOLDER / f"{mark}-{engine}.json"
