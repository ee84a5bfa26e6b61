"""The MySQL-protocol server of the local engine: its data folder, and how the supervisor runs it.

MariaDB and MySQL both; the MySQL branch was run on 9.7. Its init file runs while it initialises, so
no server is reachable before its root has a password.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pipectl.engines.local.folders import atomic_folder, server_mark
from pipectl.engines.local.install import one_line, run_server_tool
from pipectl.engines.local.privileges import change_owner, drop_prefix
from pipectl.engines.local.processes import server_pid
from pipectl.engines.local.server_config import copied_config, copy_config, read_statements
from pipectl.engines.local.supervisor.program import Program
from pipectl.engines.project import write_private
from pipectl.errors import EngineError

if TYPE_CHECKING:
    from pipectl.engines.local.binaries import MariadbBinaries
    from pipectl.models import ReplicationLogin

PID_FILE = "mysqld.pid"
NAMES = frozenset({"mariadbd", "mysqld"})
SYSTEM_TABLES = ("system_tables", "performance_tables", "system_tables_data")


def prepare(
    binaries: MariadbBinaries,
    data_dir: Path,
    files: Path,
    replication: ReplicationLogin | None = None,
    /,
    *,
    user: str,
    password: str,
    database: str,
) -> bool:
    """Make a data folder with one database and its user; True if it was made.

    `replication` is an account that reads the database and its changes, and nothing else; `files` is the
    project's folder stack/mysql, which holds the statements for both accounts. The user has all rights on
    the database, as in the official image, plus what change data capture needs. Nobody else can log in: there
    is no root to attack. Idempotent and atomic; existing data keeps its passwords.

    Raises:
        EngineError: existing data is the other flavour's or the server failed.

    """
    if (data_dir / "mysql").is_dir():
        _require_flavor(binaries, data_dir)
        change_owner(data_dir)
        return False
    with atomic_folder(data_dir) as folder:
        change_owner(folder)
        statements = _statements(files, user, password, database, replication)
        if binaries.flavor == "mariadb":
            _bootstrap_mariadb(binaries, folder, statements)
        else:
            _initialize_mysql(binaries, folder, statements)
        change_owner(folder)
        os.sync()
    return True


def program(
    binaries: MariadbBinaries, name: str, data_dir: Path, port: int, config: Path, *, copies: bool = True
) -> Program:
    """Describe the server of `data_dir` to the supervisor: on 127.0.0.1 only, no socket, its log on stderr.

    `config` is stack/mysql/server.cnf, copied for the server, unless it is only to be compared.
    """
    copy = copy_config(config, data_dir) if copies else copied_config(config, data_dir)
    options = {
        "port": str(port),
        "bind-address": "127.0.0.1",
        "socket": "",
        "pid-file": str(data_dir / PID_FILE),
        # Nothing else asks for it, and every user may read it.
        "report-host": server_mark(name, data_dir),
    }
    if binaries.flavor == "mysql":
        # Its default is a folder that the distribution makes, and without it the server does not start.
        options["secure-file-priv"] = "NULL"
    return Program(
        name=name,
        port=port,
        command=(
            *drop_prefix(data_dir),
            *_server(binaries, data_dir, f"--defaults-file={copy}"),
            *(f"--{key}={value}" for key, value in options.items()),
        ),
        directory=data_dir.parent,
        environment={**binaries.environment, "LC_ALL": "C", "TZ": "UTC"},
        stop_signal="TERM",
        stop_seconds=30,
    )


def running_pid(data_dir: Path) -> int | None:
    """Process id of the live server of `data_dir`, whoever started it; a stale pid file counts as none."""
    path = data_dir / PID_FILE
    return server_pid(path, NAMES) if path.exists() else None


def _server(binaries: MariadbBinaries, data_dir: Path, defaults: str = "--no-defaults") -> tuple[str, ...]:
    # In the folder that all share, /tmp, a MariaDB that starts deletes the temporary tables of every other.
    own_tables = (f"--tmpdir={data_dir}",) if binaries.flavor == "mariadb" else ()
    return (
        str(binaries.server),
        defaults,  # the server takes it as its first option alone
        f"--basedir={binaries.basedir}",
        f"--datadir={data_dir}",
        f"--lc-messages-dir={binaries.share}",
        *own_tables,
    )


def _require_flavor(binaries: MariadbBinaries, data_dir: Path) -> None:
    made_by = "mariadb" if (data_dir / "aria_log_control").exists() else "mysql"
    if made_by != binaries.flavor:
        raise EngineError(
            f"The data in {data_dir} was made by {made_by}, but {binaries.server} is {binaries.flavor}.",
            hint=f"Install {made_by} again, or start with new data: pipectl reset",
        )


def _bootstrap_mariadb(binaries: MariadbBinaries, folder: Path, statements: list[str]) -> None:
    # What mariadb-install-db does, without the client tools that it needs. The scripts create a root
    # without password for each name of this machine: they go before anybody could log in.
    scripts = [_script(binaries, name).read_text(encoding="utf-8") for name in SYSTEM_TABLES]
    lines = [
        "CREATE DATABASE mysql;",
        "USE mysql;",
        "SET @auth_root_socket=NULL;",
        *scripts,
        "DELETE FROM global_priv WHERE User IN ('root', '');",
        "DELETE FROM proxies_priv;",
        "FLUSH PRIVILEGES;",
        *statements,
    ]
    _run(
        (
            *_server(binaries, folder),
            "--bootstrap",
            "--skip-networking",
            "--skip-log-bin",
            "--enforce-storage-engine=",
            "--max-allowed-packet=8M",
            "--net-buffer-length=16K",
            "--innodb-flush-log-at-trx-commit=0",
        ),
        binaries,
        folder,
        "\n".join(lines) + "\n",
    )


def _initialize_mysql(binaries: MariadbBinaries, folder: Path, statements: list[str]) -> None:
    # The folder must be empty, so the file that holds the password lies beside it, in one of its own.
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as beside:
        script = Path(beside, "accounts.sql")
        root = f"ALTER USER root@localhost IDENTIFIED BY '{secrets.token_hex(32)}';"
        write_private(script, "\n".join([root, *statements]) + "\n")
        change_owner(Path(beside))
        _run(
            (*_server(binaries, folder), "--initialize-insecure", "--skip-log-bin", f"--init-file={script}"),
            binaries,
            folder,
        )


def _script(binaries: MariadbBinaries, name: str) -> Path:
    scripts = sorted(binaries.share.glob(f"m*_{name}.sql"))
    if not scripts:
        raise EngineError(
            f"{binaries.share} lacks MariaDB's script {name}.sql.",
            hint="Install it again: apt install mariadb-server",
        )
    return scripts[0]


def _statements(
    files: Path, user: str, password: str, database: str, replication: ReplicationLogin | None
) -> list[str]:
    names = ["database.sql", "owner-rights.sql"]
    values = {"database": database, "owner": user, "owner_password": password}
    if replication is not None:
        names.append("replication-account.sql")
        values |= {"reader": replication.user, "password": replication.password}
    statements = [
        "SET NAMES utf8mb4",
        # As hexadecimal digits no character can end a string. MySQL's init file ends some of them wrongly.
        *(f"SET @{name} = CONVERT(X'{_digits(value)}' USING utf8mb4)" for name, value in values.items()),
        *(statement for name in names for statement in read_statements(files / name)),
    ]
    return [f"{statement};" for statement in statements]


def _digits(value: str) -> str:
    return one_line(value).encode().hex()


def _run(command: tuple[str, ...], binaries: MariadbBinaries, folder: Path, statements: str = "") -> None:
    failure = EngineError(
        f"The {binaries.flavor} data folder in {folder.parent} could not be made by {binaries.server}.",
        hint="The lines above are the server's. Mend what they name, then run the command again.",
    )
    run_server_tool(command, binaries.environment, failure, folder, statements)
