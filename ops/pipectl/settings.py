"""One frozen Settings, read once: defaults, stack/.env, environment variables, options.

An environment variable wins over stack/.env, as Compose has it, and an option wins over both.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from pipectl import services
from pipectl.env_file import EnvFile
from pipectl.errors import UsageError
from pipectl.models import DatabaseAddress, ReplicationLogin
from pipectl.names import DAG_ID, DAG_ID_RULE, is_dag_id

LARGEST_PORT = 65535
# By libpq's words, for both databases.
SSL_MODES = frozenset({"disable", "prefer", "require", "verify-full"})


@dataclass(frozen=True)
class Settings:
    """What one invocation works with."""

    project: Path
    engine: str
    cache_dir: Path
    variables: dict[str, str] = field(repr=False)

    @property
    def state_dir(self) -> Path:
        """Where the local engine keeps data, logs, sockets and state."""
        return self.project / ".pipectl"

    @property
    def env_path(self) -> Path:
        """The file that holds ports and secrets; Compose reads it too."""
        return env_path(self.project)

    @property
    def dag_id(self) -> str:
        """The pipeline's DAG, which `up` waits for; UsageError if the setting can be no DAG's id."""
        chosen = self.variables.get("PIPECTL_DAG_ID") or DAG_ID
        if not is_dag_id(chosen):
            raise UsageError(
                f"PIPECTL_DAG_ID={chosen!r} can be no DAG's id.",
                hint=f"Correct it in {self.env_path} or in the environment: {DAG_ID_RULE}.",
            )
        return chosen

    @property
    def admin(self) -> tuple[str, str]:
        """Name and password of Airflow's administrator."""
        return (
            self.variables.get("AIRFLOW_ADMIN_USER") or "admin",
            self.variables.get("AIRFLOW_ADMIN_PASSWORD") or "admin",
        )

    @property
    def replication_login(self) -> ReplicationLogin:
        """The account with which Airbyte reads both databases; `up` chooses its password."""
        return ReplicationLogin(
            self.variables.get("AIRBYTE_REPLICATION_USER") or "airbyte",
            self.variables.get("AIRBYTE_REPLICATION_PASSWORD") or "",
        )

    def is_external(self, service: str) -> bool:
        """Whether stack/.env places this database elsewhere, so that no engine starts or wipes it."""
        definition = services.get(service)
        return definition.business and bool(self.variables.get(f"{definition.prefix}_HOST"))

    def port(self, service: str) -> int:
        """The port that `service` is meant to listen on; UsageError if it is no port number."""
        definition = services.get(service)
        variable = definition.port_variable
        text = self.variables.get(variable) or str(definition.default_port)
        if not is_port(text):
            raise UsageError(
                f"{variable}={text!r} in {self.env_path} is not a port number.",
                hint=f"Set {variable} to a number from 1 to {LARGEST_PORT}, or delete the line.",
            )
        return int(text)

    def database(self, service: str) -> DatabaseAddress:
        """Address of a business database as seen from this machine."""
        definition = services.get(service)
        prefix = definition.prefix
        host = self.variables.get(f"{prefix}_HOST") or "127.0.0.1"
        if not is_host(host):
            raise UsageError(
                f"{prefix}_HOST={host!r} in {self.env_path} is no name or address of a machine.",
                hint=f"Correct {prefix}_HOST, or delete the line.",
            )
        return DatabaseAddress(
            service=service,
            host=host,
            port=self.port(service),
            database=self.variables.get(f"{prefix}_DATABASE") or definition.database,
            user=self.variables.get(f"{prefix}_USER") or "docker",
            password=self.variables.get(f"{prefix}_PASSWORD") or "docker",
            **(self._encryption(prefix) if self.is_external(service) else {}),
        )

    def _encryption(self, prefix: str) -> dict[str, str]:
        mode = self.variables.get(f"{prefix}_SSLMODE") or "prefer"
        if mode not in SSL_MODES:
            raise UsageError(
                f"{prefix}_SSLMODE={mode!r} in {self.env_path} is no mode of encryption.",
                hint=f"Set {prefix}_SSLMODE to one of {', '.join(sorted(SSL_MODES))}, or delete the line.",
            )
        name = self.variables.get(f"{prefix}_SSLROOTCERT") or ""
        certificate = self.project / "stack" / "airflow" / name
        if name and not certificate.is_file():
            raise UsageError(
                f"There is no file {certificate}, which {prefix}_SSLROOTCERT names.",
                hint="Put the certificates of the authorities to trust there, in PEM format.",
            )
        return {"ssl_mode": mode, "root_certificate": str(certificate) if name else ""}


def is_port(text: str) -> bool:
    """Whether a text is a port number."""
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(LARGEST_PORT))
    return digits and 0 < int(text) <= LARGEST_PORT


def is_host(text: str) -> bool:
    """Whether a text can be the name or address of a machine."""
    try:
        text.encode("idna")
    except UnicodeError:
        return False
    return text.isprintable() and " " not in text


def env_path(project: Path) -> Path:
    """The `.env` file of `project`."""
    return project / "stack" / ".env"


def find_project(start: Path) -> Path:
    """The nearest folder from `start` upwards that has dags/ and stack/; UsageError if none has."""
    for folder in (start, *start.parents):
        if (folder / "dags").is_dir() and (folder / "stack").is_dir():
            return folder
    raise UsageError(
        f"{start} is not in a pipectl project: no folder from there upwards has both dags/ and stack/.",
        hint="Change into the project's folder, or name it: pipectl --project DIR …",
    )


def load(project: Path | None = None, engine: str | None = None) -> Settings:
    """Read the settings of the project in or above the current folder.

    Raises UsageError outside a project and for a broken `.env`.
    """
    chosen = project or (Path(value) if (value := os.environ.get("PIPECTL_PROJECT")) else None)
    if chosen is not None and not _is_folder(chosen):
        raise UsageError(f"There is no folder {chosen}.", hint="--project or PIPECTL_PROJECT names it.")
    try:
        here = Path.cwd()
    except FileNotFoundError as error:
        if chosen is None or not chosen.is_absolute():
            raise UsageError(
                "The current folder does not exist any more.", hint="Change into the project's folder: cd DIR"
            ) from error
        # The processes that pipectl starts begin in the current folder.
        os.chdir(chosen)
        here = chosen
    root = find_project((chosen or here).resolve())
    written = EnvFile(env_path(root)).read()
    known = written.keys() | {
        definition.port_variable for definition in services.SERVICES if definition.default_port
    }
    overrides = {
        name: value
        for name, value in os.environ.items()
        if name in known
        or name.startswith(
            ("AIRBYTE_POSTGRES_", "AIRBYTE_MYSQL_", "AIRBYTE_REPLICATION_", "AIRFLOW_ADMIN_", "PIPECTL_")
        )
    }
    return Settings(
        project=root,
        engine=engine or os.environ.get("PIPECTL_ENGINE") or "auto",
        cache_dir=cache_dir(),
        variables={**written, **overrides},
    )


def cache_dir() -> Path:
    """The per-user folder of downloaded binaries, shared by projects; UsageError without a home."""
    try:
        if value := os.environ.get("PIPECTL_CACHE_DIR"):
            return Path(value).expanduser().resolve()
        from platformdirs import user_cache_path  # noqa: PLC0415  25 ms that `--version` need not pay

        return user_cache_path("pipectl", appauthor=False)
    except RuntimeError as error:
        raise UsageError(
            f"There is no home folder for what pipectl installs: {error}.",
            hint="Set HOME, or PIPECTL_CACHE_DIR to a folder of your own.",
        ) from error


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long
        return False
