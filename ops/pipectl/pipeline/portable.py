"""Dumps of all databases by their own tools, packed with Zstandard, for another engine or machine."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib import import_module
from secrets import token_hex
from typing import IO, TYPE_CHECKING, Any, cast

from pipectl import surroundings
from pipectl.database_connections import MYSQL
from pipectl.engines.local.client_programs import find_pg_restore
from pipectl.errors import DatabaseError
from pipectl.pipeline.snapshot_versions import numbers
from pipectl.services import databases, get
from pipectl.wait import until

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from pipectl.engines.base import Engine
    from pipectl.engines.foreground import Command
    from pipectl.observer import Observer
    from pipectl.settings import Settings

# pg_dump's own way to pack with it needs PostgreSQL 16.
PG_DUMP = ("pg_dump", "--format=custom", "--compress=0", "--no-owner", "--no-privileges")
REPLACING = ("--clean", "--if-exists", "--no-owner", "--no-privileges")
PG_RESTORE = ("pg_restore", "--single-transaction", *REPLACING)
# An older server gets what a newer pg_restore writes as SQL, without settings that only newer servers know.
PSQL = ("psql", "-qX", "--set=ON_ERROR_STOP=1", "--single-transaction", "--file=-")
NEWER_SETTINGS = (b"SET transaction_timeout ",)  # came with 17
# Up to the first of its statements that is no setting; and the line by which psql runs no command of its own.
MOST_SETTINGS, FIRST_STATEMENT, RESTRICTED = 60, b"SELECT ", b"\\restrict "
# A new metadata database may have tables that an older Airflow's dump does not name.
EMPTY_SCHEMA = ("psql", "-qXc", "DROP SCHEMA public CASCADE", "-c", "CREATE SCHEMA public")
ANSWERS = ("psql", "-qXc", "SELECT 1")
# Before the first statement MariaDB puts a line that MySQL's client takes for a command.
SANDBOX = b"/*M!999999"
ZSTANDARD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
CHUNK = 1 << 20
ANSWER_SECONDS, POLL_SECONDS = 60, 0.2
DETAIL_LINES = 10


def dump(
    engine: Engine,
    settings: Settings,
    folder: Path,
    observer: Observer,
    services: Collection[str] = databases(),
) -> None:
    """Write a file for each database to a new folder; their servers must run. Raises DatabaseError.

    Each is of one moment, and all begin in the same: nothing may write meanwhile.
    """
    folder.mkdir(mode=0o700)

    def write(service: str) -> None:
        command = engine.tool(service, _dump_words(settings, service), observer)
        with _zstandard().open(folder / f"{service}.zst", "xb") as file:
            _run(command, service, target=file)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, services))


def pg_restore_for(
    engine: Engine, settings: Settings, made_with: Mapping[str, str], observer: Observer
) -> Path | None:
    """Return this machine's pg_restore for dumps of a PostgreSQL that is newer than the engine's, else None.

    `made_with` are the versions that dumped. Raises EngineError if no pg_restore is new enough.
    """
    then, here = (numbers(versions.get("postgres", ""))[0] for versions in (made_with, engine.versions()))
    return find_pg_restore(settings, observer, then) if 0 < here < then else None


def load(
    engine: Engine,
    settings: Settings,
    folder: Path,
    observer: Observer,
    pg_restore: Path | None = None,
    services: Collection[str] = databases(),
) -> None:
    """Fill new databases, whose servers run, with what `dump` has written. Raises DatabaseError.

    `pg_restore` is what `pg_restore_for` has returned.
    """

    def answers() -> bool:
        try:
            _run(engine.tool("postgres", ANSWERS, observer), "postgres")
        except DatabaseError:
            return False
        return True

    until(answers, ANSWER_SECONDS, POLL_SECONDS)
    _run(engine.tool("postgres", EMPTY_SCHEMA, observer), "postgres")

    def read(service: str) -> None:
        is_script = service != MYSQL and pg_restore is not None
        command = engine.tool(service, _load_words(settings, service, is_script=is_script), observer)
        with _zstandard().open(folder / f"{service}.zst", "rb") as file:
            if is_script and pg_restore:
                with _as_script(pg_restore, file, service) as lines:
                    _run(command, service, source=lines)
            else:
                _run(command, service, source=_chunks(file, service))

    with ThreadPoolExecutor() as pool:
        list(pool.map(read, services))


def _dump_words(settings: Settings, service: str) -> tuple[str, ...]:
    if service != MYSQL:
        return PG_DUMP
    address = settings.database(service)
    user, options = f"--user={address.user}", ("--single-transaction", "--no-tablespaces", "--hex-blob")
    return ("mysqldump", user, *options, "--loose-set-gtid-purged=OFF", address.database)


def _load_words(settings: Settings, service: str, *, is_script: bool = False) -> tuple[str, ...]:
    if service == MYSQL:
        address = settings.database(service)
        return ("mysql", f"--user={address.user}", "--default-character-set=utf8mb4", address.database)
    database = get(service).database if service == "postgres" else settings.database(service).database
    return (*(PSQL if is_script else PG_RESTORE), f"--dbname={database}")


@contextmanager
def _as_script(pg_restore: Path, dump: IO[bytes], service: str) -> Iterator[Iterator[bytes]]:
    """Let pg_restore write a dump as SQL that servers older than it take. Raises DatabaseError."""
    with tempfile.TemporaryFile() as said:
        with (
            ThreadPoolExecutor(max_workers=1) as beside,
            subprocess.Popen(
                (str(pg_restore), *REPLACING, "--file=-"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                env=surroundings.environment(),
            ) as process,
        ):
            source, script = cast("tuple[IO[bytes], IO[bytes]]", (process.stdin, process.stdout))
            feeding = beside.submit(_feed, _chunks(dump, service), source)
            try:
                yield for_older_servers(script)
            finally:
                script.close()  # ends it, if nobody has read all
            feeding.result()
        if process.returncode:
            raise _failure(service, "loaded", said)


def for_older_servers(script: Iterable[bytes]) -> Iterator[bytes]:
    """Leave out settings that an older server does not know, and let psql run no command that data holds."""
    lines, settings = iter(script), []
    for line in lines:
        settings.append(line)
        if line.startswith(FIRST_STATEMENT) or len(settings) == MOST_SETTINGS:
            break
    if not any(line.startswith(RESTRICTED) for line in settings):
        yield RESTRICTED + token_hex().encode() + b"\n"
    yield from (line for line in settings if not line.startswith(NEWER_SETTINGS))
    yield from lines


def _run(
    command: Command, service: str, *, source: Iterable[bytes] | None = None, target: IO[bytes] | None = None
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
                _feed(source, process.stdin)
        if process.returncode:
            raise _failure(service, "saved" if target else "loaded", said)


def _failure(service: str, what: str, said: IO[bytes]) -> DatabaseError:
    said.seek(0)
    lines = said.read().decode(errors="replace").strip().splitlines()
    return DatabaseError(
        f"The data of {service} could not be {what}.",
        hint="The lines above are those of the database's own tool.",
        detail="\n".join(lines[-DETAIL_LINES:]),
    )


def _feed(source: Iterable[bytes], stdin: IO[bytes]) -> None:
    with suppress(BrokenPipeError):  # the program says why itself
        try:
            for chunk in source:
                stdin.write(chunk)
        finally:
            # What it has not taken is flushed here, once; another close does nothing.
            stdin.close()


def _chunks(file: IO[bytes], service: str) -> Iterator[bytes]:
    try:
        first = file.readline() if service == MYSQL else b""
        if not first.startswith(SANDBOX):
            yield first
        while chunk := file.read(CHUNK):
            yield chunk
    except EOFError as error:  # of a file that is empty, or ends too soon
        raise DatabaseError(f"The data of {service} could not be loaded: {error}.") from error


def _zstandard() -> Any:  # noqa: ANN401  two modules, one interface
    return import_module(ZSTANDARD)  # 5 ms
