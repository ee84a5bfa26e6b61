"""One frozen Settings, read once: defaults, stack/.env, environment variables, options.

An environment variable wins over stack/.env, as Compose has it, and an option wins over both.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipectl import json_text, services
from pipectl.env_file import EnvFile
from pipectl.errors import UsageError
from pipectl.models import VERIFYING, DatabaseAddress, ReplicationLogin
from pipectl.names import DAG_ID, DAG_ID_RULE, is_dag_id
from pipectl.surroundings import project_above

LARGEST_PORT = 65535
FOLDER = "PIPECTL_PROJECT_FOLDER"
# What tells a project from every other one: a copy of its folder gets its own.
IDENTITY = (
    FOLDER,
    "PIPECTL_PROJECT_ID",
    "COMPOSE_PROJECT_NAME",
    "AIRBYTE_POSTGRES_CONTAINER",
    "AIRBYTE_MYSQL_CONTAINER",
    "AIRBYTE_NETWORK",
    "AIRFLOW_JWT_SECRET",
)
# If stack/.env loses one of these, the copy in .pipectl has it.
LASTING = (
    *IDENTITY,
    "AIRFLOW_API_SECRET_KEY",
    "AIRFLOW_FERNET_KEY",
    "AIRFLOW_POSTGRES_PASSWORD",
    "AIRFLOW_REDIS_PASSWORD",
    "AIRBYTE_POSTGRES_SUPERUSER_PASSWORD",
    "AIRBYTE_MYSQL_ROOT_PASSWORD",
    "AIRBYTE_REPLICATION_PASSWORD",
    # Without it, the docker engine would start with the volumes of before a restore.
    "PIPECTL_DATA_SUFFIX",
)
# Beside names and logins: what data is encrypted, or its servers' accounts were made, with.
OF_DATA = (
    "AIRFLOW_FERNET_KEY",
    "AIRFLOW_POSTGRES_PASSWORD",
    "AIRBYTE_POSTGRES_SUPERUSER_PASSWORD",
    "AIRBYTE_MYSQL_ROOT_PASSWORD",
    "AIRBYTE_REPLICATION_PASSWORD",
)
# By libpq's words, for both databases.
SSL_MODES = frozenset({"disable", "prefer", "require", *VERIFYING})

_COUNT, _NUMBER = r"0*[1-9][0-9]{0,5}", r"[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?"
# What only other programs read, which fail long after the start: the form of a value, and its description.
FRAUD_RATE = "PIPECTL_ALERT_FRAUD_RATE"
LAG_SECONDS = "PIPECTL_ALERT_LAG_SECONDS"
_FERNET_KEY = "[A-Za-z0-9_+/-]{43}="
FORMS = {
    # Several, if an old one is being replaced.
    "AIRFLOW_FERNET_KEY": (f"{_FERNET_KEY}(,{_FERNET_KEY})*", "a Fernet key, 32 bytes in url-safe base64"),
    "AIRFLOW_PARALLELISM": (_COUNT, "a whole number above 0"),
    "AIRFLOW_UID": ("[0-9]{1,9}", "a user id"),
    "AIRFLOW_WORKERS": (_COUNT, "a whole number above 0"),
    "PIPECTL_RETENTION_DAYS": (_COUNT, "a whole number above 0"),
    "PIPECTL_SEED": ("[+-]?[0-9]{1,18}", "a whole number"),
    FRAUD_RATE: (f"{_NUMBER}:{_NUMBER}", "LOWEST:HIGHEST, as in 0.0005:0.03"),
    LAG_SECONDS: (_NUMBER, "a number of seconds"),
    "PIPECTL_ALERT_WEBHOOK": ("https?://[!-~]+", "an address that begins with http:// or https://"),
}
# A webhook's address may carry a token.
NOT_SHOWN = frozenset({"AIRFLOW_FERNET_KEY", "PIPECTL_ALERT_WEBHOOK"})


@dataclass(frozen=True)
class AlertBounds:
    """What is out of these is alerted, as the scripts do."""

    lowest_rate: float
    highest_rate: float
    lag_seconds: float


@dataclass(frozen=True)
class Settings:
    """What one invocation works with."""

    project: Path
    engine: str
    cache_dir: Path
    variables: dict[str, str] = field(repr=False)
    # Names whose value the environment gave, and values that stack/.env has lost.
    from_environment: frozenset[str] = frozenset()
    restored: dict[str, str] = field(default_factory=dict, repr=False)
    # The project that this one is a copy of.
    origin: Path | None = None

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
            raise self.is_not("PIPECTL_DAG_ID", "a DAG's id", DAG_ID_RULE)
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
            self.variables.get(ReplicationLogin.password_variable) or "",
        )

    @property
    def of_data(self) -> dict[str, str]:
        """What the data of the databases was made with, and goes with it: names, logins, keys."""
        values = {name: self.variables.get(name) or "" for name in OF_DATA}
        for definition in services.business_databases():
            address = self.database(definition.name)
            values[f"{definition.prefix}_DATABASE"] = address.database
            values[f"{definition.prefix}_USER"] = address.user
            values[definition.password_variable] = address.password
        return values | {"AIRBYTE_REPLICATION_USER": self.replication_login.user}

    @property
    def alert_bounds(self) -> AlertBounds:
        """The bounds of alerts; UsageError for a setting that is none."""
        for variable in (FRAUD_RATE, LAG_SECONDS):
            text = self.variables.get(variable)
            if text and not _has_form(variable, text):
                raise self.is_not(variable, FORMS[variable][1])
        lowest, highest = (self.variables.get("PIPECTL_ALERT_FRAUD_RATE") or "0.0005:0.03").split(":")
        lag = self.variables.get("PIPECTL_ALERT_LAG_SECONDS") or "3600"
        return AlertBounds(float(lowest), float(highest), float(lag))

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
            raise self.is_not(variable, "a port number", f"a number from 1 to {LARGEST_PORT}")
        return int(text)

    def check(self) -> None:
        """Raise UsageError for a value that would fail only after the start, if at all."""
        for variable, (_, description) in FORMS.items():
            text = self.variables.get(variable)
            if text and not _has_form(variable, text):
                raise self.is_not(variable, description)
        bounds = [float(bound) for bound in (self.variables.get(FRAUD_RATE) or "").split(":") if bound]
        if bounds != sorted(bounds):
            raise self.is_not(FRAUD_RATE, "a range that rises", FORMS[FRAUD_RATE][1])
        for definition in services.business_databases():
            self._encryption(definition.prefix)
        self._check_ports()

    def _check_ports(self) -> None:
        """Raise UsageError if two of the ports that are set, not chosen, are the same."""
        names: dict[int, str] = {}
        for definition in services.SERVICES:
            variable = definition.port_variable
            if not definition.default_port or not self.variables.get(variable):
                continue
            if self.is_external(definition.name):
                continue
            port = self.port(definition.name)
            if port in names:
                raise self.is_not(
                    variable, f"a port of its own: {names[port]} is the same", "one that no other has"
                )
            names[port] = variable

    def is_not(self, variable: str, description: str, wanted: str = "") -> UsageError:
        """Return the error for a value that is not what `description` says."""
        shown = "" if variable in NOT_SHOWN else f"={self.variables[variable]!r}"
        cure = f"{variable} to {wanted or description}"
        if variable in self.from_environment:
            return UsageError(
                f"The environment variable {variable}{shown} is not {description}.",
                hint=f"Remove it (unset {variable}), or set {cure}.",
            )
        kept = json_text.read_object(kept_path(self.project)).get(variable)
        is_restored = variable in LASTING and isinstance(kept, str) and _has_form(variable, kept)
        restores = f": pipectl up takes it from {kept_path(self.project)}" if is_restored else ""
        return UsageError(
            f"{variable}{shown} in {self.env_path} is not {description}.",
            hint=f"Set {cure}, or delete the line{restores}.",
        )

    def database(self, service: str) -> DatabaseAddress:
        """Address of a business database as seen from this machine."""
        definition = services.get(service)
        prefix = definition.prefix
        host = self.variables.get(f"{prefix}_HOST") or "127.0.0.1"
        if not is_host(host):
            raise self.is_not(f"{prefix}_HOST", "the name or address of a machine")
        address = DatabaseAddress(
            service=service,
            host=host,
            port=self.port(service),
            database=self.variables.get(f"{prefix}_DATABASE") or definition.database,
            user=self.variables.get(f"{prefix}_USER") or "docker",
            password=self.variables.get(definition.password_variable) or "docker",
        )
        if not self.is_external(service):
            return address
        mode, certificate = self._encryption(prefix)
        return replace(address, ssl_mode=mode, root_certificate=certificate)

    def _encryption(self, prefix: str) -> tuple[str, str]:
        mode = self.variables.get(f"{prefix}_SSLMODE") or "prefer"
        if mode not in SSL_MODES:
            modes = ", ".join(sorted(SSL_MODES))
            raise self.is_not(f"{prefix}_SSLMODE", "a mode of encryption", f"one of {modes}")
        name = self.variables.get(f"{prefix}_SSLROOTCERT") or ""
        folder = self.project / "stack" / "airflow"
        certificate = folder / name
        # Containers see that folder alone.
        if name and not (_is_file(certificate) and certificate.resolve().is_relative_to(folder.resolve())):
            raise UsageError(
                f"There is no file {name!r} in {folder}, which {prefix}_SSLROOTCERT names.",
                hint="Put the certificates of the authorities to trust there, in PEM format.",
            )
        if mode == "verify-ca" and not name:
            raise UsageError(
                f"{prefix}_SSLMODE=verify-ca needs {prefix}_SSLROOTCERT: any server may have one of the "
                "certificates that the machine trusts.",
                hint=f"Set {prefix}_SSLROOTCERT to a file in {folder}, or {prefix}_SSLMODE to verify-full.",
            )
        return mode, str(certificate) if name else ""


def _has_form(variable: str, value: str) -> bool:
    return variable not in FORMS or bool(re.fullmatch(FORMS[variable][0], value))


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


def kept_path(project: Path) -> Path:
    """The copy of the settings of the latest start, a JSON object."""
    return project / ".pipectl" / "settings.json"


def _restored(project: Path, written: dict[str, str]) -> dict[str, str]:
    """Return what stack/.env has lost since the latest start: everything, or what lasts for a project."""
    return {
        name: value
        for name, value in json_text.read_object(kept_path(project)).items()
        if isinstance(value, str) and value and (not written or (name in LASTING and not written.get(name)))
    }


def folder_text(project: Path) -> str:
    """Return the folder as stack/.env holds it: without characters that its readers take differently."""
    from urllib.parse import quote  # noqa: PLC0415  5 ms that `--version` need not pay

    return quote(os.fsencode(project))


def _origin(project: Path, variables: dict[str, str]) -> Path | None:
    """Return the project that `project` is a copy of; None if it is none, or was moved."""
    if variables.get(FOLDER, "") in {"", str(project)} or variables[FOLDER] == folder_text(project):
        return None
    from urllib.parse import unquote_to_bytes  # noqa: PLC0415  as above

    origin = Path(os.fsdecode(unquote_to_bytes(variables[FOLDER])))
    try:
        written = EnvFile(env_path(origin)).read()
        theirs = written | _restored(origin, written)
        is_there = theirs.get("AIRFLOW_JWT_SECRET") == variables.get("AIRFLOW_JWT_SECRET")
        return origin if is_there and not origin.samefile(project) else None
    except (OSError, UsageError):
        return None


def find_project(start: Path) -> Path:
    """The nearest folder from `start` upwards that has dags/ and stack/; UsageError if none has."""
    if (project := project_above(start)) is not None:
        return project
    raise UsageError(
        f"{start} is not in a pipectl project: no folder from there upwards has both dags/ and stack/.",
        hint="Change into the project's folder, or name it: pipectl --project DIR …\n"
        "Or make one: pipectl init my-pipeline",
    )


def root(project: Path | None = None) -> Path:
    """Return the folder of the project that is named, or in or above the current one; UsageError without."""
    chosen = project or (Path(value) if (value := os.environ.get("PIPECTL_PROJECT")) else None)
    if chosen is not None:
        _require_folder(chosen)
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
    return find_project((chosen or here).resolve())


def load(project: Path | None = None, engine: str | None = None) -> Settings:
    """Read the settings of the project in or above the current folder.

    Raises UsageError outside a project and for a broken `.env`.
    """
    folder = root(project)
    written = EnvFile(env_path(folder)).read()
    restored = _restored(folder, written)
    written |= restored
    origin = _origin(folder, written)
    if origin is not None:
        written = {name: value for name, value in written.items() if name not in IDENTITY}
        restored = {name: value for name, value in restored.items() if name not in IDENTITY}
    known = (
        written.keys()
        | FORMS.keys()
        | {definition.port_variable for definition in services.SERVICES if definition.default_port}
    )
    overrides = {
        name: value
        for name, value in os.environ.items()
        if name in known
        or name.startswith(
            ("AIRBYTE_POSTGRES_", "AIRBYTE_MYSQL_", "AIRBYTE_REPLICATION_", "AIRFLOW_ADMIN_", "PIPECTL_")
        )
    }
    return Settings(
        project=folder,
        engine=engine or os.environ.get("PIPECTL_ENGINE") or "auto",
        cache_dir=cache_dir(),
        variables={**written, **overrides},
        from_environment=frozenset(overrides),
        restored=restored,
        origin=origin,
    )


def cache_dir() -> Path:
    """The per-user folder of downloaded binaries, shared by projects; UsageError without a home."""
    value = os.environ.get("PIPECTL_CACHE_DIR")
    try:
        if value:
            return Path(value).expanduser().resolve()
        from platformdirs import user_cache_path  # noqa: PLC0415  25 ms that `--version` need not pay

        # A server that runs as another user may not pass the folders that lead to a link.
        return user_cache_path("pipectl", appauthor=False).resolve()
    except RuntimeError as error:
        problem = "There is no home folder for what pipectl installs."
        if value:
            problem = f"PIPECTL_CACHE_DIR={value!r} is in the home folder of a user who has none."
        raise UsageError(
            problem,
            hint="Set HOME, or PIPECTL_CACHE_DIR to a folder of your own.",
        ) from error


def _require_folder(chosen: Path) -> None:
    hint = "--project or PIPECTL_PROJECT names it."
    try:
        if not chosen.is_dir():
            raise UsageError(f"There is no folder {chosen}.", hint=hint)
    except PermissionError as error:
        raise UsageError(f"This user may not look into {error.filename}.", hint=hint) from error
    except OSError as error:  # a name that is too long
        raise UsageError(f"There is no folder {chosen}.", hint=hint) from error


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113  pathlib raises OSError for a name that is too long
