"""psql, mysql and their tools: those of this machine, else installed once for all of the user's projects.

psql lies beside the server of the local engine, and in the wheel that this installs. MariaDB's client comes
as its server does: as Debian's and Ubuntu's package, unpacked.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipectl.engines.local import packages
from pipectl.engines.local.binaries import (
    MARIADB_FOLDERS,
    WHEEL,
    find_postgres,
    library_path,
    lock_file,
    postgres_folders,
)
from pipectl.engines.local.folders import atomic_folder
from pipectl.engines.local.install import install_lock
from pipectl.engines.local.program_versions import version_of
from pipectl.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pipectl.engines.local.binaries import PostgresBinaries
    from pipectl.observer import Observer
    from pipectl.settings import Settings

# Tools of MySQL's official image, by its names and by MariaDB's.
MYSQL_TOOLS = {
    "mysql": "mariadb",
    "mysqladmin": "mariadb-admin",
    "mysqlbinlog": "mariadb-binlog",
    "mysqlcheck": "mariadb-check",
    "mysqldump": "mariadb-dump",
    "mysqlimport": "mariadb-import",
    "mysqlshow": "mariadb-show",
}
# Those of PostgreSQL's that a wheel brings where a machine has a server alone.
POSTGRES_TOOLS = ("psql", "pg_dump", "pg_dumpall", "pg_restore")
INSTALL = "apt install mariadb-client, brew install mariadb, dnf install mariadb"


@dataclass(frozen=True)
class Package:
    """A package of clients: the pattern of its name, its folder in the cache, its size there."""

    pattern: str
    folder: str
    megabytes: int


CORE = Package(r"^mariadb-client-core(-[0-9.]+)?$", "mariadb-client", 30)
TOOLS = Package(r"^mariadb-client(-[0-9.]+)?$", "mariadb-tools", 75)


@dataclass(frozen=True)
class MysqlClient:
    """A client of MySQL's protocol: `flavor` is mariadb or mysql, `environment` what the program needs."""

    program: Path
    flavor: str
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def find_psql(settings: Settings, observer: Observer, server: Path | None = None, tool: str = "psql") -> Path:
    """Return psql, or another tool: that beside `server`, that on PATH, or that of the wheel.

    The wheel is installed if need be. Raises EngineError if that fails.
    """
    if server is not None and (beside := server.with_name(tool)).exists():
        return beside
    if on_path := shutil.which(tool):
        return Path(on_path)
    return _wheel(settings, observer).bin_dir / tool


def find_pg_restore(settings: Settings, observer: Observer, major: int) -> Path:
    """Return a pg_restore that reads what PostgreSQL `major` dumps: one of this machine, or the wheel's.

    The wheel is installed if need be. Raises EngineError if even that is older.
    """
    on_path = shutil.which("pg_restore")
    folders = [*([Path(on_path).parent] if on_path else []), *postgres_folders()]
    for program in (folder / "pg_restore" for folder in folders):
        numbers = re.search(r"\d+", version_of(program)) if program.exists() else None
        if numbers and int(numbers[0]) >= major:
            return program
    wheel = _wheel(settings, observer)
    if wheel.version[0] >= major:
        return wheel.bin_dir / "pg_restore"
    raise EngineError(
        f"No pg_restore of PostgreSQL {major} was found on this machine.",
        hint=f"Install PostgreSQL {major}'s client programs, so that pg_restore is on PATH.",
    )


def _wheel(settings: Settings, observer: Observer) -> PostgresBinaries:
    return find_postgres(
        settings.cache_dir,
        observer.report,
        lock_file(settings, "postgres"),
        choice=WHEEL,
        show=observer.see_progress,
    )


def find_mysql(
    settings: Settings, observer: Observer, server: Path | None = None, tool: str = "mysql"
) -> MysqlClient:
    """Return a client, or another of MYSQL_TOOLS, which is installed if need be.

    Raises EngineError if there is none, and this is no Debian or Ubuntu, or the download failed.
    """
    right, any_kind = _look(settings.cache_dir, server, tool)
    if right is None and packages.available():
        right = _install(settings.cache_dir, observer, tool)
    if found := right or any_kind:
        return found
    name = "client of MariaDB or MySQL" if tool == "mysql" else f"{tool} of MariaDB or MySQL"
    raise EngineError(f"No {name} was found on this machine.", hint=f"Install one: {INSTALL}")


def look_for_mysql(settings: Settings, server: Path | None, tool: str) -> MysqlClient | None:
    """Return what there is of a tool, as `find_mysql` does; None if there is none yet."""
    right, any_kind = _look(settings.cache_dir, server, tool)
    return right or any_kind


def _look(cache_dir: Path, server: Path | None, tool: str) -> tuple[MysqlClient | None, MysqlClient | None]:
    """Return a tool of the server's kind, or the cached one; and one of any kind.

    MySQL 9's client cannot log in to MariaDB, and MariaDB's only to some accounts of MySQL.
    """
    flavor = "" if server is None else "mariadb" if server.name == "mariadbd" else "mysql"
    clients = []
    for program in _programs(server, tool):
        if client := inspect(program):
            if flavor in {"", client.flavor}:
                return client, client
            clients.append(client)
    return _cached(cache_dir, tool), clients[0] if clients else None


def inspect(program: Path, libraries: str = "", *options: str) -> MysqlClient | None:
    """Find out what the binary `program` is; None if it does not run."""
    environment = {"LD_LIBRARY_PATH": libraries} if libraries else {}
    text = version_of(program, "--no-defaults", environment=environment)
    if not re.search(r"(Ver|from) \d", text):
        return None
    flavor = "mariadb" if "mariadb" in text.lower() else "mysql"
    return MysqlClient(program, flavor, options, environment)


def _programs(server: Path | None, tool: str) -> Iterator[Path]:
    """Yield where a tool may be: beside the server, on PATH, and where Homebrew keeps versions apart."""
    names = (MYSQL_TOOLS[tool], tool)
    for name in names:
        if server is not None and (beside := server.with_name(name)).exists():
            yield beside
        if on_path := shutil.which(name):
            yield Path(on_path)
    for pattern in MARIADB_FOLDERS:
        for found in sorted(Path("/").glob(pattern[1:]), reverse=True):
            yield from (found / name for name in names if (found / name).exists())


def _cached(cache_dir: Path, tool: str, folder: str = "") -> MysqlClient | None:
    root = cache_dir / (folder or _package(tool).folder)
    program = root / "usr/bin" / MYSQL_TOOLS[tool]
    if not program.exists():
        return None
    # Ways to log in other than MariaDB's own are libraries of their own.
    plugins = [f"--plugin-dir={found}" for found in root.glob("usr/lib/*/libmariadb3/plugin")]
    return inspect(program, library_path(root), *plugins)


def _package(tool: str) -> Package:
    return CORE if tool == "mysql" else TOOLS


def _install(cache_dir: Path, observer: Observer, tool: str) -> MysqlClient | None:
    """Unpack the distribution's package into the cache. Raises EngineError."""
    package = _package(tool)
    with install_lock(cache_dir, package.folder, observer.report):
        if cached := _cached(cache_dir, tool):
            return cached
        observer.report(
            f"Downloading MariaDB's {'client' if package is CORE else 'tools'} from this distribution "
            f"({package.megabytes} MB on disk), once for this user"
        )
        target = cache_dir / package.folder
        if target.exists():  # of no use any more: a system library that it needs has gone
            shutil.rmtree(target)
        with atomic_folder(target) as folder:
            show = partial(observer.see_progress, "MariaDB's client")
            packages.unpack(package.pattern, folder, show, what="mariadb-client")
            if _cached(cache_dir, tool, folder.name) is None:
                raise EngineError(
                    "The MariaDB client that apt downloaded does not run on this machine.",
                    hint="Install it for the whole machine: apt install mariadb-client",
                )
    return _cached(cache_dir, tool)
