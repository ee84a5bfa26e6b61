"""A Docker engine that is not there: what it would answer, and pipectl's engine on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipectl.engines.docker.api import Container, EngineVersion
from pipectl.engines.docker.engine import DockerEngine
from pipectl.models import Usage
from pipectl.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

DOCKER = EngineVersion("26.1.5", (1, 45), (1, 24), is_podman=False)
PODMAN = EngineVersion("5.4.2", (1, 41), (1, 24), is_podman=True)


@dataclass
class FakeApi:
    """An engine with the containers, volumes and networks that it is given."""

    found: tuple[Container, ...] = ()
    names: dict[str, dict[str, str]] = field(default_factory=dict)
    volume_list: list[dict[str, Any]] = field(default_factory=list)
    network_names: tuple[str, ...] = ()
    host: str = "unix:///fake.sock"
    engine: EngineVersion = DOCKER
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)

    def version(self) -> EngineVersion:
        return self.engine

    def containers(self, _: dict[str, str]) -> tuple[Container, ...]:
        return self.found

    def usage(self, container: str) -> Usage | None:
        return Usage(1.5, 12_000_000) if container in {each.id for each in self.found if each.pid} else None

    def run(self, container: str, _: tuple[str, ...]) -> tuple[int, str]:
        return self.answers.get(container, (0, ""))

    def container_names(self) -> dict[str, dict[str, str]]:
        return self.names

    def volumes(self, _: dict[str, str] | None = None) -> list[dict[str, Any]]:
        return self.volume_list

    def volume_sizes(self) -> dict[str, int]:
        return {each["Name"]: 7 for each in self.volume_list}

    def networks(self, name: str) -> list[dict[str, Any]]:
        return [{"Name": each} for each in self.network_names if each == name]


def container(service: str, state: str = "running", **changes: Any) -> Container:
    values: dict[str, Any] = {
        "id": service,
        "name": f"pipectl-{service}-1",
        "service": service,
        "state": state,
        "exit_code": 0,
        "pid": 1 if state == "running" else None,
        "restarts": 0,
        "health": "",
        "labels": {},
    }
    return Container(**{**values, **changes})


def settings(folder: Path, engine: str = "auto", **variables: str) -> Settings:
    (folder / "stack").mkdir(exist_ok=True)
    return Settings(project=folder, engine=engine, cache_dir=folder / "cache", variables=variables)


def engine(folder: Path, *found: Container, **variables: str) -> DockerEngine:
    api: Any = FakeApi(found)
    return DockerEngine(settings(folder, PIPECTL_PROJECT_ID="me", **variables), api)
