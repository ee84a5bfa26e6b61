"""A project brought to the scaffold of this pipectl: files as they began are replaced, changed ones merged.

`git merge-file` merges, which needs no repository. Where it cannot, the project's file stays and today's is
written beside it. Every step can be repeated, and the record of what the project came from is the last.
"""

from __future__ import annotations

import difflib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipectl import surroundings
from pipectl.errors import EngineError, UsageError, remedy
from pipectl.pipeline.initialising import write_file
from pipectl.pipeline.scaffold import CLONE, RECORD, ScaffoldFile, is_clone, recorded, todays
from pipectl.pipeline.snapshot_versions import is_newer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipectl.pipeline.scaffold import Scaffold

ADDED, UPDATED, MERGED, DELETED = "added", "updated", "merged", "deleted"
# The project's file stays: its lines and today's contradict each other, or git is not there.
CONFLICT = "conflict"
# The scaffold has it no longer, and the project has changed it.
KEPT = "kept"
NEW = ".new"
# Of a diff: nobody reads those of lock files.
MOST_LINES = 400


@dataclass(frozen=True)
class FileChange:
    """What becomes of a file.

    `action` is added, updated, merged, deleted, conflict or kept; `diff` is empty if it has too many lines.
    """

    path: str
    action: str
    lines_added: int
    lines_removed: int
    diff: str


@dataclass(frozen=True)
class Upgrade:
    """The changes of a project that came from pipectl `before`; `dry_run` says that none was made."""

    project: Path
    before: str
    after: str
    dry_run: bool
    changes: tuple[FileChange, ...]

    @property
    def conflicts(self) -> tuple[str, ...]:
        """Files that the user has to merge: today's are beside them, with `.new` at the end."""
        return tuple(change.path for change in self.changes if change.action == CONFLICT)


@dataclass(frozen=True)
class _Step:
    """What becomes of a file: `file` is to be written to `target`, which is another path after a conflict."""

    path: str
    action: str
    target: str
    before: bytes
    file: ScaffoldFile | None


def upgrade(project: Path, *, dry_run: bool) -> Upgrade:
    """Bring a project to today's scaffold, or say what that would change.

    Raises UsageError for a project that a newer pipectl made or that is pipectl's own clone, and EngineError
    if a file cannot be read or written.
    """
    if is_clone() and project == CLONE:
        raise UsageError(
            f"{project} is a clone of pipectl, whose files are those of its commit.", hint="Type: git pull"
        )
    base, today = recorded(project), todays()
    if is_newer(base.version, today.version):
        raise UsageError(
            f"This project is of pipectl {base.version}, and this pipectl is {today.version},"
            " which is older.",
            hint=f"Install a newer one: uv tool install 'pipectl>={base.version}'",
        )
    try:
        steps = tuple(_steps(project, base, today))
        if not dry_run:
            for step in steps:
                if step.file is not None:
                    write_file(project / step.target, step.file)
                elif step.action == DELETED:
                    (project / step.path).unlink(missing_ok=True)
            if not (project / RECORD).exists() or base != today:
                write_file(project / RECORD, ScaffoldFile(today.packed()))
    except OSError as error:
        path = Path(error.filename or project)
        raise EngineError(
            f"{path} cannot be read or written: {error.strerror or error}.", hint=remedy(error, path)
        ) from error
    changes = tuple(_change(step) for step in steps)
    return Upgrade(project, base.version, today.version, dry_run, changes)


def _steps(project: Path, base: Scaffold, today: Scaffold) -> Iterator[_Step]:
    for name in sorted({*base.files, *today.files}):
        old, new = base.files.get(name), today.files.get(name)
        path = project / name
        ours = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        if not os.path.lexists(path):
            # What the user has deleted stays so.
            if new and not old:
                yield _Step(name, ADDED, name, b"", new)
        elif new is None:
            is_own = old is None or ours != old.content
            yield _Step(name, KEPT if is_own else DELETED, name, ours or b"", None)
        elif ours != new.content and (old is None or old.content != new.content):
            step = _changed(path, name, ours, old, new)
            # Merged before, by an upgrade that was interrupted.
            if step.file and step.file.content != ours:
                yield step


def _changed(path: Path, name: str, ours: bytes | None, old: ScaffoldFile | None, new: ScaffoldFile) -> _Step:
    """Return the step of a file that today's scaffold has otherwise; `ours` is None for no ordinary file."""
    if ours is not None and old is not None:
        if ours == old.content:
            return _Step(name, UPDATED, name, ours, new)
        if (merged := _merged(ours, old.content, new.content)) is not None:
            return _Step(name, MERGED, name, ours, ScaffoldFile(merged, os.access(path, os.X_OK)))
    return _Step(name, CONFLICT, f"{name}{NEW}", ours or b"", new)


def _merged(ours: bytes, old: bytes, new: bytes) -> bytes | None:
    """Return the user's changes and today's in one; None if they contradict each other, or git is missing."""
    git = shutil.which("git")
    if git is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("ours", "old", "new")]
        for path, content in zip(paths, (ours, old, new), strict=True):
            path.write_bytes(content)
        done = subprocess.run(
            (git, "merge-file", "--stdout", *map(str, paths)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            cwd=folder,
            env=surroundings.environment(),
        )
    return done.stdout if done.returncode == 0 else None


def _change(step: _Step) -> FileChange:
    if step.action == KEPT:
        return FileChange(step.path, step.action, 0, 0, "")
    before, after = (
        text.decode(errors="replace").splitlines()
        for text in (step.before, step.file.content if step.file else b"")
    )
    diff = list(difflib.unified_diff(before, after, step.path, step.target, lineterm=""))
    added, removed = (
        sum(line.startswith(sign) and not line.startswith(sign * 3) for line in diff) for sign in "+-"
    )
    text = "\n".join(diff) if len(diff) <= MOST_LINES else ""
    return FileChange(step.path, step.action, added, removed, text)
