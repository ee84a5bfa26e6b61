"""PostgreSQL clusters of the local engine: made without starting a server, then run by the supervisor."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipectl import ordinary
from pipectl.engines.local import postgres_roles as roles
from pipectl.engines.local.folders import atomic_folder, copy_contents, server_mark
from pipectl.engines.local.install import run_server_tool
from pipectl.engines.local.privileges import change_owner, drop_prefix
from pipectl.engines.local.processes import POSTGRES, server_pid
from pipectl.engines.local.server_config import copied_config, copy_config
from pipectl.engines.local.supervisor.program import Program
from pipectl.engines.project import write_private
from pipectl.errors import EngineError

if TYPE_CHECKING:
    from pipectl.engines.local.binaries import PostgresBinaries
    from pipectl.models import ReplicationLogin

# Passwords are checked on every connection. There is no UNIX socket, so no "local" line is reached; it is
# there for who turns sockets on. Nobody may copy the cluster's files (database `replication`): changes are
# read through the database itself.
_HEAD = """\
# TYPE  DATABASE     USER  ADDRESS       METHOD
local   all          all                 scram-sha-256
host    all          all   127.0.0.1/32  scram-sha-256
"""
ACCESS_RULES = _HEAD
EARLIER_ACCESS_RULES = {f"{_HEAD}host    replication  all   127.0.0.1/32  scram-sha-256\n"}
PID_FILE = "postmaster.pid"
NAMES = POSTGRES


def data_version(data_dir: Path) -> int | None:
    """Major version of the server that made `data_dir`; None if there is no cluster.

    Raises EngineError if what is there is damaged.
    """
    path = data_dir / "PG_VERSION"
    try:
        return int(ordinary.read_text(path, "ascii").strip())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise EngineError(
            f"{path} does not say which PostgreSQL made this data.",
            hint="Put the file back, or start with new data: pipectl reset",
        ) from error


@dataclass(frozen=True)
class Accounts:
    """The accounts of a cluster with one database.

    Without `superuser_password` the user is the superuser, as that of Airflow's metadata is. `replication` is
    an account that reads the tables of schema public and their changes, and nothing else, and the file of its
    statements.
    """

    user: str
    password: str = field(repr=False)
    database: str
    superuser_password: str = field(default="", repr=False)
    replication: tuple[ReplicationLogin, Path] | None = None

    @property
    def superuser(self) -> str:
        """The superuser's name."""
        return roles.superuser(self.user) if self.superuser_password else self.user

    def set_up(self, binaries: PostgresBinaries, data_dir: Path) -> None:
        """Make the accounts in a stopped cluster, or bring those of an earlier release along."""
        if not self.superuser_password:
            execute(binaries, data_dir, [roles.password_statement(self.user, self.password)])
            return
        # In a run of its own: only then does the session's user have its new name.
        execute(binaries, data_dir, roles.rename_superuser(self.user))
        execute(binaries, data_dir, roles.roles(self.user, self.password, self.superuser_password))
        statements = roles.ownership(self.user, self.database)
        if self.replication is not None:
            statements += roles.account(self.user, *self.replication)
        execute(binaries, data_dir, statements, self.database)

    def bring_along(self, binaries: PostgresBinaries, data_dir: Path) -> None:
        """Do so if the cluster was set up with other accounts, 0.3 s. The server must not run."""
        if _read(self._note(data_dir)) == self._digest or running_pid(data_dir) is not None:
            return
        if _read(data_dir / "pg_hba.conf") in EARLIER_ACCESS_RULES:
            (data_dir / "pg_hba.conf").write_text(ACCESS_RULES, encoding="ascii")
        self.set_up(binaries, data_dir)
        self.note(data_dir)

    def note(self, data_dir: Path) -> None:
        """Note that the cluster has these accounts."""
        write_private(self._note(data_dir), self._digest)

    @property
    def _digest(self) -> str:
        # A slow digest is not needed: it is as private as stack/.env, which has the passwords themselves.
        return hashlib.sha256(repr(astuple(self)).encode(errors="surrogateescape")).hexdigest()

    @staticmethod
    def _note(data_dir: Path) -> Path:
        return data_dir.with_name(f"{data_dir.name}.accounts")


def prepare(binaries: PostgresBinaries, data_dir: Path, accounts: Accounts) -> bool:
    """Make a cluster with one database; True if it was made.

    Idempotent and atomic. An existing cluster gets the accounts' passwords, unless it runs.

    Raises:
        EngineError: the folder is of another major version or another user's, or initdb failed.

    """
    version = data_version(data_dir)
    if version is not None:
        _require_version(binaries, data_dir, version)
        change_owner(data_dir)
        accounts.bring_along(binaries, data_dir)
        return False
    with atomic_folder(data_dir) as folder:
        change_owner(folder)
        _run(
            binaries,
            folder,
            (
                *("initdb", "-D", str(folder), "-U", accounts.superuser, "-E", "UTF8"),
                *("--no-locale", "--no-sync", "--auth=trust"),
            ),
            f"The PostgreSQL data folder {data_dir} could not be made.",
        )
        # Trust was only initdb's way not to ask for a password file; no server has run with it.
        (folder / "pg_hba.conf").write_text(ACCESS_RULES, encoding="ascii")
        if accounts.database != "postgres":
            execute(binaries, folder, [f"CREATE DATABASE {roles.identifier(accounts.database)}"])
        accounts.set_up(binaries, folder)
        _run(
            binaries,
            folder,
            ("initdb", "--sync-only", "-D", str(folder)),
            f"{data_dir} could not be written to disk.",
        )
    accounts.note(data_dir)
    return True


def set_password(binaries: PostgresBinaries, data_dir: Path, *, user: str, password: str) -> None:
    """Change the password of `user` in a stopped cluster (0.1 s). Raises EngineError."""
    change_owner(data_dir)
    execute(binaries, data_dir, [roles.password_statement(user, password)])


def clone(binaries: PostgresBinaries, source: Path, target: Path) -> None:
    """Copy the stopped cluster `source` to `target`, atomically; blocks are shared if the disk can.

    Raises:
        EngineError: `source` is no cluster, another version's or running, or `target` cannot be written.

    """
    version = data_version(source)
    if version is None:
        raise EngineError(
            f"{source} is no PostgreSQL data folder.", hint="Make the stack's data anew: pipectl reset"
        )
    _require_version(binaries, source, version)
    if running_pid(source) is not None:
        raise EngineError(
            f"The cluster {source} cannot be copied while it runs.", hint="Stop it first: pipectl down"
        )
    with atomic_folder(target) as folder:
        copy_contents((source, folder))
        (folder / PID_FILE).unlink(missing_ok=True)
        change_owner(folder)
        _run(
            binaries,
            folder,
            ("initdb", "--sync-only", "-D", str(folder)),
            f"{target} could not be written to disk.",
        )


def execute(
    binaries: PostgresBinaries, data_dir: Path, statements: list[str], database: str = "postgres"
) -> None:
    """Run `statements`, one line each, in a stopped cluster by a single-user server (0.1 s).

    Raises:
        EngineError: a statement failed. Neither message nor detail repeats statements: they hold passwords.

    """
    settings = {"exit_on_error": "on", "log_min_messages": "error", "log_min_error_statement": "panic"}
    options = tuple(word for name, value in settings.items() for word in ("-c", f"{name}={value}"))
    _run(
        binaries,
        data_dir,
        ("postgres", "--single", "-D", str(data_dir), *options, database),
        f"The PostgreSQL data folder {data_dir} could not be set up.",
        "".join(f"{statement};\n" for statement in statements),
    )


def program(
    binaries: PostgresBinaries,
    name: str,
    data_dir: Path,
    port: int,
    config: Path | None = None,
    *,
    copies: bool = True,
) -> Program:
    """Describe the server of `data_dir` to the supervisor: on 127.0.0.1 only, its log on stderr.

    `config` is a file of stack/postgres, copied for the server, unless it is only to be compared; without
    it, it has PostgreSQL's defaults.
    """
    chosen = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "port": str(port),
        "cluster_name": server_mark(name, data_dir),
    }
    if config is not None:
        copy = copy_config(config, data_dir) if copies else copied_config(config, data_dir)
        chosen["config_file"] = str(copy)
    options = tuple(word for key, value in chosen.items() for word in ("-c", f"{key}={value}"))
    return Program(
        name=name,
        port=port,
        command=(
            *_starter(data_dir),
            *(*drop_prefix(data_dir), str(binaries.bin_dir / "postgres"), "-D", str(data_dir)),
            *options,
        ),
        directory=data_dir.parent,
        # Without LC_ALL macOS makes the server multi-threaded, and then it refuses to start.
        environment={**binaries.environment, "LC_ALL": "C", "TZ": "UTC"},
        stop_signal="INT",  # fast shutdown: sessions are ended, not waited for
        stop_seconds=20,
    )


def running_pid(data_dir: Path) -> int | None:
    """Process id of the live server of `data_dir`, whoever started it; a stale pid file counts as none."""
    path = data_dir / PID_FILE
    return server_pid(path, NAMES) if path.exists() else None


def require_version(binaries: PostgresBinaries, data_dir: Path) -> None:
    """Raise EngineError if a cluster that is there was made by another major version."""
    version = data_version(data_dir)
    if version is not None:
        _require_version(binaries, data_dir, version)


def _require_version(binaries: PostgresBinaries, data_dir: Path, version: int) -> None:
    if version != binaries.version[0]:
        raise EngineError(
            f"The data in {data_dir} was made by PostgreSQL {version}, "
            f"but {binaries.origin} is PostgreSQL {binaries.version[0]}.",
            hint=f"Install PostgreSQL {version} again, or start with new data: pipectl reset",
        )


def _starter(data_dir: Path) -> tuple[str, ...]:
    """Words before a server's command that keep a killed one's postmaster.pid out of its way."""
    program = Path(__file__).with_name("postgres_start.py")
    # The base interpreter: it starts faster, and does not depend on a virtual environment that may move.
    interpreter = getattr(sys, "_base_executable", sys.executable)
    return (interpreter, "-I", "-S", str(program), str(data_dir))


def _run(
    binaries: PostgresBinaries,
    data_dir: Path,
    command: tuple[str, ...],
    failure: str,
    statements: str = "",
) -> None:
    hint = "The lines above are PostgreSQL's. Mend what they name, or start with new data: pipectl reset"
    program = str(binaries.bin_dir / command[0])
    run_server_tool(
        (program, *command[1:]),
        binaries.environment,
        EngineError(failure, hint=hint),
        data_dir,
        statements,
        starter=_starter(data_dir) if command[0] == "postgres" else (),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
