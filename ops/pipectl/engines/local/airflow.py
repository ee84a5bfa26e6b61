"""Airflow as native processes: its settings, its programs and its metadata database."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipectl.engines.local.airflow_runtime import AirflowRuntime
    from pipectl.engines.local.program import Program

METADATA_DATABASE = "airflow"
METADATA_USER = "airflow"
SERVICES = ("webserver", "scheduler", "dag-processor")


@dataclass(frozen=True)
class DatabaseAccess:
    """Where a database listens and how to log in."""

    host: str
    port: int
    database: str
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class AirflowSecrets:
    """What is random per project; `admin_password` is the login's."""

    jwt_secret: str = field(repr=False)
    api_secret_key: str = field(repr=False)
    fernet_key: str = field(repr=False)
    admin_password: str = field(default="admin", repr=False)


@dataclass(frozen=True)
class AirflowSite:
    """One project's Airflow. `metadata.database` and `.user` are METADATA_DATABASE and METADATA_USER."""

    project: Path
    port: int
    metadata: DatabaseAccess
    postgres: DatabaseAccess
    mysql: DatabaseAccess
    secrets: AirflowSecrets
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        """The address of the user interface and of the REST API."""
        return f"http://{self.host}:{self.port}"

    @property
    def home(self) -> Path:
        """AIRFLOW_HOME: settings, task logs, the list of passwords."""
        return self.project / ".pipectl" / "airflow"


def environment(site: AirflowSite, runtime: AirflowRuntime) -> dict[str, str]:
    """Return every variable that this project's Airflow processes get, the scripts' connections included.

    Also what any `airflow` command needs to act on this project.
    """
    raise NotImplementedError


def programs(site: AirflowSite, runtime: AirflowRuntime) -> tuple[Program, ...]:
    """Return the programs to supervise, named as SERVICES.

    They may be started before the metadata database answers: each imports meanwhile, then waits until it answers with
    the runtime's migration head (120 s at most, then it exits with 1).
    The `webserver` program also writes the connections `airbyte_postgres` and `airbyte_mysql`.
    """
    raise NotImplementedError


def prepare_home(site: AirflowSite) -> None:
    """Write what must exist before the programs start: AIRFLOW_HOME and the passwords file (mode 0600).

    Raises:
        EngineError: the project's folder cannot be written.
    """
    raise NotImplementedError


def ensure_metadata_template(cache_dir: Path, runtime: AirflowRuntime, report: Callable[[str], None]) -> Path:
    """Return a stopped PostgreSQL data folder that holds an empty, migrated metadata database.

    It is made at first use (5 to 10 s) and kept in the cache per lock file and PostgreSQL version. Clone it to be the
    data folder of `site.metadata`'s cluster, then give the role METADATA_USER the project's own password.

    Raises:
        EngineError: PostgreSQL could not be started on it, or the migration failed (its last lines are the detail).
    """
    raise NotImplementedError


def migrate_metadata(site: AirflowSite, runtime: AirflowRuntime) -> bool:
    """Migrate the running metadata database where its version is not the runtime's; return whether it was needed.

    An up-to-date database costs one query (20 ms), so call it after every start of the cluster.

    Raises:
        EngineError: the migration failed.
        DatabaseError: the database cannot be reached.
    """
    raise NotImplementedError
