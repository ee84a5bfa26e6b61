"""Dumps of all databases by their own tools, packed with Zstandard, for another engine or machine."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any

from pipectl.database_connections import MYSQL
from pipectl.errors import DatabaseError
from pipectl.services import databases, get
from pipectl.wait import until

if TYPE_CHECKING:
    from pathlib import Path

    from pipectl.engines.base import Engine
    from pipectl.engines.foreground import Command
    from pipectl.observer import Observer
    from pipectl.settings import Settings

# pg_dump's own way to pack with it needs PostgreSQL 16.
PG_DUMP = ("pg_dump", "--format=custom", "--compress=0", "--no-owner", "--no-privileges")
PG_RESTORE = ("pg_restore", "--single-transaction", "--clean", "--if-exists", "--no-owner", "--no-privileges")
# A new metadata database may have tables that an older Airflow's dump does not name.
EMPTY_SCHEMA = ("psql", "-qXc", "DROP SCHEMA public CASCADE", "-c", "CREATE SCHEMA public")
ANSWERS = ("psql", "-qXc", "SELECT 1")
# Before the first statement MariaDB puts a line that MySQL's client takes for a command.
SANDBOX = b"/*M!999999"
ZSTANDARD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
CHUNK = 1 << 20
ANSWER_SECONDS, POLL_SECONDS = 60, 0.2
DETAIL_LINES = 10


def dump(engine: Engine, settings: Settings, folder: Path, observer: Observer) -> None:
    """Write a file for each database to a new folder; all servers must run. Raises DatabaseError.

    Each is of one moment, and all begin in the same: nothing may write meanwhile.
    """
    folder.mkdir(mode=0o700)

    def write(service: str) -> None:
        command = engine.tool(service, _dump_words(settings, service), observer)
        with _zstandard().open(folder / f"{service}.zst", "xb") as file:
            _run(command, service, target=file)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, databases()))


def load(engine: Engine, settings: Settings, folder: Path, observer: Observer) -> None:
    """Fill new databases, whose servers run, with what `dump` has written. Raises DatabaseError."""

    def answers() -> bool:
        try:
            _run(engine.tool("postgres", ANSWERS, observer), "postgres")
        except DatabaseError:
            return False
        return True

    until(answers, ANSWER_SECONDS, POLL_SECONDS)
    _run(engine.tool("postgres", EMPTY_SCHEMA, observer), "postgres")

    def read(service: str) -> None:
        command = engine.tool(service, _load_words(settings, service), observer)
        with _zstandard().open(folder / f"{service}.zst", "rb") as file:
            _run(command, service, source=file)

    with ThreadPoolExecutor() as pool:
        list(pool.map(read, databases()))


def _dump_words(settings: Settings, service: str) -> tuple[str, ...]:
    if service != MYSQL:
        return PG_DUMP
    address = settings.database(service)
    user, options = f"--user={address.user}", ("--single-transaction", "--no-tablespaces", "--hex-blob")
    return ("mysqldump", user, *options, "--loose-set-gtid-purged=OFF", address.database)


def _load_words(settings: Settings, service: str) -> tuple[str, ...]:
    if service == MYSQL:
        address = settings.database(service)
        return ("mysql", f"--user={address.user}", "--default-character-set=utf8mb4", address.database)
    database = get(service).database if service == "postgres" else settings.database(service).database
    return (*PG_RESTORE, f"--dbname={database}")


def _run(
    command: Command, service: str, *, source: IO[bytes] | None = None, target: IO[bytes] | None = None
) -> None:
    """Run a tool to its end, from one file or to another. Raises DatabaseError with its last lines."""
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(
            command.words,
            stdin=subprocess.PIPE if source else subprocess.DEVNULL,
            stdout=subprocess.PIPE if target else subprocess.DEVNULL,
            stderr=said,
            env=dict(command.environment),
            cwd=command.folder,
        ) as process:
            if target and process.stdout:
                while chunk := process.stdout.read(CHUNK):
                    target.write(chunk)
            if source and process.stdin:
                _feed(source, process.stdin, service)
        if process.returncode:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            raise DatabaseError(
                f"The data of {service} could not be {'saved' if target else 'loaded'}.",
                hint="The lines above are those of the database's own tool.",
                detail="\n".join(lines[-DETAIL_LINES:]),
            )


def _feed(source: IO[bytes], stdin: IO[bytes], service: str) -> None:
    first = source.readline() if service == MYSQL else b""
    with suppress(BrokenPipeError):  # it says why itself
        if not first.startswith(SANDBOX):
            stdin.write(first)
        while chunk := source.read(CHUNK):
            stdin.write(chunk)
        stdin.close()


def _zstandard() -> Any:  # noqa: ANN401  two modules, one interface
    return import_module(ZSTANDARD)  # 5 ms
