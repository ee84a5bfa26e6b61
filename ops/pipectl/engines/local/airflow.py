"""Airflow as native processes: its settings and its programs."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from pipectl.engines.local.supervisor.program import Program
from pipectl.errors import EngineError
from pipectl.services import airflow_programs

if TYPE_CHECKING:
    from pipectl.engines.local.airflow_install import AirflowRuntime
    from pipectl.models import DatabaseAddress

METADATA_DATABASE = "airflow"
METADATA_USER = "airflow"
SERVICES = airflow_programs()
LAUNCHER = Path("stack", "airflow", "launcher.py")
FEWEST_WORKERS, MOST_WORKERS = 4, 16


@dataclass(frozen=True)
class AirflowSecrets:
    """What is random per project, and the login `admin_user`, `admin_password`."""

    jwt_secret: str = field(repr=False)
    api_secret_key: str = field(repr=False)
    fernet_key: str = field(repr=False)
    admin_user: str = "admin"
    admin_password: str = field(default="admin", repr=False)


@dataclass(frozen=True)
class AirflowSite:
    """One project's Airflow. `metadata` holds METADATA_DATABASE, METADATA_USER and the project's password."""

    project: Path
    port: int
    metadata: DatabaseAddress
    postgres: DatabaseAddress
    mysql: DatabaseAddress
    secrets: AirflowSecrets
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        """The address of the user interface and of the REST API."""
        return f"http://{self.host}:{self.port}"

    @property
    def home(self) -> Path:
        """AIRFLOW_HOME: task logs, the list of passwords."""
        return self.project / ".pipectl" / "airflow"

    @property
    def passwords_path(self) -> Path:
        """Where SimpleAuthManager reads (and would write) passwords."""
        return self.home / "passwords.json"


def workers(cores: int | None = None) -> int:
    """How many tasks run at once: two per core, since a task mostly waits for its databases."""
    return min(MOST_WORKERS, max(FEWEST_WORKERS, 2 * (cores or os.cpu_count() or 1)))


def environment(site: AirflowSite, runtime: AirflowRuntime) -> dict[str, str]:
    """Return every variable that this project's Airflow processes get, the scripts' connections included.

    Any `airflow` command that is to act on this project needs the same.
    """
    settings = {
        **_addresses(site, runtime.migration_head),
        **_security(site),
        **_speed(),
        **_tidiness(site),
    }
    return {
        **settings,
        **_connections(site),
        "AIRFLOW_HOME": str(site.home),
        "PATH": f"{runtime.venv / 'bin'}:{os.environ.get('PATH', os.defpath)}",
        "PIPECTL_SCRIPTS": str(site.project / "scripts"),
        "PYTHONUNBUFFERED": "1",
        # A task's stdin is a socket, so bash takes itself for a remote login and reads ~/.bashrc, which may
        # put another `python` first on PATH. Not so where a shell is above it.
        "SHLVL": "1",
        # A scheduler with more than one malloc arena per worker thread keeps memory that it has freed.
        "MALLOC_ARENA_MAX": "2",
    }


def _addresses(site: AirflowSite, migration_head: str) -> dict[str, str]:
    login = _url_login(site.metadata)
    return {
        "AIRFLOW__API__HOST": site.host,
        "AIRFLOW__API__PORT": str(site.port),
        "AIRFLOW__API__BASE_URL": site.url,
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{site.url}/execution/",
        "AIRFLOW__CORE__DAGS_FOLDER": str(site.project / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(site.project / "plugins"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{login}",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": f"postgresql+asyncpg://{login}",
        "PIPECTL_MIGRATION_HEAD": migration_head,
    }


def _url_login(database: DatabaseAddress) -> str:
    user, password = (quote(part, safe="") for part in (database.user, database.password))
    return f"{user}:{password}@{database.host}:{database.port}/{database.database}"


def _security(site: AirflowSite) -> dict[str, str]:
    return {
        "AIRFLOW__API_AUTH__JWT_SECRET": site.secrets.jwt_secret,
        "AIRFLOW__API__SECRET_KEY": site.secrets.api_secret_key,
        "AIRFLOW__CORE__FERNET_KEY": site.secrets.fernet_key,
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{site.secrets.admin_user}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(site.passwords_path),
    }


def _speed() -> dict[str, str]:
    """Return what makes a start, a run and a recovery fast on a single machine with few DAGs."""
    return {
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": str(workers()),
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        # A scheduler that died is noticed, and its tasks are retried, within seconds.
        "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "2",
        "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "2",
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "10",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
        # A new DAG file is looked for every 2 s, a changed one every second.
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "2",
        "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
        "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "1",
    }


def _tidiness(site: AirflowSite) -> dict[str, str]:
    return {
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(site.home / "logs"),
        # A log file per DAG file and day grows with every parse; the supervisor rotates what goes to stdout.
        "AIRFLOW__LOGGING__DAG_PROCESSOR_LOG_TARGET": "stdout",
        "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
    }


def _connections(site: AirflowSite) -> dict[str, str]:
    """Return how scripts reach the business databases, and what is written into Admin > Connections."""
    variables: dict[str, str] = {}
    connections = []
    kinds: tuple[tuple[str, str, str, DatabaseAddress, dict[str, str]], ...] = (
        ("AIRBYTE_POSTGRES", "airbyte_postgres", "postgres", site.postgres, {}),
        ("AIRBYTE_MYSQL", "airbyte_mysql", "mysql", site.mysql, {"client": "mysql-connector-python"}),
    )
    for prefix, name, kind, database, extra in kinds:
        variables |= {
            f"{prefix}_HOST": database.host,
            f"{prefix}_PORT": str(database.port),
            f"{prefix}_DATABASE": database.database,
            f"{prefix}_USER": database.user,
            f"{prefix}_PASSWORD": database.password,
        }
        connections.append(
            {
                "conn_id": name,
                "conn_type": kind,
                "host": database.host,
                "port": database.port,
                "schema": database.database,
                "login": database.user,
                "password": database.password,
                "extra": json.dumps(extra) if extra else None,
                "description": "Written by pipectl at every start.",
            }
        )
    return variables | {"PIPECTL_CONNECTIONS": json.dumps(connections)}


def programs(site: AirflowSite, runtime: AirflowRuntime) -> tuple[Program, ...]:
    """Return the programs to supervise, named as SERVICES.

    They may be started before the metadata database answers: each imports meanwhile, then waits until it
    answers with the runtime's migration head (120 s at most, then it exits with 1). The `webserver` program
    also writes the connections `airbyte_postgres` and `airbyte_mysql`.
    """
    variables = environment(site, runtime)
    return tuple(
        Program(
            name=name,
            # -P: the folder of the launcher is no place to import from.
            command=(str(runtime.python), "-P", str(site.project / LAUNCHER), name),
            directory=site.home,
            environment=variables,
            stop_seconds=5,
        )
        for name in SERVICES
    )


def prepare_home(site: AirflowSite) -> None:
    """Write what must exist before the programs start: AIRFLOW_HOME and the passwords file (mode 0600).

    Raises EngineError where the project's folder cannot be written.
    """
    text = json.dumps({site.secrets.admin_user: site.secrets.admin_password})
    try:
        (site.home / "logs").mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(site.passwords_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text)
    except OSError as error:
        raise EngineError(
            f"Airflow's folder {site.home} cannot be written: {error.strerror}.",
            hint="Check who owns the project's .pipectl folder and that its disk has space.",
        ) from error
