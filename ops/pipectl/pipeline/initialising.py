"""A project in a folder of one's own."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipectl.engines.local.folders import atomic_folder
from pipectl.engines.project import RECORD
from pipectl.errors import EngineError, UsageError, remedy
from pipectl.names import command, listed
from pipectl.pipeline.scaffold import ScaffoldFile, recorded, todays
from pipectl.surroundings import project_above

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipectl.pipeline.scaffold import Scaffold

NAMED = 5
ANOTHER = "Name another folder."
# Folders of a project in which it takes each file for its own.
PROJECTS_OWN = {"dags", "scripts", "stack", ".pipectl"}


@dataclass(frozen=True)
class NewProject:
    """The project that `init` made or completed.

    It has `files` of the scaffold of pipectl `version`, of which `added` were not there.
    """

    folder: Path
    version: str
    files: int
    added: int


def initialise(folder: Path) -> NewProject:
    """Make a project; no file that is there is overwritten.

    A new folder appears at the end, complete. In one that is there files appear one by one, and the same
    command completes what an interrupted one has left, and a project of this version that has lost files.

    Raises UsageError if the folder can be none, or has other files by the scaffold's names, and EngineError
    if it cannot be written.
    """
    scaffold = todays()
    files = {**scaffold.files, RECORD: ScaffoldFile(scaffold.packed())}
    added = len(files)
    try:
        folder = _possible(folder)
        if folder.exists():
            added = _fill(folder, files, scaffold)
        else:
            with atomic_folder(folder) as draft:
                _write(draft, files)
                draft.chmod(0o777 & ~_umask())
                os.sync()
    except OSError as error:
        raise EngineError(
            f"{folder} cannot be written: {error.strerror or error}.", hint=remedy(error, folder.parent)
        ) from error
    return NewProject(folder, scaffold.version, len(files), added)


def _possible(folder: Path) -> Path:
    """Return the folder's whole path; UsageError if it can be no project's."""
    try:
        path = folder.resolve()
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is no folder.", hint=ANOTHER)
    except (OSError, ValueError, RuntimeError) as error:  # too long, no text, links in a ring
        raise UsageError(f"{str(folder)!r} can be no folder: {error}.", hint=ANOTHER) from error
    if not str(path).isprintable():
        raise UsageError(f"{str(path)!r} has characters that cannot be printed.", hint=ANOTHER)
    around = project_above(path.parent)
    if around and path.relative_to(around).parts[0] in PROJECTS_OWN:
        raise UsageError(
            f"{path} is among the files of the project {around}, which would take its files for its own.",
            hint=ANOTHER,
        )
    return path


def _fill(folder: Path, files: Mapping[str, ScaffoldFile], scaffold: Scaffold) -> int:
    """Add the files that a folder lacks; return how many. UsageError before, if others are in the way."""
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{folder} cannot be written.", hint=f"Make it writable for you. Or: {ANOTHER}")
    missing = {name: file for name, file in files.items() if not _has(folder / name, file)}
    if (folder / RECORD).is_file() and recorded(folder) == scaffold:
        # What a project has of its own is changed, and not in the way.
        missing = {name: file for name, file in missing.items() if not os.path.lexists(folder / name)}
    in_the_way = [name for name in missing if _is_taken(folder, name)]
    if in_the_way:
        hint = "init overwrites nothing: move what is there away, or name another folder."
        if (folder / RECORD).is_file():
            bringing = command("--project", str(folder), "upgrade")
            hint = f"It is a project already. Bring it to this pipectl: {bringing}"
        raise UsageError(f"{folder} has already: {listed(in_the_way[:NAMED], len(in_the_way))}.", hint=hint)
    _write(folder, missing)
    return len(missing)


def _has(path: Path, file: ScaffoldFile) -> bool:
    return path.is_file() and path.read_bytes() == file.content


def _is_taken(folder: Path, name: str) -> bool:
    """Whether something else stands in the place of a file, or of a folder above it."""
    path = folder / name
    above = [parent for parent in path.parents if parent != folder and folder in parent.parents]
    return os.path.lexists(path) or any(
        os.path.lexists(parent) and (parent.is_symlink() or not parent.is_dir()) for parent in above
    )


def _write(folder: Path, files: Mapping[str, ScaffoldFile]) -> None:
    """Write the files atomically; the record of what the project came from is the last."""
    for name in sorted(files, key=lambda name: (name == RECORD, name)):
        write_file(folder / name, files[name])


def write_file(path: Path, file: ScaffoldFile) -> None:
    """Write a file of a project atomically; what a killed command has left of it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}.new-"
    for leftover in path.parent.glob(f"{prefix}*"):
        leftover.unlink(missing_ok=True)
    descriptor, draft = tempfile.mkstemp(prefix=prefix, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(file.content)
            os.fchmod(descriptor, (0o777 if file.is_program else 0o666) & ~_umask())
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
