"""Snapshots as folders of .pipectl/snapshots: their names, what each says of itself, and whether it is whole.

A snapshot has a manifest, the settings that its data was made with, and the data. All of it may have come
from elsewhere: nothing in it is believed before it has been looked at.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pipectl import __version__, json_text, ordinary
from pipectl.engines.choice import ENGINES
from pipectl.engines.local.folders import VolumeFolder, atomic_folder
from pipectl.engines.project import new_password, state_folder, write_private
from pipectl.errors import EngineError, UsageError, remedy
from pipectl.names import command, counted, listed, shell, size
from pipectl.pipeline.snapshot_versions import is_newer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pipectl.settings import Settings

PROGRAM, FORMAT = "pipectl snapshot", 1
# In the place of an engine: dumps, which every engine loads.
PORTABLE = "portable"
MANIFEST, SETTINGS, DATA = "snapshot.json", "settings.json", "data"
# The manifest's line with a digest of itself and of the settings.
SEAL = "seal"
# The folder of all snapshots says whose they are; a copy of the project takes it along.
OWNER = ".owner"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
NAME_RULE = "at most 64 ASCII letters, digits, dashes, dots and underscores, a letter or digit first"
NAMED = 5
# Left free on the disk beside what a copy needs.
RESERVE_BYTES = 256 << 20
SEE_LIST = "What there is: pipectl snapshot list"


@dataclass(frozen=True)
class Snapshot:
    """What a snapshot says of itself.

    `engine` made it, `versions` are those of Airflow and the servers, and `rows` those of the business
    databases' tables, large numbers as the servers estimate them; None if the databases did not run.
    """

    name: str
    created: datetime
    engine: str
    pipectl: str
    versions: dict[str, str]
    rows: dict[str, int] | None
    slots: tuple[str, ...]
    files: int
    bytes: int
    digest: str = field(repr=False)
    owner: str = field(repr=False)


@dataclass(frozen=True)
class Contents:
    """All files of a folder: how many, their bytes, and a digest of their names and contents."""

    files: int
    bytes: int
    digest: str


def is_name(text: str) -> bool:
    """Whether a text can be a snapshot's name."""
    return NAME.fullmatch(text) is not None


class Store:
    """The snapshots of one project. Methods that change something need the project's lock."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.folder = settings.state_dir / "snapshots"

    def path(self, name: str) -> Path:
        """Return the folder of a snapshot, whether it is there or not; UsageError for what can be no name."""
        if not is_name(name):
            raise UsageError(
                f"There can be no snapshot {name!r}.", hint=f"A snapshot's name has {NAME_RULE}."
            )
        return self.folder / name

    def names(self) -> tuple[str, ...]:
        """Names of what lies among the snapshots, whole or not."""
        try:
            return tuple(sorted(path.name for path in self.folder.iterdir() if is_name(path.name)))
        except (FileNotFoundError, NotADirectoryError):
            return ()

    def all(self) -> tuple[tuple[Snapshot, ...], dict[str, UsageError]]:
        """Return the snapshots, oldest first, and of those that cannot be used what is wrong with each.

        Files are counted, and not read.
        """
        found, broken = [], {}
        for name in self.names():
            try:
                snapshot = self.read(name)
                _require_count(snapshot, [count for _, count in _listing(self.path(name) / DATA, name)])
                found.append(snapshot)
            except UsageError as error:
                broken[name] = error
        return tuple(sorted(found, key=lambda snapshot: snapshot.created)), broken

    def hint(self) -> str:
        """Say which snapshots there are, the latest by name, and how to go back; empty if there is none."""
        snapshots, _ = self.all()
        if not snapshots:
            return ""
        named = [
            f"{each.name} ({each.created.astimezone():%Y-%m-%d %H:%M})" for each in snapshots[:-NAMED:-1]
        ]
        return (
            f"Snapshots: {listed(named, len(snapshots))}."
            f" To go back, with the versions of then: pipectl snapshot restore {snapshots[-1].name}"
        )

    def read(self, name: str) -> Snapshot:
        """Return what a snapshot says of itself; UsageError if there is none, or it is not to be used.

        Its data is not looked at: `require_whole` does that.
        """
        self.require_folder(name)
        folder = self.path(name)
        try:
            value = json_text.parse(_text(folder / MANIFEST))
        except (OSError, ValueError) as error:
            raise _broken(name, f"{MANIFEST} cannot be read") from error
        if not isinstance(value, dict) or value.get("program") != PROGRAM:
            raise UsageError(
                f"{folder} is no snapshot of pipectl's.",
                hint=f"Move it away from the snapshots: {shell('mv', folder, f'{folder.name}-elsewhere')}",
            )
        made_by, its_format = value.get("pipectl"), value.get("format")
        if (isinstance(its_format, int) and its_format > FORMAT) or is_newer(str(made_by), __version__):
            raise UsageError(
                f"The snapshot {name} was made by pipectl {made_by}, newer than this one ({__version__}).",
                hint="Update pipectl, then run the command again.",
            )
        try:
            settings = _text(folder / SETTINGS)
        except (OSError, ValueError) as error:
            raise _broken(name, f"{SETTINGS} cannot be read") from error
        # Those that were made before there were seals have none.
        if SEAL in value and value[SEAL] != _seal(value, settings):
            raise _broken(name, f"{MANIFEST} or {SETTINGS} has changed")
        try:
            snapshot = _parsed(name, value)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise _broken(name, f"{MANIFEST} is not as pipectl wrote it") from error
        if snapshot.engine != PORTABLE and snapshot.owner != self._owner():
            raise UsageError(
                f"The snapshot {name} is another project's: {folder} was not made here.",
                hint="Restore it in that project, or make one there that goes anywhere: --portable",
            )
        return snapshot

    def require_folder(self, name: str) -> None:
        """Raise UsageError if there is no snapshot, or something else lies in its place."""
        path = self.path(name)
        if path.is_symlink():
            raise UsageError(
                f"{path} is a link, so it is no snapshot.",
                hint=f"Remove the link alone, what it leads to stays: {shell('rm', path)}",
            )
        if path.is_dir():
            return
        if os.path.lexists(path):
            raise UsageError(
                f"{path} is no folder, so it is no snapshot.",
                hint=f"Move it away from the snapshots: {shell('mv', path, f'{path.name}-elsewhere')}",
            )
        latest = [each.name for each in reversed(self.all()[0])]
        if not latest:
            raise UsageError(f"There is no snapshot {name!r}.", hint="Make one: pipectl snapshot save NAME")
        raise UsageError(
            f"There is no snapshot {name!r}. There are: {listed(latest[:NAMED], len(latest))}.", hint=SEE_LIST
        )

    def settings_of(self, snapshot: Snapshot) -> dict[str, str]:
        """Return the settings that the data was made with, by the names of stack/.env. Raises UsageError."""
        try:
            value = json_text.parse(_text(self.path(snapshot.name) / SETTINGS))
        except (OSError, ValueError) as error:
            raise _broken(snapshot.name, f"{SETTINGS} cannot be read") from error
        known = self._settings.of_data
        if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
            raise _broken(snapshot.name, f"{SETTINGS} is not as pipectl wrote it")
        # Whatever stands there beside, such as a path or a port, is none of a snapshot's business.
        return {name: text for name, text in value.items() if name in known}

    def require_whole(self, snapshot: Snapshot) -> None:
        """Raise UsageError if the data is not that of the manifest, or holds links or devices."""
        folder = self.path(snapshot.name) / DATA
        # What is too little or too much is known before the first byte is read.
        _require_count(snapshot, [count for _, count in _listing(folder, snapshot.name)])
        found = contents(folder, name=snapshot.name)
        if found.digest != snapshot.digest:
            raise _broken(snapshot.name, "files of it have changed")

    def require_new(self, name: str) -> None:
        """Raise UsageError if there is a snapshot of this name."""
        if os.path.lexists(self.path(name)):
            raise UsageError(
                f"There is a snapshot {name} already; nothing was saved.",
                hint=f"Delete it (pipectl snapshot rm {name}), or choose another name.",
            )

    def require_space(self, needed: int, what: str, folder: Path) -> None:
        """Raise UsageError if a folder's disk has not so many bytes left."""
        free = shutil.disk_usage(folder).free
        if needed + RESERVE_BYTES > free:
            raise UsageError(
                f"{what} needs {size(needed)}, and the disk of {folder} has {size(free)} left.",
                hint="Free space on it, or delete a snapshot: pipectl snapshot list",
            )

    @contextmanager
    def making(self, name: str) -> Iterator[Path]:
        """Give a folder that becomes the snapshot when the block succeeds: all of it, or nothing.

        The block makes the folder DATA in it, and calls `finish`.
        """
        self.require_new(name)
        try:
            self.ensure()
            if not self._owner():
                write_private(self.folder / OWNER, new_password())
            self.clear()
            with atomic_folder(self.path(name)) as folder:
                yield folder
            _sync_folder(self.folder)
        except ConnectionError:  # whoever read the output is gone
            raise
        except OSError as error:
            raise EngineError(
                f"The snapshot cannot be written to {self.folder}: {error.strerror or error}.",
                hint=remedy(error, self.folder),
            ) from error

    def ensure(self) -> Path:
        """Make the folder of all snapshots, if there is none, and return it."""
        state_folder(self._settings)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self.folder.chmod(0o700)
        return self.folder

    def finish(self, folder: Path, settings: Mapping[str, str], **facts: Any) -> Snapshot:  # noqa: ANN401  Snapshot's
        """Write manifest and settings of a folder that holds the data, and all of it to the disk."""
        found = contents(folder / DATA)
        name = folder.name.removeprefix(".").partition(".new-")[0]
        snapshot = Snapshot(
            name=name,
            files=found.files,
            bytes=found.bytes,
            digest=found.digest,
            owner=self._owner(),
            **facts,
        )
        manifest = {
            "program": PROGRAM,
            "format": FORMAT,
            **vars(snapshot),
            "created": snapshot.created.isoformat(),
        }
        del manifest["name"]  # that of the folder
        text = json.dumps(dict(settings))
        # As it is read again.
        manifest[SEAL] = _seal(json.loads(json.dumps(manifest)), text)
        write_private(folder / SETTINGS, text)
        write_private(folder / MANIFEST, json.dumps(manifest, indent=2))
        os.sync()
        return snapshot

    def remove(self, name: str) -> None:
        """Delete a snapshot's folder, whole or not, in one step; UsageError if there is none."""
        self.require_folder(name)
        VolumeFolder(name, self.path(name)).delete()

    def clear(self) -> None:
        """Delete what interrupted commands have left."""
        for path in self.folder.iterdir():
            if (
                re.fullmatch(r"\..*\.(new-\w+|deleted)", path.name)
                and path.is_dir()
                and not path.is_symlink()
            ):
                shutil.rmtree(path, ignore_errors=True)

    def _owner(self) -> str:
        try:
            return ordinary.read_text(self.folder / OWNER, "ascii")
        except (OSError, UnicodeDecodeError):
            return ""


def contents(folder: Path, *, name: str = "") -> Contents:
    """Return what a folder holds; UsageError if that is anything but folders and ordinary files."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  10 ms

    files = _listing(folder, name)
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            digests = pool.map(_digest, (path for path, _ in files))
            lines = [
                f"{os.fsencode(path.relative_to(folder)).hex()} {count} {text}\n"
                for (path, count), text in zip(files, digests, strict=True)
            ]
    except OSError as error:
        raise _broken(name, f"{error.filename} cannot be read: {error.strerror}") from error
    digest = hashlib.sha256("".join(sorted(lines)).encode())
    return Contents(len(files), sum(count for _, count in files), digest.hexdigest())


def _listing(folder: Path, name: str) -> list[tuple[Path, int]]:
    """Return each file below a folder with its bytes, none of which is read."""
    try:
        return list(_files(folder, name))
    except OSError as error:
        raise _broken(name, f"{error.filename} cannot be read: {error.strerror}") from error


def _require_count(snapshot: Snapshot, sizes: list[int]) -> None:
    """Raise UsageError unless there are as many files with as many bytes as were saved."""
    if (len(sizes), sum(sizes)) != (snapshot.files, snapshot.bytes):
        there, made = (
            f"{counted(files, 'file')} with {counted(count, 'byte')}"
            for files, count in ((len(sizes), sum(sizes)), (snapshot.files, snapshot.bytes))
        )
        raise _broken(snapshot.name, f"it was made of {made}, and has {there}")


def _seal(manifest: Mapping[str, Any], settings: str) -> str:
    """Return a digest of a manifest, its own line aside, and of the settings beside it."""
    facts = {key: value for key, value in manifest.items() if key != SEAL}
    return hashlib.sha256(json.dumps([facts, settings], sort_keys=True).encode()).hexdigest()


def _files(folder: Path, name: str) -> Iterator[tuple[Path, int]]:
    """Yield each file below a folder with its bytes."""
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise _broken(name, f"{folder.name} is no folder")
    for path in folder.iterdir():
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode):
            yield from _files(path, name)
        elif stat.S_ISREG(status.st_mode):
            yield path, status.st_size
        else:
            raise _broken(name, f"{path} is neither a file nor a folder, but a link or a device")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text(path: Path) -> str:
    """Return the text of a file of a snapshot's own, which is no link."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError(f"{path} is no ordinary file")
    return ordinary.read_text(path)


def _parsed(name: str, value: Mapping[str, Any]) -> Snapshot:
    """Read a manifest; AttributeError, LookupError, TypeError or ValueError if it is none."""
    created = datetime.fromisoformat(value["created"])
    texts = [value[key] for key in ("pipectl", "digest", "owner")]
    numbers = [value[key] for key in ("files", "bytes")]
    versions, rows, slots = value["versions"], value["rows"], value["slots"]
    counts = {} if rows is None else rows
    is_right = (
        value["format"] == FORMAT
        and created.tzinfo is not None
        and value["engine"] in (*ENGINES, PORTABLE)
        and all(isinstance(text, str) for text in (*texts, *slots, *versions, *versions.values(), *counts))
        and all(_is_count(number) for number in (*numbers, *counts.values()))
        and isinstance(slots, list)
    )
    if not is_right:
        raise ValueError
    return Snapshot(
        name=name,
        created=created,
        engine=value["engine"],
        pipectl=value["pipectl"],
        versions=versions,
        rows=rows,
        slots=tuple(slots),
        files=value["files"],
        bytes=value["bytes"],
        digest=value["digest"],
        owner=value["owner"],
    )


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0


def _broken(name: str, reason: str) -> UsageError | EngineError:
    if not name:
        return EngineError(f"The data cannot be saved: {reason}.", hint="Put that right, then run it again.")
    return UsageError(
        f"The snapshot {name} is broken: {reason}.",
        hint=f"Delete it, nothing of it is used: {command('snapshot', 'rm', name)}",
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
