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
from pipectl.engines.project import RECORD
from pipectl.errors import EngineError, UsageError, remedy
from pipectl.names import shell
from pipectl.pipeline.initialising import write_file
from pipectl.pipeline.scaffold import CLONE, ScaffoldFile, is_clone, recorded, todays
from pipectl.pipeline.snapshot_versions import is_newer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipectl.pipeline.scaffold import Scaffold

ADDED, UPDATED, MERGED, DELETED = "added", "updated", "merged", "deleted"
# The project's file stays: its lines and today's contradict each other.
CONFLICT = "conflict"
# The scaffold has it no longer, and the project has changed it.
KEPT = "kept"
# The scaffold has changed it, and the project has deleted or renamed it.
ABSENT = "absent"
UNTOUCHED = {KEPT, ABSENT}
NEW = ".new"
CONFLICT_MARK = b"<<<<<<<"
# Of a diff: nobody reads those of lock files.
MOST_LINES = 400


@dataclass(frozen=True)
class FileChange:
    """What becomes of a file.

    `action` is added, updated, merged, deleted, conflict, kept or absent; `diff` is empty if it has too many
    lines, and that of the scaffold for a file that the project has not.
    """

    path: str
    action: str
    lines_added: int
    lines_removed: int
    diff: str


@dataclass(frozen=True)
class Upgrade:
    """The changes of a project that came from pipectl `before`; `dry_run` says that none was made.

    `unmerged` are files with a FILE.new beside them, of this upgrade or of an earlier one.
    """

    project: Path
    before: str
    after: str
    dry_run: bool
    changes: tuple[FileChange, ...]
    unmerged: tuple[str, ...]

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

    Raises UsageError for a project that a newer pipectl made or that is pipectl's own clone, and if a file
    stands where one is to be written, and EngineError if a file cannot be read, merged or written.
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
            _require_places(project, steps, base)
            for step in steps:
                if step.file is not None and step.action not in UNTOUCHED:
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
    return Upgrade(project, base.version, today.version, dry_run, changes, unmerged(project))


def unmerged(project: Path) -> tuple[str, ...]:
    """Return the files of the scaffold with a FILE.new beside them."""
    return tuple(name for name in todays().files if os.path.lexists(project / f"{name}{NEW}"))


def _require_places(project: Path, steps: tuple[_Step, ...], base: Scaffold) -> None:
    """Raise UsageError, before anything is written, if something stands where a file is to be written."""
    for step in steps:
        if step.file is None or step.action in UNTOUCHED:
            continue
        path = project / step.target
        above = next((each for each in path.parents if os.path.lexists(each)), project)
        if not above.is_dir():
            raise UsageError(
                f"{above} is no folder, and {step.target} is to be written there.",
                hint=f"Move it away: {shell('mv', above, f'{above}.mine')}\nThen run the command again.",
            )
        # That of an earlier conflict is replaced.
        known = {file.content for file in (base.files.get(step.path), step.file) if file}
        if step.action == CONFLICT and os.path.lexists(path) and _content(path) not in known:
            raise UsageError(
                f"{path} is there already, and the new {step.path} is to be written there.",
                hint=f"Move it away: {shell('mv', path, f'{path}.mine')}\nThen run the command again.",
            )


def _steps(project: Path, base: Scaffold, today: Scaffold) -> Iterator[_Step]:
    for name in sorted({*base.files, *today.files}):
        old, new = base.files.get(name), today.files.get(name)
        path = project / name
        ours = _content(path)
        if not os.path.lexists(path):
            if new and not old:
                yield _Step(name, ADDED, name, b"", new)
            elif new and old and new.content != old.content:
                # What the user has deleted stays so.
                yield _Step(name, ABSENT, name, old.content, new)
        elif new is None:
            is_own = old is None or ours != old.content
            yield _Step(name, KEPT if is_own else DELETED, name, ours or b"", None)
        elif ours != new.content and (old is None or old.content != new.content):
            step = _changed(path, name, ours, old, new)
            # Merged before, by an upgrade that was interrupted.
            if step.file and step.file.content != ours:
                yield step


def _content(path: Path) -> bytes | None:
    """Return what is in an ordinary file, with the line ends that the scaffold has on each system."""
    if not path.is_file() or path.is_symlink():
        return None
    return path.read_bytes().replace(b"\r\n", b"\n")


def _changed(path: Path, name: str, ours: bytes | None, old: ScaffoldFile | None, new: ScaffoldFile) -> _Step:
    """Return the step of a file that today's scaffold has otherwise; `ours` is None for no ordinary file."""
    if ours is not None and old is not None:
        if ours == old.content:
            return _Step(name, UPDATED, name, ours, new)
        if (merged := _merged(path, ours, old.content, new.content)) is not None:
            return _Step(name, MERGED, name, ours, ScaffoldFile(merged, os.access(path, os.X_OK)))
    return _Step(name, CONFLICT, f"{name}{NEW}", ours or b"", new)


def _merged(path: Path, ours: bytes, old: bytes, new: bytes) -> bytes | None:
    """Return the user's changes and today's in one, None if they contradict each other.

    Raises EngineError without a git that merges.
    """
    if any(b"\0" in content for content in (ours, old, new)):
        return None
    git = shutil.which("git")
    if git is None:
        raise EngineError(
            f"You have changed {path}, and git, which merges, is not installed.",
            hint="Install git, then run the command again.",
        )
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("ours", "old", "new")]
        for place, content in zip(paths, (ours, old, new), strict=True):
            place.write_bytes(content)
        done = subprocess.run(
            (git, "merge-file", "--stdout", *map(str, paths)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            cwd=folder,
            env=surroundings.environment(),
        )
    if done.returncode == 0:
        return done.stdout
    # The exit code is the number of conflicts; that of a git which does not run may be 1 as well.
    if CONFLICT_MARK in done.stdout:
        return None
    raise EngineError(
        f"{git} could not merge {path}.",
        hint="Mend what the lines above say, then run the command again.",
        detail=done.stderr.decode(errors="replace").strip(),
    )


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
