"""Checks of the machine: memory, disk, file system, clock, locale, proxies, and what is installed for it."""

from __future__ import annotations

import locale
import os
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from pipectl import disk, surroundings
from pipectl.errors import PipectlError
from pipectl.names import counted, listed, shell, size
from pipectl.pipeline.doctor.checks import Desk, Finding, NotNowError, bad, check, fine
from pipectl.services import business_databases

TASK_BYTES = 50 << 20
DEFAULT_PARALLELISM = 4
# What a first start installs, and what logs and databases need to go on.
LEAST_DISK_BYTES = 1 << 30
LEAST_FILES = 10_000
# File systems on which locks, modes or PostgreSQL's fsync are not what they are on a disk.
NETWORKED = {"9p", "cifs", "drvfs", "fuse.sshfs", "nfs", "nfs4", "smb3", "smbfs", "vboxsf", "virtiofs"}
MOUNTS = Path("/proc/self/mounts")
# Before this release was made.
EARLIEST = datetime(2026, 1, 1, tzinfo=UTC)
CLOCK_SECONDS = 5.0
PROXY_SECONDS = 2.0
# stack/airflow/proxies.py leaves all others out.
READ_BY_AIRFLOW = {"", "http", "https"}
NOT_READ = "which Airflow's client cannot read, so that tasks go without it"
NAMED_FILES = 3


@check("memory", brief=True)
def memory(desk: Desk) -> Finding:
    """There is memory for the stack, and for as many tasks as may run at once."""
    from pipectl.engines.local.processes import available_memory  # noqa: PLC0415  36 ms

    left = available_memory()
    tasks = int(desk.settings.variables.get("AIRFLOW_PARALLELISM") or DEFAULT_PARALLELISM) * TASK_BYTES
    needed = tasks + (0 if desk.is_running else desk.engine.memory_bytes)
    found = f"{size(left)} left, {size(needed)} needed{' for tasks' if desk.is_running else ''}"
    if left >= needed:
        return fine(found)
    return bad(found, "End other programs, or lower AIRFLOW_PARALLELISM in stack/.env and run: pipectl up")


@check("disk", brief=True)
def disk_space(desk: Desk) -> Finding:
    """There is room for data, logs and installations, in bytes and in files."""
    folders = list(disk.folders(desk.settings))
    with suppress(PipectlError):  # an engine that does not answer
        folders += desk.engine.folders()
    spaces = disk.spaces(folders)
    for space in spaces:
        if space.bytes < LEAST_DISK_BYTES or (space.files is not None and space.files < LEAST_FILES):
            files = f" and {counted(space.files, 'file')}" if space.files is not None else ""
            return bad(
                f"the disk of {space.folder} has {size(space.bytes)}{files} left",
                f"Free space on it; what takes most: {shell('du', '-xh', '-d', '2', space.folder)} | sort -h",
            )
    return fine(", ".join(f"{size(space.bytes)} left for {space.folder}" for space in spaces))


@check("file-system", brief=True)
def file_system(desk: Desk) -> Finding:
    """The project and what is installed lie on file systems that servers can work on."""
    settings = desk.settings
    kinds = []
    for folder, remedy in (
        (settings.project, "Move the project to a disk of this machine."),
        (settings.cache_dir, "export PIPECTL_CACHE_DIR=/var/tmp/pipectl"),
    ):
        existing = next(path for path in (folder, *folder.parents) if path.is_dir())
        kind, flags = _kind(existing), os.statvfs(existing).f_flag
        if flags & os.ST_RDONLY:
            return bad(f"{existing} can only be read", remedy)
        if flags & getattr(os, "ST_NOEXEC", 0):
            return bad(f"programs in {existing} cannot be run: it is mounted with noexec", remedy)
        if kind in NETWORKED:
            return bad(f"{existing} lies on {kind}, on which databases lose data", remedy)
        kinds.append(f"{existing} on {kind or 'a disk'}")
    return fine(", ".join(kinds))


def _kind(folder: Path) -> str:
    """Return the kind of the file system that a folder lies on; empty if the system does not tell."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    mounts = {line.split()[1].encode().decode("unicode_escape"): line.split()[2] for line in lines}
    path = os.path.realpath(folder)
    best = max((mount for mount in mounts if os.path.commonpath((mount, path)) == mount), key=len, default="")
    return mounts.get(best, "")


@check("clock", brief=True)
def clock(desk: Desk) -> Finding:
    """The clocks of this machine, of the engine and of the databases tell the same time."""
    now = datetime.now(UTC)
    remedy = "Set the clock by your system's means, as: sudo systemctl restart systemd-timesyncd"
    if now < EARLIEST:
        return bad(f"it is {now:%Y-%m-%d %H:%M} UTC on this machine, which cannot be", remedy)
    with suppress(FileNotFoundError):
        written = datetime.fromtimestamp(desk.settings.env_path.stat().st_mtime, UTC)
        if written > now + timedelta(minutes=1):
            return bad(
                f"stack/.env was written at {written:%Y-%m-%d %H:%M} UTC, which is still to come", remedy
            )
    clocks: dict[str, float | None] = {}
    with suppress(PipectlError):
        clocks["the engine"] = desk.engine.clock_ahead()
    for definition in business_databases():
        with suppress(NotNowError, PipectlError):
            clocks[definition.name] = _ahead(desk, definition.name)
    for name, ahead in clocks.items():
        if ahead is not None and abs(ahead) > CLOCK_SECONDS:
            direction = "ahead of" if ahead > 0 else "behind"
            return bad(f"the clock of {name} is {abs(ahead):.0f} s {direction} this machine's", remedy)
    known = [name for name, ahead in clocks.items() if ahead is not None]
    agreeing = f", as {listed(known, len(known))} {'says' if len(known) == 1 else 'say'}" if known else ""
    return fine(f"{now:%Y-%m-%d %H:%M} UTC{agreeing}")


def _ahead(desk: Desk, service: str) -> float:
    before = time.time()
    told = desk.databases(service).clock(service)
    after = time.time()
    return told - min(max(told, before), after)


@check("locale", brief=True)
def locale_and_zone(desk: Desk) -> Finding:
    """The locale and the time zone that services inherit exist on this machine."""
    del desk
    names = [name for name in ("LC_ALL", "LC_CTYPE", "LANG") if os.environ.get(name)]
    chosen = f"{names[0]}={os.environ[names[0]]}" if names else "no locale set"
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, "")
    except locale.Error:
        return bad(f"{chosen} is no locale of this machine", "export LC_ALL=C.UTF-8")
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
    zone = os.environ.get("TZ", "").removeprefix(":")
    if zone and not Path(zone).is_absolute() and not _is_zone(zone):
        return bad(f"TZ={zone} is no time zone of this machine", "unset TZ")
    return fine(f"{chosen}, time zone {zone or time.tzname[0]}")


def _is_zone(zone: str) -> bool:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # noqa: PLC0415  5 ms

    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # POSIX' own form, as CET-1CEST.
        return any(character.isdigit() for character in zone)
    return True


@check("proxy", brief=True)
def proxy(desk: Desk) -> Finding:
    """The proxies that installers and tasks take from this shell answer."""
    del desk
    proxies = {
        name: os.environ[name]
        for name in surroundings.PROXIES
        if os.environ.get(name) and not name.lower().startswith("no_")
    }
    if not proxies:
        return fine("none is set")
    seen: dict[str, str] = {}
    unread: list[str] = []
    for name, address in proxies.items():
        try:
            parts = urlsplit(address if "://" in address else f"http://{address}")
            host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            return bad(f"{name} is no address: {error}", shell("unset", name))
        cause = "" if parts.scheme in READ_BY_AIRFLOW else f"{name} is a {parts.scheme}:// proxy, {NOT_READ}"
        unread += [cause] if cause else []
        place = f"{host}:{port}"
        if place not in seen:
            try:
                with socket.create_connection((host, port), PROXY_SECONDS):
                    seen[place] = name
            except (OSError, UnicodeError) as error:
                reason = getattr(error, "strerror", "") or str(error)
                silent = f"{place} does not answer: {reason}"
                return bad(f"{cause or f'{name} names a proxy'}, and {silent}", shell("unset", name))
    answering = ", ".join(f"{name} ({place}) answers" for place, name in seen.items())
    return fine("; ".join((answering, *unread)))


@check("cache")
def cache(desk: Desk) -> Finding:
    """What pipectl has installed is as it was installed: each file has its hash."""
    verified = desk.engine.verify_installed()
    if verified is None:
        raise NotNowError(f"the {desk.engine.name} engine runs images")
    files, damaged = verified
    for folder, paths in damaged.items():
        names = listed([str(path.relative_to(folder)) for path in paths[:NAMED_FILES]], len(paths))
        stop = "pipectl down && " if desk.is_running else ""
        return bad(f"{folder} is damaged: {names}", f"{stop}{shell('rm', '-r', folder)} && pipectl up")
    if not files:
        raise NotNowError("nothing is installed yet")
    return fine(f"{counted(files, 'file')} as installed")


@check("images")
def images(desk: Desk) -> Finding:
    """The images, or on the local engine the programs, that the services run on are there."""
    desk.require_engine()
    present, lacking = desk.engine.software()
    if not lacking:
        return fine(", ".join(present))
    found = f"not on this machine: {', '.join(lacking)}"
    if not desk.is_running and not desk.engine.volumes():
        raise NotNowError(f"{found}; the first pipectl up gets it")
    return bad(found, "pipectl up")
