"""The docker engine: the stack of stack/docker-compose.yml.

Compose makes networks, volumes and containers; then all containers are started at once, since each waits by
itself for what it needs. `docker compose up -d` ends in the same state, seconds later.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipectl import surroundings
from pipectl.database_connections import prove
from pipectl.engines import airflow_env
from pipectl.engines.base import Engine
from pipectl.engines.changes import (
    StartPlan,
    describe,
    digests,
    restart_sentences,
    with_dependents,
)
from pipectl.engines.docker import (
    archives,
    bytecode_template,
    identity,
    metadata_template,
    replacements,
    started,
)
from pipectl.engines.docker.apart import docker_run
from pipectl.engines.docker.api import FOLDER_LABEL, SEE_SERVICES, DockerApi
from pipectl.engines.docker.compose import Compose
from pipectl.engines.docker.containers import RESTARTING, number, service_of, shown_name
from pipectl.engines.docker.data import DockerData
from pipectl.engines.docker.execute import CLIENTS, execute, log_in, words_in_container
from pipectl.engines.docker.mounts import DEFAULT_USER, USER, require_readable
from pipectl.engines.docker.pull import pull_all, variables_of
from pipectl.engines.docker.versions import OLDEST_API, require_compose, require_engine
from pipectl.engines.foreground import Command
from pipectl.engines.project import (
    Leftover,
    forget_engine,
    new_password,
    remember_engine,
)
from pipectl.engines.requirements import INSTALLED, REMOVED, changed_note
from pipectl.env_file import EnvFile
from pipectl.errors import EngineError, UsageError
from pipectl.models import DatabaseAddress, LogLine, Service, Volume
from pipectl.observer import Observer
from pipectl.services import (
    HEALTHY,
    METADATA,
    SERVICES,
    airflow_programs,
    business_databases,
    databases,
    runs_airflow,
    runs_tasks,
)
from pipectl.wait import until

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from pipectl.engines.docker.api import Container, EngineVersion
    from pipectl.models import Usage
    from pipectl.services import Definition
    from pipectl.settings import Settings

INIT = "airflow-init"
ONE_OFF_LABEL = "com.docker.compose.oneoff"
EXECUTORS = {"local": "LocalExecutor", "celery": "CeleryExecutor"}
MYSQL_ROOT_PASSWORD = "AIRBYTE_MYSQL_ROOT_PASSWORD"  # noqa: S105  the name of a variable
METADATA_VOLUME, METADATA_PASSWORD = "postgres_airflow_data", "AIRFLOW_POSTGRES_PASSWORD"
# A version, a service that has it, and the variable in which its official image says it.
IMAGE_VERSIONS = (
    ("airflow", "webserver", "AIRFLOW_VERSION"),
    ("postgres", "airbyte-postgres", "PG_MAJOR"),
    ("mysql", "airbyte-mysql", "MYSQL_VERSION"),
)
LOOPBACK = ("localhost", "127.", "::1")
PORT_TAKEN = ("port is already allocated", "address already in use")
SETTLED_SECONDS = 5
# What a stop begins with, besides what runs tasks: neither needs these.
TOLD_FIRST = {"dag-processor", "triggerer", INIT}
STOPPED_CODES = {0, 130, 137, 143}  # ended by itself or by the signals of a stop


class DockerEngine(Engine):
    """Runs the services as containers."""

    name = "docker"
    # Measured: 1.4 GB with the local executor, 1.9 with Celery and two workers.
    memory_bytes = 1400 << 20

    def __init__(self, settings: Settings, api: DockerApi | None = None) -> None:
        super().__init__(settings)
        self._api = api or DockerApi()
        # Those of this start's new volumes, whether the files are there or not.
        self._template: Path | None = None
        self._bytecode: Path | None = None
        # At the last look at the services.
        self._seen: tuple[Container, ...] = ()
        # Whether Compose would change nothing.
        self._is_as_started = False
        self._data = DockerData(
            self,
            self._api,
            compose=lambda: self._compose,
            image=lambda: str(self._described["postgres"]["image"]),
            require_identity=self._require_identity,
        )
        if not self._project_id:
            self._recover()

    def _recover(self) -> None:
        """Take what stack/.env has lost from the containers that Compose has made in this folder."""
        try:
            containers = self._api.containers({FOLDER_LABEL: str(self._settings.project / "stack")})
        except EngineError:
            return
        known = self._settings.variables
        lost = {name: value for name, value in identity.recover(containers).items() if not known.get(name)}
        self._settings = replace(
            self._settings, variables={**known, **lost}, restored={**self._settings.restored, **lost}
        )

    @property
    def executor(self) -> str:
        """Airflow's executor, as stack/.env has it."""
        chosen = self._settings.variables.get("PIPECTL_EXECUTOR") or "local"
        if chosen not in EXECUTORS:
            raise self._settings.is_not("PIPECTL_EXECUTOR", "an executor", " or ".join(EXECUTORS))
        return EXECUTORS[chosen]

    @property
    def _has_celery(self) -> bool:
        return self.executor == EXECUTORS["celery"]

    @property
    def data(self) -> DockerData:
        """Volumes, and tar files as their copies."""
        return self._data

    def check(self, observer: Observer) -> None:
        """Look at the settings, the engine and Compose, and whether containers may read the project."""
        self._check_settings(observer)
        self._check_engine()
        self.compose_version()
        self.check_mounts()

    def _check_settings(self, observer: Observer) -> None:
        super().check(observer)
        for name in EnvFile(self._settings.env_path).expanded():
            raise UsageError(
                f"{name} in {self._settings.env_path} has a dollar sign, which Compose takes for a variable.",
                hint=f"Put the value in single quotes: {name}='...'",
            )

    def install(self, observer: Observer) -> None:
        """Check the engine and Compose, choose names and ports, make secrets, pull missing images."""
        self._check_settings(observer)
        self._check_engine()
        all_run = started.all_run(self.state_dir, self._containers, INIT)
        if not all_run:
            self.compose_version()
        self.check_mounts()
        self._configure(observer)
        self._is_as_started = all_run and self._would_change_nothing()
        if self._is_as_started:
            return
        services = self._described.values()
        self._pull({each["image"] for each in services if int(each.get("scale", 1)) > 0}, observer)
        if self._changed_requirements():
            # Before anything that runs is replaced: what cannot be installed leaves it alone.
            observer.see_wait("Installing what requirements.txt asks for")
            for line in self._compose.install_packages().splitlines():
                if line.startswith((INSTALLED, REMOVED)):
                    observer.report(line)

    @property
    def _made_of(self) -> str:
        return started.digest(self._settings.project, self._files, self._settings.env_path)

    def _would_change_nothing(self) -> bool:
        return started.is_same(
            self.state_dir, self._made_of, self._containers, lambda name: self._api.image(name)[0]
        )

    def _pull(self, images: Collection[str], observer: Observer) -> None:
        """Pull those images that are missing."""
        missing = sorted(image for image in images if not self._api.has_image(image))
        if missing:
            observer.report(f"Pulling {', '.join(missing)}, once for this machine")
            chosen = {image: variables_of(image, self._files, self._settings.variables) for image in missing}
            pull_all(self._api, self._compose, chosen, observer.see_progress)

    def _changed_requirements(self) -> tuple[str, ...]:
        started = [
            replacements.files_of(container)
            for container in self._containers
            if container.pid and container.service in airflow_programs()
        ]
        return changed_note(started, digests(self._settings.project, "webserver"))

    def notes(self) -> tuple[str, ...]:
        """Say too that requirements.txt has changed."""
        return (*super().notes(), *self._changed_requirements())

    def _plan(self) -> StartPlan:
        """Ask Compose how it would make the containers, with what a start would write to stack/.env."""
        before = self._settings.variables
        own = airflow_env.user_settings(self._settings.project)
        while True:
            self._configure(Observer())
            now = self._settings.variables
            changed = {name: value for name, value in now.items() if before.get(name) != value}
            services = {
                name: service
                for name, service in self._compose.planned(changed).items()
                if name in {*self._names, INIT}
            }
            images = {name: self._api.image(name) for name in {each["image"] for each in services.values()}}
            running = [container for container in self._containers if container.pid]
            kept = [each for each in running if each.service in self._names and self._keeps(each)]
            compared = [each for each in kept if each.service not in self._would_stop]
            replaced = replacements.foresee(compared, services, images, own)
            if not replaced:
                break
            # Another look follows: what is replaced may get another port.
            self._restarts |= replaced
            self._would_stop |= replaced.keys()
        restarts = self.restarts()
        shown = {shown_name(container): container.service for container in kept}
        installs = [f"the image {name}" for name in sorted(images) if not images[name][0]]
        if self._changed_requirements():
            installs.append("what requirements.txt asks for and the image lacks, if it can be had")
        workers = [f"worker-{number + 1}" for number in range(self._workers)]
        names = [name for name in self._names if name != "worker"] + workers
        return StartPlan(
            installs=tuple(installs),
            starts=tuple(name for name in names if name not in shown),
            restarts={name: restarts[service] for name, service in shown.items() if service in restarts},
            removes=tuple(sorted(shown_name(each) for each in running if each not in kept)),
            moves=self._moved_ports,
        )

    @property
    def _workers(self) -> int:
        return int(self._settings.variables.get("AIRFLOW_WORKERS") or 1) if self._has_celery else 0

    def _keeps(self, container: Container) -> bool:
        return container.service != "worker" or number(container) <= self._workers

    def start(self, observer: Observer, only: Collection[str] = ()) -> tuple[str, ...]:
        """Start what is not running, and make anew what is configured otherwise by now."""
        remember_engine(self._settings, self.name)
        if self._is_as_started:
            return ()
        names = self._start_what_differs(observer, only)
        if not only:
            started.note(self.state_dir, self._made_of, self._containers)
        return names

    def _start_what_differs(self, observer: Observer, only: Collection[str]) -> tuple[str, ...]:
        # Another program can take a port between its choice and its use: then choose again, once.
        for is_last in (False, True):
            before = {container.name: container for container in self._containers}
            if not before:
                self._choose_templates()
            observer.see_wait("Waiting until Compose has made the containers")
            self._create()
            self._note_removed(before)
            self._note_restarts(before, observer)
            stopped = [
                container
                for container in self._containers
                if container.state != "running" and (not only or container.service in only)
            ]
            if all(container.service == INIT and not container.exit_code for container in stopped):
                return ()
            names = tuple(
                dict.fromkeys(container.service for container in stopped if container.service != INIT)
            )
            observer.report(f"Starting {', '.join(names) or INIT}")
            try:
                # Of one that Docker starts again and again only what it does from now on counts.
                self._side_by_side(
                    self._api.stop, [container.id for container in stopped if container.state == RESTARTING]
                )
                self._give_templates(stopped)
                self._start_all(stopped)
            except EngineError as error:
                if is_last or not any(words in error.detail for words in PORT_TAKEN):
                    raise
                self._configure(observer)
            else:
                return names
        return ()

    def _choose_templates(self) -> None:
        """Choose what new volumes are filled with: none for those that are there already."""
        there = {answer["Name"] for answer in self._api.volumes()}
        images = [self._api.image(self._described[service]["image"])[0] for service in (INIT, "postgres")]
        if archives.location(self._project_name, "postgres", self._settings.variables) not in there:
            self._template = metadata_template.place(
                self._settings, images, self.versions().get("airflow", "")
            )
        if f"{self._project_name}_{bytecode_template.VOLUME}" not in there:
            self._bytecode = bytecode_template.place(self._settings.cache_dir, images[0])

    def _give_templates(self, containers: Collection[Container]) -> None:
        for container in containers:
            if container.service != INIT:
                continue
            if self._template:
                metadata_template.give(self._api, container.id, self._template)
            if self._bytecode:
                bytecode_template.give(self._api, container.id, self._bytecode)

    def keep_for_later(self) -> None:
        """Keep the template of a metadata database that this start has migrated, and new byte code."""
        if self._template and not self._template.exists():
            metadata_template.keep(lambda words: self.tool("postgres", words, Observer()), self._template)
        if self._bytecode and not self._bytecode.exists():
            for container in self._containers:
                if container.service == "webserver":
                    bytecode_template.keep(self._api, container.id, self._bytecode)

    def resize(self, *, executor: str | None, workers: int | None) -> None:
        """Remember the executor and its number of workers for the next start."""
        changes = {}
        if executor is not None:
            changes["PIPECTL_EXECUTOR"] = executor
        if workers is not None:
            if not (executor == "celery" or (executor is None and self._has_celery)):
                raise UsageError(
                    "Workers of their own need the Celery executor.",
                    hint=f"Turn it on: pipectl up --executor celery --workers {workers}",
                )
            changes["AIRFLOW_WORKERS"] = str(workers)
        self.change_settings(changes)

    def restart(self, names: Collection[str], observer: Observer) -> dict[str, str]:
        """Stop and start the containers that there are."""
        containers = self._containers
        asked = [container for container in containers if shown_name(container) in names]
        if missing := set(names) - {shown_name(container) for container in asked}:
            raise EngineError(
                f"There is no container of {', '.join(sorted(missing))}.",
                hint="Make what is missing: pipectl up",
            )
        running = {container.service for container in containers if container.pid}
        by_service = with_dependents(dict.fromkeys((each.service for each in asked), ()), running)
        dependents = [each for each in containers if by_service.get(each.service)]
        chosen = asked + dependents
        restarts = {shown_name(container): by_service[container.service] for container in chosen}
        for sentence in restart_sentences(restarts):
            observer.report(sentence)
        last = databases()
        for ids in (
            [container.id for container in chosen if container.service not in last],
            [container.id for container in chosen if container.service in last],
        ):
            self._side_by_side(self._api.stop, ids)
        ids = [container.id for container in chosen]

        def states() -> set[str]:
            return {container.state for container in self._containers if container.id in ids}

        # What Docker starts again and again may show the crash of before for a moment longer.
        until(lambda: states().isdisjoint({"running", RESTARTING}), SETTLED_SECONDS)
        self._start_all(chosen)
        until(lambda: states() == {"running"}, SETTLED_SECONDS)
        return {name: describe(reasons) if reasons else "" for name, reasons in restarts.items()}

    def stop(self) -> tuple[str, ...]:
        """Stop and remove the project's containers and its network; volumes stay."""
        containers = self._containers
        running = {container.service for container in containers if container.pid}
        # Tasks that end tell the web server, which writes to the database: both stay until then.
        told = {name for name in running if name in TOLD_FIRST or runs_tasks(name)}
        runs = {container.id: container.service for container in containers if container.pid}
        first = [container for container, service in runs.items() if service in told]
        self._side_by_side(self._api.stop, first)

        def end(container: str) -> None:
            if container in runs and container not in first:
                self._api.stop(container)
            self._api.remove(container)

        self._side_by_side(end, [container.id for container in containers])
        if self._project_id:
            labels = {identity.COMPOSE_LABEL: self._project_name, identity.PROJECT_LABEL: self._project_id}
            self._api.remove_networks(labels)
        return tuple(service.name for service in SERVICES if service.name in running)

    def rest(self, names: Collection[str]) -> tuple[str, ...]:
        """Stop containers, which stay."""
        running = [each for each in self._containers if each.state == "running" and each.service in names]
        self._side_by_side(self._api.stop, [container.id for container in running])
        return tuple(container.name for container in running)

    def wake(self, names: Collection[str]) -> None:
        """Start containers that `rest` has stopped, the databases first."""
        self._start_all([container for container in self._containers if container.name in names])

    def versions(self) -> dict[str, str]:
        """Return what the images say of themselves, in a variable or their tag."""
        images = {name: service["image"] for name, service in self._described.items()}
        versions = {}
        for name, service, variable in IMAGE_VERSIONS:
            said = self._api.image(images[service])[1].get(variable, "") or images[service].rpartition(":")[2]
            if match := re.match(r"\d+(\.\d+)*", said):
                versions[name] = match[0]
        return versions

    @cached_property
    def _described(self) -> dict[str, dict[str, Any]]:
        """Compose's own reading of the services. It asks for secrets, which come with the first start."""
        return self._compose.planned(dict.fromkeys(self._secrets, "-"))

    def services(self) -> tuple[Service, ...]:
        """Every service with the state of its container, and the one-shot service if it failed."""
        containers = self._seen = tuple(sorted(self._containers, key=lambda container: container.name))
        ports = self.ports()
        services: list[Service] = []
        for name in self._names:
            port = ports.get(name)
            own = [service_of(container, port) for container in containers if container.service == name]
            services += own or [Service(name=name, state="stopped", port=port)]
        services += [
            service_of(container, None)
            for container in containers
            if container.service == INIT and container.exit_code
        ]
        return tuple(services)

    def metadata_answers(self) -> bool:
        """As its container's health check told at the last look at the services."""
        return any(each.service == METADATA and each.health == HEALTHY for each in self._seen)

    @property
    def awaited(self) -> str:
        """The container that migrates."""
        is_initialising = any(each.service == INIT and each.pid for each in self._seen)
        return f"Waiting until {INIT} has made Airflow's metadata database ready" if is_initialising else ""

    def usage(self) -> dict[str, Usage]:
        """Ask for the statistics of each container."""
        running = (container for container in self._containers if container.pid)
        return {shown_name(each): used for each in running if (used := self._api.usage(each.id))}

    @property
    def memory_kind(self) -> str:
        """As `docker stats` has it."""
        return "without page cache"

    def holds(self, service: str, port: int) -> bool:
        """Whether a container of the service publishes the port."""
        return any(
            container.service == service and port in container.published.values()
            for container in self._containers
            if container.state == "running"
        )

    def _ports_in_use(self) -> dict[str, int]:
        return {
            container.service: next(iter(container.published.values()))
            for container in self._containers
            if container.published and container.state in {"running", RESTARTING}
        }

    def logins(self) -> tuple[DatabaseAddress, ...]:
        """Those of the metadata database and of MySQL's root too, in their containers."""
        inside = [("postgres", "airflow", "airflow", METADATA_PASSWORD)]
        if not self._settings.is_external("airbyte-mysql"):
            inside.append(("airbyte-mysql", "", "root", MYSQL_ROOT_PASSWORD))
        variables = self._settings.variables
        return (
            *super().logins(),
            *(
                DatabaseAddress(
                    service=service,
                    host=service,
                    port=0,
                    database=database,
                    user=user,
                    password=variables.get(variable, ""),
                    password_variable=variable,
                    mark=self._mark(service),
                )
                for service, database, user, variable in inside
            ),
        )

    def log_in(self, address: DatabaseAddress) -> None:
        """Log in, in the container to those that have no port."""
        if address.port:
            super().log_in(address)
        else:
            log_in(self._api.host, self._running_container(address.service).id, address)

    def _mark(self, service: str) -> str:
        del service
        return self._project_id

    def volumes(self) -> tuple[Volume, ...]:
        """Volumes that carry this project's label."""
        volumes = self._unmeasured_volumes()
        # Of all volumes of the engine, which takes it a while if there are many.
        sizes = self._api.volume_sizes() if volumes else {}
        return tuple(replace(volume, bytes=max(0, sizes.get(volume.location, 0))) for volume in volumes)

    def _unmeasured_volumes(self) -> tuple[Volume, ...]:
        volumes = (
            Volume(
                name=(answer.get("Labels") or {}).get(identity.VOLUME_LABEL) or answer["Name"],
                location=answer["Name"],
                created=datetime.fromisoformat(answer["CreatedAt"]),
                bytes=0,
            )
            for answer in identity.volumes(self._api, self._settings.variables)
        )
        return tuple(sorted(volumes, key=lambda volume: volume.name))

    def delete_volumes(self) -> None:
        """Delete the volumes that carry this project's label."""
        for volume in self._unmeasured_volumes():
            self._compose.remove_volume(volume.location)
        forget_engine(self._settings, self.name)

    def logs(self, services: tuple[str, ...], *, tail: int, follow: bool) -> Iterator[LogLine]:
        """Read the logs of containers through Compose."""
        wanted = [container for container in self._containers if shown_name(container) in services]
        if not wanted:
            return
        names = {container.name: shown_name(container) for container in wanted}
        chosen = list(dict.fromkeys(container.service for container in wanted))
        for container, text in self._compose.logs(chosen, tail=tail, follow=follow):
            name = names.get(container) or names.get(f"{self._project_name}-{container}")
            if name:
                yield LogLine(name, text)

    def started_with(self) -> dict[str, Mapping[str, str]]:
        """The variables that each of Airflow's containers was made with."""
        return {
            shown_name(container): container.environment
            for container in self._containers
            if container.pid and runs_airflow(container.service)
        }

    def tasks_api_problem(self) -> str:
        """Ask in each container that starts tasks: each has a network of its own."""
        service = "worker" if self._has_celery else "scheduler"
        containers = [each for each in self._containers if each.service == service and each.pid]
        if not containers:
            raise EngineError(f"{service} has no container that runs.", hint=SEE_SERVICES)
        for container in containers:
            code, said = self._api.run(container.id, ("python", "/opt/airflow/stack/tasks_api.py"))
            if code:
                return f"{shown_name(container)}: {said.strip() or f'exit code {code}'}"
        return ""

    def execute(self, service: str, words: tuple[str, ...], observer: Observer | None = None) -> int:
        """Run the program in the service's container."""
        del observer
        container = self._running_container(service)
        return execute(self._api.host, container.id, words_in_container(container.service, words))

    def tool(self, service: str, words: tuple[str, ...], observer: Observer) -> Command:
        """Return the tool in the database's container."""
        del observer
        container = self._running_container(service)
        docker = ("docker", "--host", self._api.host, "exec", "--interactive", container.id)
        return Command(
            (*docker, *words_in_container(service, words)), surroundings.of_docker(), self._settings.project
        )

    def _running_container(self, service: str) -> Container:
        container = next((each for each in self._containers if shown_name(each) == service), None)
        if container is None or container.state != "running":
            raise EngineError(f"{service} has no container that runs.", hint=SEE_SERVICES)
        return container

    def apart(
        self,
        program: str,
        words: tuple[str, ...],
        observer: Observer,
        pytest: Path | None = None,
        *,
        tolerant: bool = False,
    ) -> Command:
        """Return a container that is like the DAG processor's, and is removed at its end."""
        self.check(observer)
        # Before the first start there are no secrets, and Compose asks for them.
        service = self._compose.service("dag-processor", dict.fromkeys(self._secrets, "-"))
        self._pull((service["image"],), observer)
        volumes = {volume.name: volume.location for volume in self._unmeasured_volumes()}
        command = (program, *words)
        if tolerant:
            service["environment"][airflow_env.PROBLEM] = ""
        return docker_run(self._api.host, service, volumes, command, self._settings.project, pytest)

    def client(self, service: str, arguments: tuple[str, ...], observer: Observer) -> int:
        """Run the client in the database's container; this machine's for a database elsewhere."""
        if self._settings.is_external(service):
            from pipectl.engines import clients  # noqa: PLC0415  20 ms

            address = self._settings.database(service)
            prove(address)
            clients.run(self._settings, address, arguments, observer)
        return self.execute(service, (*CLIENTS[service], *arguments))

    def equivalent(self, action: str) -> tuple[str, ...]:
        """Return what a user would type to Docker for `up`, `down`, `down --volumes` or `reset`."""
        files = [path.relative_to(self._settings.project) for path in self._files]
        compose = " ".join(["docker compose", *(f"-f {path}" for path in files)])
        volumes = self._unmeasured_volumes() if action in {"down --volumes", "reset"} else ()
        # Before it has an identity, a copy's stack/.env may still name the original's containers.
        down = [f"{compose} down --remove-orphans"] if self._project_id else []
        remove = [f"docker volume rm {' '.join(volume.location for volume in volumes)}"] if volumes else []
        up = [f"{compose} up --detach --wait"]
        steps = {"up": up, "down": down, "down --volumes": down + remove, "reset": down + remove + up}
        return tuple(steps[action])

    @cached_property
    def _version(self) -> EngineVersion:
        return self._api.version()

    @property
    def _files(self) -> tuple[Path, ...]:
        names = ["docker-compose.yml"]
        if self._has_celery:
            names.append("docker-compose.celery.yml")
        if self._version.api < OLDEST_API:  # Podman's, after _check_engine
            names.append("docker-compose.podman.yml")
        return tuple(self._settings.project / "stack" / name for name in names)

    @property
    def _compose(self) -> Compose:
        # Compose reads them itself, but shows of a line that it refuses what may be a secret.
        airflow_env.read(self._settings.project, self._settings.variables)
        return Compose(self._api.host, self._project_name, self._files, self._settings.env_path)

    @property
    def _project_id(self) -> str:
        return identity.project_id(self._settings.variables)

    @property
    def _project_name(self) -> str:
        return identity.project_name(self._settings.variables)

    @property
    def _containers(self) -> tuple[Container, ...]:
        """The project's containers; none before it has an identity, so that a namesake's are left alone."""
        if not self._project_id:
            self._api.version()  # raises if the engine does not answer
            return ()
        return self._api.containers(identity.labels(self._settings.variables))

    def _listens(self, definition: Definition) -> bool:
        return super()._listens(definition) and definition.published

    def about(self) -> str:
        """Docker's or Podman's version and address."""
        self._check_engine()
        return (
            f"{'Podman' if self._version.is_podman else 'Docker'} {self._version.version} at {self._api.host}"
        )

    def compose_version(self) -> str:
        """Compose's version."""
        version = self._compose.version()
        require_compose(version)
        return version

    def software(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The images of the stack."""
        described = self._described.items()
        names = sorted({each["image"] for name, each in described if name in {*self._names, INIT}})
        lacking = tuple(name for name in names if not self._api.has_image(name))
        return tuple(name for name in names if name not in lacking), lacking

    def folders(self) -> tuple[Path, ...]:
        """Where the engine keeps volumes, if that is a folder of this machine."""
        folder = Path(str(self._api.get("/info").get("DockerRootDir") or ""))
        return (folder,) if folder.is_absolute() and folder.is_dir() else ()

    def clock_ahead(self) -> float | None:
        """How far the clock of the engine's machine is ahead of this one's."""
        before = time.time()
        told = datetime.fromisoformat(self._api.get("/info")["SystemTime"]).timestamp()
        return told - min(max(told, before), time.time())

    def check_mounts(self) -> None:
        """Raise EngineError if containers may not read what is mounted."""
        user = int(self._settings.variables.get(USER) or DEFAULT_USER)
        require_readable(self._settings.project, user, self._api.get("/info"))

    def leftovers(self) -> tuple[Leftover, ...]:
        """What interrupted commands have left, containers included."""
        once = [each for each in self._containers if each.labels.get(ONE_OFF_LABEL) == "True"]
        made = [each.name for each in self._containers if each.state == "created" and each not in once]
        found = [
            Leftover(
                f"the container {each.name} of an interrupted command", f"docker rm --force {each.name}", True
            )
            for each in once
        ]
        if made and any(each.pid for each in self._containers):
            found.append(Leftover(f"{', '.join(made)} was made and never started", "pipectl up"))
        return (*super().leftovers(), *found)

    def _check_engine(self) -> None:
        require_engine(self._version, has_celery=self._has_celery)

    @property
    def _secrets(self) -> Mapping[str, Callable[[], str]]:
        redis = {"AIRFLOW_REDIS_PASSWORD": new_password} if self._has_celery else {}
        return {**super()._secrets, MYSQL_ROOT_PASSWORD: new_password, **redis}

    def _require_identity(self) -> None:
        """Choose names before the first start."""
        if not self._project_id:
            self._configure(Observer())

    def _configure(self, observer: Observer) -> None:
        """Write what Compose needs to stack/.env: names, secrets, free ports, which databases run here."""
        changes = self._scales() | replacements.start_files(self._settings)
        if not self._project_id:
            names, others = identity.choose(self._api, self._settings.variables, self._claims)
            changes |= names
            if others:
                observer.report(
                    f"Another project on this machine uses {others}, so this one is "
                    f"{names[identity.PROJECT_NAME]!r}, with names of its own (remembered in stack/.env)"
                )
        self._fill_in_settings(observer, changes)

    def _require_replaceable(self, lost: tuple[str, ...], running: Collection[str]) -> None:
        volumes = self._unmeasured_volumes() if METADATA_PASSWORD in lost else ()
        if volume := next((volume for volume in volumes if volume.name == METADATA_VOLUME), None):
            raise EngineError(
                f"stack/.env has lost {METADATA_PASSWORD}, which Airflow's metadata database was made with.",
                hint="Put the file back.\nWithout it, Airflow's runs, connections and variables are lost, and"
                f" nothing else: pipectl down, docker volume rm {volume.location}, pipectl up",
            )
        super()._require_replaceable(lost, running)

    def _scales(self) -> dict[str, str]:
        """How many containers each business database has: none if stack/.env places it elsewhere.

        Raises UsageError for a host that is another place inside a container.
        """
        variables = self._settings.variables
        changes = {}
        for definition in business_databases():
            host, scale = f"{definition.prefix}_HOST", f"{definition.prefix}_SCALE"
            if variables.get(host, "").startswith(LOOPBACK):
                raise UsageError(
                    f"{host}={variables[host]} is another place inside a container.",
                    hint="Set it in stack/.env to an address that this machine and containers reach.",
                )
            wanted = "0" if self._settings.is_external(definition.name) else "1"
            if variables.get(scale, "1") != wanted:
                changes[scale] = wanted
        return changes

    def change_settings(self, changes: Mapping[str, str]) -> None:
        """Write variables to stack/.env, and go on with them, in the environment too."""
        super().change_settings(changes)
        # Compose takes a variable of the environment before that of the file.
        os.environ.update({name: value for name, value in changes.items() if name in os.environ})

    def _create(self) -> None:
        """Let Compose make the containers, and remove those of the other executor."""
        self._compose.create()
        surplus = [
            container.id for container in self._containers if container.service not in {*self._names, INIT}
        ]
        if surplus:
            self._compose.remove_containers(surplus)

    def _note_removed(self, before: Mapping[str, Container]) -> None:
        gone = before.keys() - {container.name for container in self._containers}
        self._removed += tuple(shown_name(before[name]) for name in sorted(gone) if before[name].pid)

    def _note_restarts(self, before: Mapping[str, Container], observer: Observer) -> None:
        """Say which of the containers that ran Compose has replaced, and stop those that this concerns."""
        now = self._containers
        found = replacements.find(before, now, airflow_env.user_settings(self._settings.project))
        for sentence in (*found.kept_sentences(), *restart_sentences(found.restarts)):
            observer.report(sentence)
        self._side_by_side(
            self._api.stop,
            [container.id for container in now if container.pid and container.service in found.restarts],
        )
        self._restarts |= found.restarts

    def _side_by_side(self, action: Callable[[str], None], ids: list[str]) -> None:
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  10 ms

        with ThreadPoolExecutor(max_workers=len(ids) or 1) as pool:
            list(pool.map(action, ids))

    def _start_all(self, containers: list[Container]) -> None:
        """Start containers side by side, the databases first, since all others wait for them.

        By the engine's API: a docker command for each costs 60 ms of CPU, just when there is none to spare.
        """
        first = [container.id for container in containers if container.service in databases()]
        others = [container.id for container in containers if container.service not in databases()]
        for ids in (first, others):
            self._side_by_side(self._api.start, ids)
