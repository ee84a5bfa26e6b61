"""A copy of the project in a folder of its own, and its `pipectl` run as users run it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from json_schemas import check_output

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
COMMAND_SECONDS = 280
WAIT_SECONDS = 60


@dataclass(frozen=True)
class Project:
    """One project's folder and the ways in which tests use it."""

    folder: Path
    engine: str = "local"
    sessions: set[int] = field(default_factory=set)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PIPECTL_E")}
        return subprocess.Popen(
            [sys.executable, "-m", "pipectl", "--engine", self.engine, *arguments],
            cwd=self.folder,
            env={**environment, "PIPECTL_PROJECT": str(self.folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

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
    """Copy what git knows of the project, and what is new and not ignored, to `folder`."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        source = ROOT / name
        if (
            name
            and source.is_file()
            and name.split("/")[0] in {"dags", "scripts", "stack", "requirements.txt", "entrypoint.sh"}
        ):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return Project(folder, engine)


def until(condition: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)
