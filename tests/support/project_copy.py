"""A copy of the project in a folder of its own, and its `pipectl` run as users run it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil

from support import ROOT
from support.json_schemas import check_output
from support.needs import need_airflow, need_mariadb, need_postgres
from support.rest_client import RestClient
from support.waiting import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMAND_SECONDS = 280
EXPLAIN_SECONDS = 60
LOG_LINES = 25
DAG_ID = "generate_transaction_and_labels"
COPIED = ("dags", "scripts", "stack", "plugins", "requirements.txt", "entrypoint.sh")


@dataclass(frozen=True)
class Project:
    """One project's folder and the ways in which tests use it."""

    folder: Path
    engine: str = "local"
    sessions: set[int] = field(default_factory=set)

    def start(self, *arguments: str, python: tuple[str, ...] = (), **streams: Any) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PIPECTL_E")}
        return subprocess.Popen(
            [sys.executable, *python, "-m", "pipectl", "--engine", self.engine, *arguments],
            cwd=self.folder,
            env={**environment, "PIPECTL_PROJECT": str(self.folder)},
            text=True,
            start_new_session=True,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
        )

    def feed(self, stdin: str, *arguments: str) -> tuple[int, str, str]:
        """Run a command with this stdin; return exit code, stdout and stderr."""
        process = self.start(*arguments, stdin=subprocess.PIPE)
        out, err = process.communicate(stdin, timeout=COMMAND_SECONDS)
        return process.returncode, out, err

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and check its exit code."""
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=COMMAND_SECONDS)
        except BaseException:
            process.kill()
            raise
        assert process.returncode == code, (
            f"pipectl {' '.join(arguments)}: {process.returncode}\n{out}\n{err}"
        )
        assert "Traceback (most recent call last)" not in err or code in {7, 9}, err
        if "--json" in arguments:
            check_output(arguments, out, err)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Run a command with --json and return what it wrote to stdout."""
        return json.loads(self.run(*arguments, "--json", code=code).stdout)

    def imports(self, *arguments: str) -> set[str]:
        """Run a command to its end, and return the names of the modules that it imported."""
        process = self.start(*arguments, python=("-X", "importtime"))
        _, err = process.communicate(timeout=COMMAND_SECONDS)
        assert process.returncode == 0, err
        lines = (line for line in err.splitlines() if line.startswith("import time:"))
        return {line.rpartition("|")[2].strip() for line in lines}

    def interrupt(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Press Ctrl-C; return exit code and stderr."""
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=WAIT_SECONDS)
        return process.returncode, err

    def dag(self, name: str, source: str) -> Path:
        """Write a DAG file."""
        path = self.folder / "dags" / name
        path.write_text(source, encoding="utf-8")
        return path

    def variable(self, name: str) -> str:
        """Return what stack/.env says."""
        path = self.folder / "stack" / ".env"
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            if line.startswith(f"{name}="):
                return line.split("=", 1)[1]
        return ""

    def set_variable(self, name: str, value: str) -> None:
        """Write a line of stack/.env anew, or add it."""
        path = self.folder / "stack" / ".env"
        old = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        lines = [line for line in old if not line.startswith(f"{name}=")]
        path.write_text("\n".join([*lines, f"{name}={value}"]) + "\n", encoding="utf-8")

    def client(self, user: str = "admin", password: str = "") -> RestClient:
        """Return a client of this project's Airflow that does without pipectl and has its password."""
        password = password or self.variable("AIRFLOW_ADMIN_PASSWORD") or "admin"
        return RestClient(f"http://127.0.0.1:{self.variable('AIRFLOW_PORT') or 8080}", lambda: password, user)

    def settle(self) -> None:
        """Pause the DAG and wait for the end of its runs, so that nothing writes any more."""
        self.client().settle(DAG_ID)

    def populate(self) -> None:
        """Have a run write rows where there are none, and let the DAG rest again."""
        asked = self.start("verify-db", "--expect", "populated")
        asked.communicate(timeout=COMMAND_SECONDS)
        if asked.returncode:
            self.run("trigger")
            self.settle()

    def explain(self) -> str:
        """Services and last lines of their logs, for the report of a failure."""
        texts = []
        for arguments in (("status",), ("logs", "--tail", str(LOG_LINES))):
            process = self.start(*arguments)
            try:
                out, err = process.communicate(timeout=EXPLAIN_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
            texts.append(f"$ pipectl {' '.join(arguments)}\n{out}{err}")
        return "\n".join(texts)

    def processes(self) -> list[psutil.Process]:
        """Processes with the project's folder in command line or environment, and all of their sessions.

        Airflow's processes wipe both, but stay in the session that supervisord led, also after its end.
        """
        found = {}
        everything = [process for process in psutil.process_iter() if _is_alive(process)]
        for process in everything:
            try:
                words = [*process.cmdline(), *process.environ().values()]
            except psutil.Error:
                continue
            if any(str(self.folder / ".pipectl") in word for word in words):
                found[process.pid] = process
                if any(word.endswith("supervisord.conf") for word in words):
                    self.sessions.add(process.pid)
        for process in everything:
            try:
                if os.getsid(process.pid) in self.sessions:
                    found[process.pid] = process
            except ProcessLookupError:
                continue
        return list(found.values())

    def ask_postgres(self, statement: str) -> list[tuple[Any, ...]]:
        import psycopg2

        address = self.json("status")["databases"]["postgres"]
        connection = psycopg2.connect(
            host=address["host"],
            port=address["port"],
            dbname=address["database"],
            user=address["user"],
            password="docker",
        )
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall())
        finally:
            connection.close()

    def ask_mysql(self, statement: str) -> list[tuple[Any, ...]]:
        import mysql.connector

        address = self.json("status")["databases"]["mysql"]
        connection = mysql.connector.connect(
            host=address["host"],
            port=address["port"],
            database=address["database"],
            user=address["user"],
            password="docker",
            collation="utf8mb4_general_ci",
        )
        try:
            cursor = connection.cursor()
            cursor.execute(statement)
            return list(cursor.fetchall())
        finally:
            connection.close()


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def copy_project(folder: Path, engine: str = "local") -> Project:
    """Copy what a user needs of the project to `folder`, but nothing that git ignores."""
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    ignored = shutil.ignore_patterns(*(line.rstrip("/").rsplit("/")[-1] for line in lines))
    folder.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        elif (ROOT / name).exists():
            shutil.copy2(ROOT / name, folder / name)
    return Project(folder, engine)


@contextmanager
def new_local_project(folder: Path) -> Iterator[Project]:
    """Copy the project to `folder` for the time of a block, and end what it leaves behind."""
    need_postgres()
    need_mariadb()
    need_airflow()
    project = copy_project(folder)
    try:
        yield project
    finally:
        project.run("down", "--volumes", "--yes")
    assert not project.processes()
