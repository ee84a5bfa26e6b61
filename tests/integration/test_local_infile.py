"""LOAD DATA LOCAL through a pipe: what goes wrong leaves no thread, no file and no wrong row behind."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from mysql.connector import errors as mysql_errors

from fraud_pipeline.connections import mysql_database, open_mysql
from fraud_pipeline.errors import DatabaseError
from fraud_pipeline.labels import COLUMNS
from fraud_pipeline.local_infile import load_lines, pipe_folder
from pipectl.engines.local import mariadb
from support.needs import need_mariadb
from support.server_process import free_port
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.script_servers import Servers

pytest_plugins = ["support.script_servers"]
pytestmark = pytest.mark.integration


def test_reader_that_never_comes_leaves_no_feeder_behind(servers: Servers) -> None:
    servers.run("detection_generator")
    before = threading.active_count()
    with pipe_folder() as pipes, open_mysql(mysql_database(servers.environment), pipes) as mysql:
        for _ in range(20):
            with pytest.raises(mysql_errors.Error, match="no_such_table"):
                load_lines(mysql, pipes, "no_such_table", ("a", "b"), [b"1\t2\n" * 100_000], 100_000)
        assert list(pipes.iterdir()) == []

    assert threading.active_count() == before


def test_rows_that_do_not_fit_are_an_error_and_no_warning(servers: Servers) -> None:
    servers.run("detection_generator")
    line = b"%d\t0\t\\N\t%b\tassumed\t2026-01-01 00:00:00\n"
    lines = [line % (1, b"0.9"), line % (2, b"nonsense"), line % (1, b"0.9")]
    with (
        pipe_folder() as pipes,
        open_mysql(mysql_database(servers.environment), pipes) as mysql,
        pytest.raises(DatabaseError, match=r"^MySQL took 2 of 3 rows into fraud_labels with 2 warnings"),
    ):
        load_lines(mysql, pipes, "fraud_labels", COLUMNS, lines, 3)

    assert servers.ask_mysql("SELECT COUNT(*) FROM fraud_labels") == [(0,)]


def test_server_that_refuses_load_data_local_gets_inserts(servers: Servers, tmp_path: Path) -> None:
    servers.run("transaction_generator", "--count", "5000")
    with server_without_local_infile(tmp_path) as port:
        code, log = servers.run("detection_generator", AIRBYTE_MYSQL_PORT=str(port))
        again = servers.run("detection_generator", AIRBYTE_MYSQL_PORT=str(port))[1]

    assert code == 0, log
    assert "event=load_data_refused" in log
    assert " labels=5000 " in log
    assert " labels=0 " in again


@contextmanager
def server_without_local_infile(folder: Path) -> Iterator[int]:
    from support.script_servers import REPLICATION, STACK

    binaries = need_mariadb()
    mariadb.prepare(
        binaries,
        folder / "data",
        STACK / "mysql",
        REPLICATION,
        user="docker",
        password="docker",
        database="data",
    )
    port = free_port()
    program = mariadb.program(binaries, "mysql", folder / "data", port, STACK / "mysql" / "server.cnf")
    command = [*program.command, "--local-infile=OFF"]
    process = subprocess.Popen(
        command, cwd=program.directory, env={"PATH": os.environ["PATH"], **program.environment}
    )
    try:
        until(lambda: listens(port), "the second server")
        yield port
    finally:
        process.terminate()
        process.wait(30)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
