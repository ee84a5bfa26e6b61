"""Airflow and its metadata database as bare processes, without a supervisor, for tests and benchmarks."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from base64 import urlsafe_b64encode
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from pipectl.engines import airflow_env
from pipectl.engines.local import airflow, airflow_metadata, postgres
from pipectl.models import DatabaseAddress
from pipectl.settings import cache_dir
from support import ROOT
from support.needs import need_airflow, need_postgres
from support.rest_client import RestClient
from support.server_process import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipectl.engines.local.airflow_install import AirflowRuntime
    from pipectl.engines.local.binaries import PostgresBinaries
    from pipectl.engines.local.supervisor.program import Program

STACK = ROOT / "stack"
STOP_SECONDS = 60  # of a busy machine; the supervisor kills after 5
INHERITED = ("PATH", "HOME", "LANG", "TZ")
TWO_TASKS = """\
from datetime import datetime

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("nothing_to_do", schedule=None, start_date=datetime(2024, 1, 1)):
    BashOperator(task_id="first", bash_command="true") >> BashOperator(task_id="second", bash_command="true")
"""


class AirflowStack:
    """The three Airflow programs of a project and its metadata database."""

    def __init__(
        self, project: Path, runtime: AirflowRuntime | None = None, cache: Path | None = None
    ) -> None:
        self.project = project
        # Without the settings and plugins of whoever runs the tests.
        shutil.copytree(
            STACK / "airflow",
            project / "stack" / "airflow",
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("user.env", "plugins", "__pycache__"),
        )
        self.cache = cache or cache_dir()
        self.runtime: AirflowRuntime = runtime or need_airflow()
        self.binaries: PostgresBinaries = need_postgres()
        self.data_dir = project / ".pipectl" / "postgres"
        self.site = self._site()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def _site(self) -> airflow.AirflowSite:
        metadata = DatabaseAddress(
            service="postgres",
            host="127.0.0.1",
            port=free_port(),
            database=airflow.METADATA_DATABASE,
            user=airflow.METADATA_USER,
            password="it's a p@ss/%word",
        )
        return airflow.AirflowSite(
            project=self.project,
            port=free_port(),
            metadata=metadata,
            postgres=DatabaseAddress("airbyte-postgres", "127.0.0.1", 5432, "airbyte", "docker", "docker"),
            mysql=DatabaseAddress("airbyte-mysql", "127.0.0.1", 3306, "data", "docker", "docker"),
            secrets=airflow.AirflowSecrets(
                secrets.token_hex(32),
                secrets.token_hex(32),
                urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            ),
            settings=airflow_env.read(self.project, {}),
        )

    @property
    def client(self) -> RestClient:
        return RestClient(self.site.url)

    @contextmanager
    def metadata(self) -> Iterator[Any]:
        """A connection to the metadata database, without transactions, for the time of a block."""
        import psycopg2

        address = self.site.metadata
        connection = psycopg2.connect(
            host=address.host,
            port=address.port,
            dbname=address.database,
            user=address.user,
            password=address.password,
        )
        connection.autocommit = True
        with closing(connection):
            yield connection

    def prepare(self) -> None:
        airflow.prepare_home(self.site)
        airflow_metadata.prepare_metadata(
            self.site, self.runtime, self.binaries, self.data_dir, self.cache, print
        )

    def programs(self) -> dict[str, Program]:
        described = {program.name: program for program in airflow.programs(self.site, self.runtime)}
        port = self.site.metadata.port
        database = postgres.program(
            self.binaries, "postgres", self.data_dir, port, STACK / "postgres" / "metadata.conf"
        )
        return {"postgres": database, **described}

    def start(self, *names: str) -> None:
        """Start each in a process group of its own, as the supervisor does."""
        programs = self.programs()
        for name in names or programs:
            program = programs[name]
            inherited = {key: os.environ[key] for key in INHERITED if key in os.environ}
            with self.log_path(name).open("ab") as log:
                self.processes[name] = subprocess.Popen(
                    program.command,
                    cwd=program.directory,
                    env={**inherited, **program.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    process_group=0,
                )

    def log_path(self, name: str) -> Path:
        return self.project / f"{name}.log"

    def log(self, name: str) -> str:
        return self.log_path(name).read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        """SIGTERM to every group, then what is left is killed; the database last."""
        groups = [process for name, process in self.processes.items() if name != "postgres"]
        for process in groups:
            signal_group(process.pid, signal.SIGTERM)
        for process in groups:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                signal_group(process.pid, signal.SIGKILL)
                process.wait()
        if database := self.processes.get("postgres"):
            database.send_signal(signal.SIGINT)
            database.wait(STOP_SECONDS)
        self.processes.clear()


def interrupt_group(process: subprocess.Popen[bytes]) -> None:
    """End the leader of a process group as Ctrl-C does, then whatever is left of the group."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
    signal_group(process.pid, signal.SIGKILL)


def signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def members(group: int) -> list[int]:
    """Process ids of a group, zombies excepted."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found
