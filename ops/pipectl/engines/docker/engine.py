"""The docker engine: the stack of stack/docker-compose.yml. The only module that imports python_on_whales.

Compose makes networks, volumes and containers; then all containers are started at once, since each waits by
itself for what it needs. `docker compose up -d` ends in the same state, seconds later.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pipectl.engines import airflow_env, ports
from pipectl.engines.base import DATABASES, SERVICES
from pipectl.engines.claims import Claims
from pipectl.engines.docker import names as naming
from pipectl.engines.docker.api import WITHOUT_DOCKER, DockerApi
from pipectl.engines.project import SECRETS, forget_engine, project_lock, remember_engine
from pipectl.env_file import EnvFile
from pipectl.errors import EngineError, UsageError
from pipectl.models import AirflowAddress, LogLine, Service, Volume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from pipectl.engines.docker.api import Container
    from pipectl.models import DatabaseAddress
    from pipectl.settings import Settings

OLDEST_API, OLDEST_ENGINE = (1, 44), "25.0"
OLDEST_COMPOSE = (2, 24)
INIT = "airflow-init"
PUBLISHED = ("airbyte-postgres", "airbyte-mysql", "webserver")
CELERY_SERVICES = ("redis", "worker")
EXECUTORS = {"local": "LocalExecutor", "celery": "CeleryExecutor"}
LOOPBACK = ("localhost", "127.", "::1")
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
PORT_TAKEN = ("port is already allocated", "address already in use")
STOPPED_CODES = {0, 130, 137, 143}  # ended by itself or by the signals of a stop


class DockerEngine:
    """Implements the Engine protocol for one project."""

    name = "docker"

    def __init__(self, settings: Settings, api: DockerApi | None = None) -> None:
        self._settings = settings
        self._api = api or DockerApi()
        self._claims = Claims(settings.cache_dir)
        self._moved: dict[str, tuple[int, int]] = {}

    @property
    def executor(self) -> str:
        """Airflow's executor, as stack/.env has it."""
        return EXECUTORS[self._executor]

    @property
    def _executor(self) -> str:
        chosen = self._settings.variables.get("PIPECTL_EXECUTOR") or "local"
        if chosen not in EXECUTORS:
            raise UsageError(
                f"PIPECTL_EXECUTOR={chosen!r} in {self._settings.env_path} is no executor.",
                hint=f"Set it to one of {', '.join(EXECUTORS)}.",
            )
        return chosen

    def lock(self) -> AbstractContextManager[None]:
        """Keep a second command that changes the stack out; EngineError where one is under way."""
        return project_lock(self._settings, self._claims)

    def install(self, report: Callable[[str], None]) -> None:
        """Check the engine and Compose, choose names and ports, make secrets, fetch missing images."""
        self._check_engine()
        self._fill_in_settings(report)
        images = {
            service["image"]
            for service in self._config()["services"].values()
            if int(service.get("scale", 1)) > 0
        }
        missing = sorted(image for image in images if not self._api.has_image(image))
        if missing:
            report(f"Fetching {', '.join(missing)}, once for this machine")
            with self._explained(f"The images {', '.join(missing)} could not be fetched."):
                self._client.image.pull(missing, quiet=True)

    def start(self, report: Callable[[str], None]) -> tuple[str, ...]:
        """Start what is not running, and make anew what is configured otherwise by now."""
        remember_engine(self._settings, self.name)
        # Between the choice of a port and its use another program can take it: then once more.
        for last in (False, True):
            self._create()
            stopped = [found for found in self._containers if found.state != "running"]
            if all(found.service == INIT and not found.exit_code for found in stopped):
                return ()
            names = tuple(dict.fromkeys(found.service for found in stopped if found.service != INIT))
            report(f"Starting {', '.join(names)}")
            try:
                self._start_all(stopped)
            except EngineError as error:
                if last or not any(words in error.detail for words in PORT_TAKEN):
                    raise
                self._fill_in_settings(report)
            else:
                return names
        return ()

    def resize(self, *, executor: str | None, workers: int | None) -> None:
        """Remember the executor and its number of workers for the next start."""
        changes = {}
        if executor is not None:
            if executor not in EXECUTORS:
                raise UsageError(f"There is no executor {executor!r}.", hint="There are: local, celery.")
            changes["PIPECTL_EXECUTOR"] = executor
        if workers is not None:
            if (executor or self._executor) != "celery":
                raise UsageError(
                    "Workers of their own need the Celery executor.",
                    hint=f"Turn it on: pipectl up --executor celery --workers {workers}",
                )
            changes["AIRFLOW_WORKERS"] = str(workers)
        if changes:
            self._change_settings(changes)

    def moved_ports(self) -> dict[str, tuple[int, int]]:
        """Services whose wanted port was taken at the last start: (wanted, now used)."""
        return self._moved

    def stop(self) -> tuple[str, ...]:
        """Stop and remove the project's containers and its network; volumes stay."""
        containers = self._containers
        running = {found.service for found in containers if found.pid}
        if containers:
            with self._explained("Docker could not stop the stack."):
                self._client.compose.down(remove_orphans=True, quiet=True)
        return tuple(name for name in (*SERVICES, *CELERY_SERVICES) if name in running)

    def services(self) -> tuple[Service, ...]:
        """Every service with the state of its container, and the one-shot where it failed."""
        containers = sorted(self._containers, key=lambda found: found.name)
        services = []
        for name in self._names:
            own = [found for found in containers if found.service == name]
            services += [self._service(found) for found in own] or [self._service_without(name)]
        services += [
            self._service(found) for found in containers if found.service == INIT and found.exit_code
        ]
        return tuple(services)

    def ports(self) -> dict[str, int]:
        """Port on 127.0.0.1 per service that listens there."""
        return {name: self._settings.port(name) for name in self._names if name in PUBLISHED}

    def airflow(self) -> AirflowAddress:
        """Where Airflow answers."""
        return AirflowAddress(f"http://127.0.0.1:{self._settings.port('webserver')}", *self._settings.admin)

    def databases(self) -> tuple[DatabaseAddress, DatabaseAddress]:
        """The two business databases, PostgreSQL first."""
        return self._settings.database("airbyte-postgres"), self._settings.database("airbyte-mysql")

    def volumes(self) -> tuple[Volume, ...]:
        """Volumes that carry this project's label."""
        if not self._project_id:
            return ()
        found = self._api.volumes(**{naming.PROJECT_LABEL: self._project_id})
        sizes = self._api.volume_sizes() if found else {}
        volumes = (
            Volume(
                name=(each.get("Labels") or {}).get("com.docker.compose.volume") or each["Name"],
                location=each["Name"],
                created=datetime.fromisoformat(each["CreatedAt"]),
                bytes=max(0, sizes.get(each["Name"], 0)),
            )
            for each in found
        )
        return tuple(sorted(volumes, key=lambda volume: volume.name))

    def delete_volumes(self) -> None:
        """Delete the volumes that carry this project's label."""
        for volume in self.volumes():
            with self._explained(f"The volume {volume.location} could not be deleted."):
                self._client.volume.remove(volume.location)
        forget_engine(self._settings)

    def logs(self, services: tuple[str, ...], *, tail: int, follow: bool) -> Iterator[LogLine]:
        """Read the logs of containers through Compose."""
        names = {self._shown_name(found): found for found in self._containers}
        wanted = {names[name].name: name for name in services if name in names}
        if not wanted:
            return
        chosen = list(dict.fromkeys(names[name].service for name in wanted.values()))
        with self._explained("Docker could not read the logs."):
            for _, data in self._client.compose.logs(chosen, tail=str(tail), follow=follow, stream=True):
                # Compose writes `container  | text`, without the project's name, coloured also for a pipe.
                left, _, text = ESCAPE.sub("", data.decode(errors="replace")).rstrip("\n").partition("| ")
                container = left.strip()
                name = wanted.get(container) or wanted.get(f"{self._project_name}-{container}")
                if name:
                    yield LogLine(name, text)

    def equivalent(self, action: str) -> tuple[str, ...]:
        """Return what a user would type to Docker for `up`, `down`, `down --volumes` or `reset`."""
        compose = " ".join(["docker compose", *(f"-f {path}" for path in self._shown_files)])
        names = (
            [volume.location for volume in self.volumes()] if action in {"down --volumes", "reset"} else []
        )
        down = f"{compose} down --remove-orphans"
        remove = [f"docker volume rm {' '.join(names)}"] if names else []
        up = f"{compose} up --detach --wait"
        return {
            "up": (up,),
            "down": (down,),
            "down --volumes": (down, *remove),
            "reset": (down, *remove, up),
        }[action]

    @property
    def _names(self) -> tuple[str, ...]:
        """The services that Docker runs: not a database that stack/.env places elsewhere."""
        celery = CELERY_SERVICES if self._executor == "celery" else ()
        return (*(name for name in SERVICES if not self._settings.is_external(name)), *celery)

    @property
    def _files(self) -> list[Path]:
        folder = self._settings.project / "stack"
        celery = [folder / "docker-compose.celery.yml"] if self._executor == "celery" else []
        return [folder / "docker-compose.yml", *celery]

    @property
    def _shown_files(self) -> list[str]:
        return [str(path.relative_to(self._settings.project)) for path in self._files]

    @property
    def _project_id(self) -> str:
        return self._settings.variables.get(naming.PROJECT_ID) or ""

    @property
    def _project_name(self) -> str:
        return self._settings.variables.get(naming.PROJECT_NAME) or naming.DEFAULT_NAMES[naming.PROJECT_NAME]

    @property
    def _containers(self) -> tuple[Container, ...]:
        """The project's containers; none before it has an identity, so that a namesake's are left alone."""
        if not self._project_id:
            self._api.version()  # an engine that does not answer says so
            return ()
        return self._api.containers(
            **{"com.docker.compose.project": self._project_name, naming.PROJECT_LABEL: self._project_id}
        )

    def _service(self, found: Container) -> Service:
        state = found.state
        if state == "restarting" or (state in {"exited", "dead"} and found.exit_code not in STOPPED_CODES):
            state = "crashed"
        elif state != "running":
            state = "stopped"
        # The pipeline asks databases and Airflow themselves; of Celery's parts the engine knows more.
        health = ""
        if found.service in CELERY_SERVICES and state == "running":
            health = "healthy" if found.health == "healthy" else "starting"
        return Service(
            name=self._shown_name(found),
            state=state,
            health=health,
            port=self._settings.port(found.service) if found.service in PUBLISHED else None,
            pid=found.pid,
            container=found.name,
            restarts=found.restarts,
        )

    def _service_without(self, name: str) -> Service:
        port = self._settings.port(name) if name in PUBLISHED else None
        return Service(name=name, state="stopped", port=port)

    def _shown_name(self, found: Container) -> str:
        number = found.labels.get("com.docker.compose.container-number", "1")
        return f"worker-{number}" if found.service == "worker" else found.service

    def _check_engine(self) -> None:
        """Raise EngineError where the engine or Compose is missing or too old."""
        version = self._api.version()
        if _numbers(version.get("ApiVersion", "")) < OLDEST_API:
            raise EngineError(
                f"The Docker engine {version.get('Version', '')} is older than {OLDEST_ENGINE}.",
                hint=f"Update Docker. {WITHOUT_DOCKER}",
            )
        with self._explained("Docker Compose does not work."):
            found = str(self._client.compose.version())
        if _numbers(found) < OLDEST_COMPOSE:
            oldest = ".".join(map(str, OLDEST_COMPOSE))
            raise EngineError(
                f"{found.strip()} is too old: the stack needs {oldest}.",
                hint=f"Update the Compose plugin of Docker. {WITHOUT_DOCKER}",
            )

    def _fill_in_settings(self, report: Callable[[str], None]) -> None:
        """Choose names and free ports and make secrets where they are missing; remember all in stack/.env."""
        variables = self._settings.variables
        passwords = ["AIRBYTE_MYSQL_ROOT_PASSWORD"]
        passwords += ["AIRFLOW_REDIS_PASSWORD"] if self._executor == "celery" else []
        secrets = {**SECRETS, **dict.fromkeys(passwords, SECRETS["AIRFLOW_POSTGRES_PASSWORD"])}
        changes = {name: make() for name, make in secrets.items() if not variables.get(name)}
        if naming.PROJECT_ID not in variables:
            names, others = naming.choose(self._api, variables, self._claims)
            changes |= names
            if others:
                report(
                    f"Another project on this machine uses {others}, so this one is "
                    f"{names[naming.PROJECT_NAME]!r}, with names of its own (remembered in stack/.env)"
                )
        for service in ("airbyte-postgres", "airbyte-mysql"):
            prefix = service.upper().replace("-", "_")
            scale = "0" if self._settings.is_external(service) else "1"
            if variables.get(f"{prefix}_SCALE", "1") != scale:
                changes[f"{prefix}_SCALE"] = scale
            if variables.get(f"{prefix}_HOST", "").startswith(LOOPBACK):
                raise UsageError(
                    f"{prefix}_HOST={variables[f'{prefix}_HOST']} is another place inside a container.",
                    hint="Set it in stack/.env to an address that this machine and containers reach.",
                )
        if changes:
            self._change_settings(changes)
        self._choose_ports()

    def _choose_ports(self) -> None:
        running = {found.service for found in self._containers if found.state == "running"}
        moved = ports.choose(self._settings, tuple(self.ports()), running, self._claims)
        self._moved |= moved
        if moved:
            self._change_settings(ports.changes(moved))

    def _change_settings(self, changes: dict[str, str]) -> None:
        EnvFile(self._settings.env_path).update(changes)
        self._settings = replace(self._settings, variables={**self._settings.variables, **changes})
        # Compose takes a variable of the environment before that of the file.
        os.environ.update({name: value for name, value in changes.items() if name in os.environ})
        self.__dict__.pop("_client", None)

    def _create(self) -> None:
        """Let Compose make what is missing and replace what is configured otherwise."""
        with self._explained("Compose could not make the stack's containers."):
            self._client.compose.create()
        surplus = [found.id for found in self._containers if found.service not in {*self._names, INIT}]
        if surplus:
            with self._explained("Docker could not remove the containers of the other executor."):
                self._client.container.stop(surplus)
                self._client.container.remove(surplus)

    def _start_all(self, containers: list[Container]) -> None:
        """Start containers side by side, the databases first, since all others wait for them.

        By the engine's API: a docker command for each costs 60 ms of CPU, just when there is none to spare.
        """
        databases = [found.id for found in containers if found.service in DATABASES]
        others = [found.id for found in containers if found.service not in DATABASES]
        with ThreadPoolExecutor(max_workers=len(containers)) as pool:
            for ids in (databases, others):
                for started in [pool.submit(self._api.start, each) for each in ids]:
                    started.result()

    def _config(self) -> dict[str, Any]:
        with self._explained("stack/docker-compose.yml cannot be used."):
            config: dict[str, Any] = self._client.compose.config(return_json=True)
        return config

    @cached_property
    def _client(self) -> Any:  # noqa: ANN401  python_on_whales, which is imported here alone
        from python_on_whales import DockerClient  # 230 ms

        for path in self._files:
            if not path.is_file():
                raise EngineError(f"{path} is missing.", hint="Get it back: git checkout stack")
        # Compose reads them itself, but shows of a line that it refuses what may be a secret.
        airflow_env.read(self._settings.project, self._settings.variables)
        return DockerClient(
            host=self._api.host,
            compose_files=[*self._files],
            compose_project_name=self._project_name,
            compose_env_files=[self._settings.env_path] if self._settings.env_path.exists() else [],
        )

    @contextmanager
    def _explained(self, message: str) -> Iterator[None]:
        from python_on_whales.client_config import ClientNotFoundError
        from python_on_whales.exceptions import DockerException

        try:
            yield
        except (ClientNotFoundError, FileNotFoundError) as error:
            raise EngineError(
                "An engine answers, but the docker command is not installed.",
                hint=f"Install it (Debian: apt install docker-cli). {WITHOUT_DOCKER}",
            ) from error
        except DockerException as error:
            detail = ESCAPE.sub("", error.stderr or error.stdout or "").strip()
            if "is not a docker command" in detail or "unknown shorthand flag: 'f'" in detail:
                raise EngineError(
                    "Docker has no Compose plugin.",
                    hint=f"Install it (Debian: apt install docker-compose-plugin). {WITHOUT_DOCKER}",
                ) from error
            raise EngineError(
                message,
                hint="Look at its services and their logs: pipectl status, pipectl logs",
                detail=_end(detail),
            ) from error


def _numbers(version: str) -> tuple[int, ...]:
    found = re.search(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _end(text: str, lines: int = 10) -> str:
    return "\n".join(text.splitlines()[-lines:])
