"""psql and mysql: those of this machine, else installed once into the user's cache and shared by projects.

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
    version_of,
)
from pipectl.engines.local.folders import atomic_folder
from pipectl.engines.local.install import install_lock
from pipectl.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pipectl.observer import Observer
    from pipectl.settings import Settings

MYSQL_NAMES = ("mariadb", "mysql")
PACKAGE = r"^mariadb-client-core(-[0-9.]+)?$"
INSTALL = "apt install mariadb-client, brew install mariadb, dnf install mariadb"


@dataclass(frozen=True)
class MysqlClient:
    """A client of MySQL's protocol: `flavor` is mariadb or mysql, `environment` what the program needs."""

    program: Path
    flavor: str
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def find_psql(settings: Settings, observer: Observer, server: Path | None = None) -> Path:
    """Return psql: that beside `server`, that on PATH, or that of the wheel, which is installed if need be.

    Raises EngineError if that fails.
    """
    if server is not None and (beside := server.with_name("psql")).exists():
        return beside
    if on_path := shutil.which("psql"):
        return Path(on_path)
    wheel = find_postgres(
        settings.cache_dir,
        observer.report,
        lock_file(settings, "postgres"),
        choice=WHEEL,
        show=observer.see_progress,
    )
    return wheel.bin_dir / "psql"


def find_mysql(settings: Settings, observer: Observer, server: Path | None = None) -> MysqlClient:
    """Return a client, one of the kind of `server` before others.

    MySQL 9's client cannot log in to MariaDB, and MariaDB's only to some accounts of MySQL. Raises
    EngineError if there is none, and this is no Debian or Ubuntu, or the download failed.
    """
    flavor = "" if server is None else "mariadb" if server.name == "mariadbd" else "mysql"
    clients = []
    for program in _programs(server):
        if client := inspect(program):
            if flavor in {"", client.flavor}:
                return client
            clients.append(client)
    cached = _cached(settings.cache_dir)
    if cached is None and packages.available():
        cached = _install(settings.cache_dir, observer)
    if cached or clients:
        return cached or clients[0]
    raise EngineError(
        "No client of MariaDB or MySQL was found on this machine.", hint=f"Install one: {INSTALL}"
    )


def inspect(program: Path, libraries: str = "", *options: str) -> MysqlClient | None:
    """Find out what the binary `program` is; None if it does not run."""
    environment = {"LD_LIBRARY_PATH": libraries} if libraries else {}
    text = version_of(program, "--no-defaults", environment=environment)
    if not re.search(r"(Ver|from) \d", text):
        return None
    flavor = "mariadb" if "mariadb" in text.lower() else "mysql"
    return MysqlClient(program, flavor, options, environment)


def _programs(server: Path | None) -> Iterator[Path]:
    """Yield where a client may be: beside the server, on PATH, and where Homebrew keeps versions apart."""
    for name in MYSQL_NAMES:
        if server is not None and (beside := server.with_name(name)).exists():
            yield beside
        if on_path := shutil.which(name):
            yield Path(on_path)
    for pattern in MARIADB_FOLDERS:
        for found in sorted(Path("/").glob(pattern[1:]), reverse=True):
            yield from (found / name for name in MYSQL_NAMES if (found / name).exists())


def _cached(cache_dir: Path, name: str = "mariadb-client") -> MysqlClient | None:
    root = cache_dir / name
    program = root / "usr/bin/mariadb"
    if not program.exists():
        return None
    # Ways to log in other than MariaDB's own are libraries of their own.
    plugins = [f"--plugin-dir={found}" for found in root.glob("usr/lib/*/libmariadb3/plugin")]
    return inspect(program, library_path(root), *plugins)


def _install(cache_dir: Path, observer: Observer) -> MysqlClient | None:
    """Unpack the distribution's client into the cache. Raises EngineError."""
    with install_lock(cache_dir, "mariadb-client", observer.report):
        if cached := _cached(cache_dir):
            return cached
        observer.report(
            "Downloading MariaDB's client from this distribution (30 MB on disk), once for this user"
        )
        target = cache_dir / "mariadb-client"
        if target.exists():  # of no use any more: a system library that it needs has gone
            shutil.rmtree(target)
        with atomic_folder(target) as folder:
            show = partial(observer.see_progress, "MariaDB's client")
            packages.unpack(PACKAGE, folder, show, what="mariadb-client")
            if _cached(cache_dir, folder.name) is None:
                raise EngineError(
                    "The MariaDB client that apt downloaded does not run on this machine.",
                    hint="Install it for the whole machine: apt install mariadb-client",
                )
    return _cached(cache_dir)
