"""A user's projects on this machine, of both engines, and how all of them are stopped.

Each is found by two signs at least: what runs, or the list of what was started, points to a folder, and the
folder's own files have to agree. What is left of a folder that is gone is named, and nothing of it is asked.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipectl import settings as project_settings
from pipectl.engines import registry
from pipectl.engines.choice import AUTO, ENGINES, unknown_engine
from pipectl.engines.docker.api import FOLDER_LABEL, DockerApi
from pipectl.engines.docker.engine import DockerEngine
from pipectl.engines.docker.identity import PROJECT_ID, PROJECT_LABEL
from pipectl.engines.local.engine import LocalEngine
from pipectl.engines.local.folders import disk_usage
from pipectl.engines.local.supervisor.supervisor import end_session, running_projects
from pipectl.errors import EngineError, PipectlError, UsageError
from pipectl.pipeline import lifecycle
from pipectl.pipeline.snapshot_store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from pipectl.engines.base import Engine
    from pipectl.engines.docker.api import Container
    from pipectl.engines.registry import Known

RUNNING, STOPPED, GONE, UNKNOWN = "running", "stopped", "gone", "unknown"


@dataclass(frozen=True)
class ListedProject:
    """A project on one engine; `state` is running, stopped, gone or unknown.

    `running` are its services that run, of `services` in all. A project is gone if its folder is not there,
    or is another project's by now: `left` then names its processes, containers and volumes. It is unknown if
    its engine does not answer. `folder` is null if nothing tells it, `bytes`, the size of its data, if that
    cannot be known. `snapshot_bytes` is the size of its snapshots, `since` when the service started that runs
    longest. `problem` is a sentence.
    """

    folder: Path | None
    engine: str
    state: str
    running: tuple[str, ...] = ()
    services: int = 0
    ports: dict[str, int] = field(default_factory=dict)
    bytes: int | None = None
    left: tuple[str, ...] = ()
    problem: str = ""
    snapshot_bytes: int | None = None
    since: datetime | None = None


@dataclass(frozen=True)
class CacheFolder:
    """What the projects of the local engine share."""

    folder: Path
    bytes: int


@dataclass(frozen=True)
class ProjectList:
    """Projects of a user by folder, and the cache that they share; `notes` are sentences."""

    projects: tuple[ListedProject, ...]
    cache: CacheFolder
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class StoppedProject:
    """A project and its services that ran until it was stopped."""

    folder: Path | None
    engine: str
    stopped: tuple[str, ...]


@dataclass(frozen=True)
class FailedProject:
    """A project that could not be stopped, and why."""

    folder: Path | None
    engine: str
    message: str
    hint: str


@dataclass(frozen=True)
class Found:
    """A project, and what stops it; None if nothing of it runs, or it has not proved to be this user's."""

    listed: ListedProject
    stop: Callable[[], tuple[str, ...]] | None = None


class OneLook(DockerApi):
    """The Docker engine, asked once for the sizes of all volumes, which it counts anew each time."""

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return super().volume_sizes()

    def volume_sizes(self) -> dict[str, int]:
        """Return what the first answer said."""
        return self._sizes


def listing(engine_name: str | None) -> ProjectList:
    """Return the projects of all engines, or of the one that is named. UsageError for one that is none."""
    found, notes = find(engine_name)
    folder = project_settings.cache_dir()
    return ProjectList(
        tuple(project.listed for project in found), CacheFolder(folder, disk_usage(folder)), notes
    )


def find(engine_name: str | None) -> tuple[list[Found], tuple[str, ...]]:
    """Return the projects with what stops them, and what could not be looked at."""
    if engine_name not in {None, AUTO, *ENGINES}:
        raise unknown_engine(str(engine_name))
    engines = [engine_name] if engine_name in ENGINES else list(ENGINES)
    known = [project for project in registry.known(project_settings.cache_dir()) if project.engine in engines]
    found: list[Found] = []
    notes: list[str] = []
    if "local" in engines:
        found += _local(known)
    if "docker" in engines:
        try:
            found += list(_docker(known))
        except EngineError as error:
            asked = [project for project in known if project.engine == "docker"]
            found += [Found(ListedProject(each.folder, "docker", UNKNOWN)) for each in asked]
            notes += [error.message] if asked else []
    return sorted(found, key=lambda each: (str(each.listed.folder or "~"), each.listed.engine)), tuple(notes)


def stop(project: Found) -> StoppedProject | FailedProject:
    """Stop a project and keep its data; an error is a result, so that others are stopped too."""
    listed = project.listed
    try:
        stopped = project.stop() if project.stop else ()
    except PipectlError as error:
        return FailedProject(listed.folder, listed.engine, error.message, error.hint)
    return StoppedProject(listed.folder, listed.engine, stopped)


def _local(known: list[Known]) -> Iterator[Found]:
    leaders = {folder: pid for pid, folder in running_projects()}
    remembered = {project.folder: project for project in known if project.engine == "local"}
    for folder in {*leaders, *remembered, *_here()}:
        leader = leaders.get(folder)
        if _is_project(folder):
            yield from _existing(folder, "local", is_seen=leader is not None)
        elif leader is not None:
            left = (f"supervisord, process {leader}, and what it runs",)
            yield Found(ListedProject(folder, "local", GONE, left=left), stop=partial(_end_processes, leader))
        elif _is_gone(folder) and folder in remembered:
            remembered[folder].file.unlink(missing_ok=True)


def _docker(known: list[Known]) -> Iterator[Found]:
    remembered = {project.project_id: project for project in known if project.engine == "docker"}
    api = OneLook()
    try:
        labels = list(api.container_names().values())
        volumes = api.volumes()
    except EngineError:
        if remembered:
            raise
        return  # without Docker there is nothing of it
    folders = {
        labels_of_one[PROJECT_LABEL]: Path(labels_of_one[FOLDER_LABEL]).parent
        for labels_of_one in labels
        if labels_of_one.get(PROJECT_LABEL) and labels_of_one.get(FOLDER_LABEL)
    }
    of_volumes = {(volume.get("Labels") or {}).get(PROJECT_LABEL) or "" for volume in volumes}
    seen = {*folders, *of_volumes} - {""}
    for project_id in sorted(seen):
        own = remembered.get(project_id)
        folder = own.folder if own and _is_project(own.folder) else folders.get(project_id)
        folder = folder or (own.folder if own else None)
        if (
            folder
            and _is_project(folder)
            and _has_id(folder, project_id, is_labelled=folder in folders.values())
        ):
            yield from _existing(folder, "docker", is_seen=False, api=api)
        elif folder is None or own or _is_gone(folder) or _is_readable(folder):
            yield _remains(api, project_id, folder, volumes, is_own=own is not None)
    for project_id in remembered.keys() - seen:
        if _is_gone(remembered[project_id].folder):
            remembered[project_id].file.unlink(missing_ok=True)


def _existing(
    folder: Path, engine_name: str, *, is_seen: bool, api: DockerApi | None = None
) -> Iterator[Found]:
    """Yield a project whose folder is there, if it has data or runs, which `is_seen` tells beforehand."""
    listed = ListedProject(folder, engine_name, RUNNING if is_seen else STOPPED)
    try:
        settings = project_settings.load(folder, engine_name)
        engine: Engine = DockerEngine(settings, api) if api else LocalEngine(settings)
        services, volumes = engine.services(), engine.volumes()
        running = tuple(service.name for service in services if service.state != "stopped")
        listed = replace(
            listed,
            state=RUNNING if running or is_seen else STOPPED,
            running=running,
            services=len(services),
            ports=engine.ports(),
            bytes=sum(volume.bytes for volume in volumes),
            snapshot_bytes=disk_usage(Store(settings).folder),
            since=min((each.started for each in services if each.started), default=None),
        )
        if is_seen and not running:
            listed = replace(
                listed, problem="Its supervisord runs, and cannot be asked: pipectl down ends it."
            )
        elif not (running or volumes):
            return
        stop = partial(_down, engine)
    except PipectlError as error:
        listed, stop = replace(listed, problem=error.message), partial(_fail, error)
    yield Found(listed, stop if listed.state == RUNNING else None)


def _remains(
    api: DockerApi, project_id: str, folder: Path | None, volumes: list[dict[str, Any]], *, is_own: bool
) -> Found:
    """Return what is left of a project without a folder; stopped are only containers of this user's own."""
    containers = api.containers({PROJECT_LABEL: project_id})
    names = [
        str(volume["Name"])
        for volume in volumes
        if (volume.get("Labels") or {}).get(PROJECT_LABEL) == project_id
    ]
    sizes = api.volume_sizes() if names else {}
    running = [container for container in containers if container.pid]
    left = [f"container {each.name}{'' if each.pid else ', stopped'}" for each in containers]
    left += [f"volume {name}" for name in names]
    listed = ListedProject(
        folder,
        "docker",
        GONE if folder else UNKNOWN,
        running=tuple(container.service for container in running),
        bytes=sum(max(0, sizes.get(name, 0)) for name in names),
        left=tuple(left),
    )
    return Found(listed, partial(_stop_containers, api, running) if running and is_own else None)


def _down(engine: Engine) -> tuple[str, ...]:
    return lifecycle.down(engine, delete_volumes=False)[0]


def _fail(error: PipectlError) -> tuple[str, ...]:
    raise error


def _end_processes(leader: int) -> tuple[str, ...]:
    if leader not in {pid for pid, _ in running_projects()}:
        return ()  # it has ended since it was found
    end_session(leader)
    return (f"process {leader} and what it ran",)


def _stop_containers(api: DockerApi, containers: list[Container]) -> tuple[str, ...]:
    for container in containers:
        api.stop(container.id)
    return tuple(container.service for container in containers)


def _here() -> set[Path]:
    """Return the project of the current folder, which may have been started before projects were listed."""
    with suppress(UsageError, OSError):
        return {project_settings.find_project(Path.cwd().resolve())}
    return set()


def _is_project(folder: Path) -> bool:
    try:
        return (folder / "dags").is_dir() and (folder / "stack").is_dir()
    except OSError:  # another user's
        return False


def _is_gone(folder: Path) -> bool:
    """Whether there certainly is no such folder: one that this user may not look at is another user's."""
    try:
        folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _is_readable(folder: Path) -> bool:
    """Whether the folder is a project of this user, whose stack/.env only its owner may read."""
    with suppress(OSError):
        project_settings.env_path(folder).read_bytes()
        return True
    return False


def _has_id(folder: Path, project_id: str, *, is_labelled: bool) -> bool:
    """Whether the folder's own settings name this id; settings without any have lost it."""
    try:
        own = project_settings.load(folder, "docker").variables.get(PROJECT_ID) or ""
    except PipectlError:
        own = ""
    return own == project_id or (not own and is_labelled and _is_readable(folder))
