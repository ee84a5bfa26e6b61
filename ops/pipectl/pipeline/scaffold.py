"""The files that a project begins with, of this pipectl and of the one that made the project.

They are the repository's own: the build puts them into the package, beside the few that only a user's project
has. Each project keeps those that it began with, packed, so that an upgrade can merge without a network.
"""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pipectl import __version__, ordinary
from pipectl.engines.project import RECORD
from pipectl.errors import UsageError
from pipectl.names import shell

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PACKAGE = Path(__file__).parents[1]
CLONE = PACKAGE.parents[1]
OWN = PACKAGE / "scaffold"
SHARED = ("dags", "scripts", "stack", "requirements.txt", "entrypoint.sh", ".gitignore", ".gitattributes")
# Stands for the version in the files that only a user's project has.
VERSION_MARK = b"@PIPECTL_VERSION@"
# Projects of this one have no record.
FIRST_RELEASE = "0.1.0"
RELEASES = PACKAGE / "releases"
# Of the record: ten times what it has.
MOST_BYTES = 16 * 1024 * 1024
# What zip knows no time before.
NO_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class ScaffoldFile:
    """What is in a file of the scaffold, and whether it may be run."""

    content: bytes
    is_program: bool = False


@dataclass(frozen=True)
class Scaffold:
    """The files of one version, by their paths in a project."""

    version: str
    files: Mapping[str, ScaffoldFile]

    def packed(self) -> bytes:
        """Return the archive that a project keeps; its comment is the version."""
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.comment = self.version.encode()
            for name, file in self.files.items():
                entry = zipfile.ZipInfo(name, NO_TIME)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = (0o100755 if file.is_program else 0o100644) << 16
                archive.writestr(entry, file.content)
        return packed.getvalue()


def todays() -> Scaffold:
    """Return the scaffold of this pipectl."""
    found = dict(_walk(CLONE if is_clone() else OWN, SHARED)) | dict(_walk(OWN, (".",)))
    files = {
        name: ScaffoldFile(
            path.read_bytes().replace(VERSION_MARK, __version__.encode()), os.access(path, os.X_OK)
        )
        for name, path in sorted(found.items())
    }
    return Scaffold(__version__, files)


def is_clone() -> bool:
    """Whether this pipectl runs from a clone, whose root has the files that a build puts into the package."""
    return not (OWN / "stack").exists()


def _walk(root: Path, names: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """Yield the files that git would not ignore, by their paths from `root`."""
    shared = CLONE if is_clone() else OWN
    lines = (shared / ".gitignore").read_text(encoding="utf-8").split()
    ignored = shutil.ignore_patterns(*(line.rstrip("/").rsplit("/", 1)[-1] for line in lines))
    for name in names:
        if (root / name).is_file():
            yield name, root / name
        for folder, folders, files in os.walk(root / name):
            for left_out in ignored(folder, [*folders, *files]) & set(folders):
                folders.remove(left_out)
            for file in set(files) - ignored(folder, files):
                path = Path(folder, file)
                yield path.relative_to(root).as_posix(), path


def recorded(project: Path) -> Scaffold:
    """Return the scaffold that a project came from. Raises UsageError if its record cannot be read."""
    record = project / RECORD
    if not record.exists():
        return _unpacked(RELEASES / f"{FIRST_RELEASE}.zip")
    try:
        return _unpacked(record)
    except Exception as error:  # zipfile has no end of errors for damaged data: zlib.error, IndexError, ...
        raise UsageError(
            f"{record} cannot be read: {str(error) or type(error).__name__}.",
            hint="It says what this project began with."
            f" Get it back: {shell('git', '-C', project, 'checkout', '--', RECORD)}",
        ) from error


def _unpacked(path: Path) -> Scaffold:
    files = {}
    with ordinary.opened(path) as opened, zipfile.ZipFile(opened) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > MOST_BYTES:
            raise ValueError("it is too large")
        for entry in entries:
            place = PurePosixPath(entry.filename)
            if place.is_absolute() or ".." in place.parts or entry.is_dir():
                raise ValueError(f"it names {entry.filename!r}")
            files[entry.filename] = ScaffoldFile(archive.read(entry), bool(entry.external_attr >> 16 & 0o100))
        version = archive.comment.decode("ascii")
    if not version:
        raise ValueError("it names no version")
    return Scaffold(version, files)
