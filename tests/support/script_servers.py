"""Fixtures of the scripts' tests: the two real servers that the local engine runs, once per test session.

A test module takes them with `pytest_plugins = ["support.script_servers"]`.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from pipectl import database_connections
from pipectl.engines.local import mariadb, postgres
from pipectl.models import DatabaseAddress, ReplicationLogin
from support import ROOT
from support.needs import need_mariadb, need_postgres
from support.server_process import free_port, start_program, until_it_answers
from support.waiting import until

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from pipectl.engines.local.supervisor.program import Program

SCRIPTS = ROOT / "scripts"
STACK = ROOT / "stack"
SCRIPT_SECONDS = 200
REPLICATION = ReplicationLogin("airbyte", "sesame")
SUPERUSER_PASSWORD = "random"


@dataclass(frozen=True)
class Servers:
    """Two running servers, and the ways in which tests use them."""

    postgres_port: int
    mysql_port: int
    folder: Path

    @property
    def bytecode(self) -> Path:
        """Where scripts keep their compiled modules."""
        return self.folder / "bytecode"

    @property
    def environment(self) -> dict[str, str]:
        """What Airflow's tasks get, in a process that may keep its compiled modules."""
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPYCACHEPREFIX": str(self.bytecode),
            "AIRBYTE_POSTGRES_HOST": "127.0.0.1",
            "AIRBYTE_POSTGRES_PORT": str(self.postgres_port),
            "AIRBYTE_MYSQL_HOST": "127.0.0.1",
            "AIRBYTE_MYSQL_PORT": str(self.mysql_port),
        }

    @property
    def addresses(self) -> tuple[DatabaseAddress, DatabaseAddress]:
        """Both databases as pipectl knows them, PostgreSQL first."""
        return (
            DatabaseAddress(
                "airbyte-postgres", "127.0.0.1", self.postgres_port, "airbyte", "docker", "docker"
            ),
            DatabaseAddress("airbyte-mysql", "127.0.0.1", self.mysql_port, "data", "docker", "docker"),
        )

    def start(self, script: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            (sys.executable, str(SCRIPTS / f"{script}.py"), *arguments),
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, script: str, *arguments: str, **environment: str) -> tuple[int, str]:
        """Exit code and log of a script that is run to its end."""
        process = self.start(script, *arguments, **environment)
        try:
            output, _ = process.communicate(timeout=SCRIPT_SECONDS)
        finally:
            process.kill()
        return process.returncode, output

    def postgres(self, user: str = "docker", password: str = "docker", database: str = "airbyte") -> Any:
        import psycopg2

        return psycopg2.connect(
            host="127.0.0.1", port=self.postgres_port, user=user, password=password, dbname=database
        )

    def mysql(self) -> Any:
        import mysql.connector

        return mysql.connector.connect(
            host="127.0.0.1",
            port=self.mysql_port,
            user="docker",
            password="docker",
            database="data",
            collation="utf8mb4_unicode_ci",
            autocommit=True,
        )

    def ask_postgres(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        return _ask(self.postgres(), statement, values)

    def ask_superuser(self, statement: str, database: str = "airbyte") -> None:
        """Run a statement that the owner of the database may not."""
        _ask(self.postgres("postgres", SUPERUSER_PASSWORD, database), statement, ())

    def ask_mysql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        return _ask(self.mysql(), statement, values)

    def is_mariadb(self) -> bool:
        return "MariaDB" in self.ask_mysql("SELECT VERSION()")[0][0]

    def binary_log_end(self) -> tuple[str, int]:
        """Return the file and the position at which the binary log ends."""
        [end] = self.ask_mysql("SHOW MASTER STATUS" if self.is_mariadb() else "SHOW BINARY LOG STATUS")
        return end[0], end[1]

    def insert_beside(self, stop: threading.Event) -> None:
        """Take ids in the middle of a chunk's, stay open for a while, and roll some back."""
        chance = random.Random(5)  # noqa: S311 -- a test that can be repeated
        connection = self.postgres()
        while not stop.is_set():
            connection.cursor().execute(
                """INSERT INTO public.transactions (tx_time, customer_id, card_id, terminal_id, mcc, amount,
                                                   currency, channel, country, lat, lon, status)
                   SELECT now(), 1, 11, 1, 5411, 10, 'EUR', 'pos', 'DE', 50, 10, 'approved'
                   FROM generate_series(1, %s)""",
                (chance.randint(1, 20),),
            )
            stop.wait(0.3 * chance.random() ** 3)
            if chance.random() < 0.2:
                connection.rollback()
            else:
                connection.commit()
        connection.close()

    def empty(self) -> None:
        """Back to two databases without a table."""
        for (table,) in self.ask_postgres("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
            self.ask_postgres(f'DROP TABLE public."{table}"')
        self.ask_postgres("DROP SCHEMA IF EXISTS sim CASCADE")
        self.ask_postgres("DROP PUBLICATION IF EXISTS airbyte_publication")
        for (table,) in self.ask_mysql("SHOW TABLES"):
            self.ask_mysql(f"DROP TABLE `{table}`")


def no_options(_: Path) -> Mapping[str, tuple[str, ...]]:
    return {}


@contextmanager
def servers_in(
    folder: Path, options: Callable[[Path], Mapping[str, tuple[str, ...]]] = no_options
) -> Iterator[Servers]:
    """Both servers with their data in a folder; `options` adds to the command of each, by its name."""
    login = {"user": "docker", "password": "docker"}
    postgres_binaries, mariadb_binaries = need_postgres(), need_mariadb()
    account = REPLICATION, STACK / "postgres" / "replication-account.sql"
    accounts = postgres.Accounts(
        **login, database="airbyte", superuser_password=SUPERUSER_PASSWORD, replication=account
    )
    postgres.prepare(postgres_binaries, folder / "airbyte", accounts)
    mariadb.prepare(mariadb_binaries, folder / "data", STACK / "mysql", REPLICATION, database="data", **login)
    servers = Servers(free_port(), free_port(), folder)
    servers.bytecode.mkdir()
    programs = (
        postgres.program(
            postgres_binaries,
            "postgres",
            folder / "airbyte",
            servers.postgres_port,
            STACK / "postgres" / "business.conf",
        ),
        mariadb.program(
            mariadb_binaries, "mysql", folder / "data", servers.mysql_port, STACK / "mysql" / "server.cnf"
        ),
    )
    more = options(folder)
    logs = [folder / f"{program.name}.log" for program in programs]
    with ExitStack() as stack:
        started = [
            stack.enter_context(
                running(replace(program, command=(*program.command, *more.get(program.name, ()))), log)
            )
            for program, log in zip(programs, logs, strict=True)
        ]
        for server, connect, log in zip(started, (servers.postgres, servers.mysql), logs, strict=True):
            until_it_answers(server, connect, log)
        yield servers


@pytest.fixture(scope="session")
def running_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with servers_in(tmp_path_factory.mktemp("servers")) as servers:
        yield servers


@pytest.fixture
def servers(running_servers: Servers) -> Servers:
    """The servers with empty databases."""
    # A thread that the test before left would set psycopg2's one way to wait back amid a statement of ours.
    until(lambda: not database_connections._interruptible_blocks, "the threads of the test before")
    running_servers.empty()
    return running_servers


@contextmanager
def running(program: Program, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = start_program(program, log)
    try:
        yield process
    finally:
        process.send_signal(getattr(signal, f"SIG{program.stop_signal}"))
        try:
            process.wait(program.stop_seconds)
        finally:
            process.kill()


def _ask(connection: Any, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
    try:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(statement, values)
        return list(cursor.fetchall()) if cursor.description else []
    finally:
        connection.close()
