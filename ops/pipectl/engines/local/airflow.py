"""Airflow as native processes: what differs from the other engines in its settings, and its programs."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from pipectl import surroundings
from pipectl.databases import script_variables
from pipectl.engines.changes import digests
from pipectl.engines.local.supervisor.program import Program
from pipectl.errors import EngineError, UsageError, remedy
from pipectl.services import get

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipectl.engines.local.airflow_install import AirflowRuntime
    from pipectl.models import DatabaseAddress

METADATA_DATABASE = get("postgres").database
METADATA_USER = "airflow"
# Services, and the commands of Airflow that they run.
COMMANDS = {
    "webserver": "api-server",
    "scheduler": "scheduler",
    "dag-processor": "dag-processor",
    "triggerer": "triggerer",
}
# They import the same: one import serves both (stack/airflow/forks.py).
FORKED_FROM, FORKED = "scheduler", "dag-processor"
LAUNCHER = Path("stack", "airflow", "launcher.py")
CONFIG = Path("stack", "airflow", "config")
PLUGINS = Path("stack", "airflow", "plugins")
LOCK_FILE = "stack/airflow-requirements.txt"
ADMIN_PASSWORD = "AIRFLOW_ADMIN_PASSWORD"  # noqa: S105  the name of a variable
AUTH_MANAGER = "AIRFLOW__CORE__AUTH_MANAGER"


@dataclass(frozen=True)
class AirflowSecrets:
    """What is random per project."""

    jwt_secret: str = field(repr=False)
    api_secret_key: str = field(repr=False)
    fernet_key: str = field(repr=False)


@dataclass(frozen=True)
class AirflowSite:
    """One project's Airflow. `metadata` holds METADATA_DATABASE, METADATA_USER and the project's password.

    `settings` are those that all engines share and the user's own, from airflow.env and user.env.
    """

    project: Path
    port: int
    metadata: DatabaseAddress
    postgres: DatabaseAddress
    mysql: DatabaseAddress
    secrets: AirflowSecrets
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        """The address of the user interface and of the REST API."""
        return f"http://{self.host}:{self.port}"

    @property
    def home(self) -> Path:
        """AIRFLOW_HOME: task logs, the list of passwords."""
        return self.project / ".pipectl" / "airflow"


def environment(site: AirflowSite, runtime: AirflowRuntime) -> dict[str, str]:
    """Return every variable that this project's Airflow processes get, those of the scripts included.

    Any `airflow` command that is to act on this project needs the same.
    """
    return {
        **site.settings,
        **_addresses(site),
        **_secrets(site),
        **script_variables("AIRBYTE_POSTGRES", site.postgres),
        **script_variables("AIRBYTE_MYSQL", site.mysql),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "PATH": f"{runtime.python.parent}:{surroundings.environment()['PATH']}",
    }


def _addresses(site: AirflowSite) -> dict[str, str]:
    return {
        "AIRFLOW_HOME": str(site.home),
        # Airflow would write its own settings there, with the paths of this folder, and obey them in another
        # one that the project is copied or moved to.
        "AIRFLOW_CONFIG": os.devnull,
        "AIRFLOW__API__HOST": site.host,
        "AIRFLOW__API__PORT": str(site.port),
        "AIRFLOW__API__BASE_URL": site.url,
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{site.url}/execution/",
        "AIRFLOW__CORE__DAGS_FOLDER": str(site.project / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(site.project / PLUGINS),
        "PIPECTL_SCRIPTS": str(site.project / "scripts"),
    }


def _url_login(database: DatabaseAddress) -> str:
    user, password = (quote(part, safe="") for part in (database.user, database.password))
    return f"{user}:{password}@{database.host}:{database.port}/{database.database}"


def _secrets(site: AirflowSite) -> dict[str, str]:
    login = _url_login(site.metadata)
    return {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{login}",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": f"postgresql+asyncpg://{login}",
        "AIRFLOW__API_AUTH__JWT_SECRET": site.secrets.jwt_secret,
        "AIRFLOW__API__SECRET_KEY": site.secrets.api_secret_key,
        "AIRFLOW__CORE__FERNET_KEY": site.secrets.fernet_key,
    }


def programs(site: AirflowSite, runtime: AirflowRuntime) -> tuple[Program, ...]:
    """Return the programs to supervise, named as the services in COMMANDS.

    They may be started before the metadata database answers: each imports meanwhile, then waits until the
    database has the migration of the installed Airflow. Raises UsageError for an auth manager that only the
    docker engine has.
    """
    auth_manager = site.settings.get(AUTH_MANAGER, "")
    if "fab" in auth_manager.lower():
        raise UsageError(
            f"The local engine has no FAB auth manager, which {AUTH_MANAGER} is set to.",
            hint="Delete AIRFLOW_AUTH_MANAGER from stack/.env, or use Docker: pipectl --engine docker up",
        )
    variables = environment(site, runtime)
    without_password = {name: value for name, value in variables.items() if name != ADMIN_PASSWORD}
    files = digests(site.project, FORKED_FROM, LOCK_FILE)  # the same for all of them
    return tuple(
        Program(
            name=name,
            port=site.port if name == "webserver" else None,
            # -P: nothing is imported from the launcher's folder by chance.
            command=(str(runtime.python), "-P", str(site.project / LAUNCHER), command),
            directory=site.home,
            # The web server alone makes the login; tasks inherit what the other two get.
            environment=variables if name == "webserver" else without_password,
            files=files,
            stop_seconds=5,
            forks=name == FORKED_FROM,
            forked_from=FORKED_FROM if name == FORKED else "",
        )
        for name, command in COMMANDS.items()
    )


def require_usable_path(project: Path) -> None:
    """Raise UsageError for a folder whose path PostgreSQL refuses, or Airflow would read as another one.

    Airflow expands variables in every setting, and knows no way to write a dollar sign.
    """
    if "$" in str(project):
        raise UsageError(
            f"The project's path {project} holds a dollar sign, after which Airflow expands variables.",
            hint="Move the project to a folder without one, or use Docker: pipectl --engine docker up",
        )
    if "\n" in str(project) or "\r" in str(project):
        raise UsageError(
            f"The project's path {project} holds a line end, which PostgreSQL's programs refuse.",
            hint="Move the project to a folder without one.",
        )


def needs_triggerer(home: Path) -> bool:
    """Whether the web server has seen a trigger: until then the triggerer waits, see triggers.py."""
    return (home / "logs" / "triggerer-needed").exists()


def prepare_home(site: AirflowSite) -> None:
    """Make AIRFLOW_HOME, which must exist before the programs start.

    Raises EngineError if the project's folder cannot be written.
    """
    try:
        (site.home / "logs").mkdir(mode=0o700, parents=True, exist_ok=True)
        config = site.home / "config"
        if not config.is_symlink() and not config.exists():
            # Where Airflow looks for modules such as airflow_local_settings.
            config.symlink_to(Path("..", "..", CONFIG))
    except OSError as error:
        raise EngineError(
            f"Airflow's folder {site.home} cannot be written: {error.strerror}.",
            hint=remedy(error, site.home),
        ) from error
