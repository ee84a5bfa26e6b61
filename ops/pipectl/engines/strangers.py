"""Who listens on a port of this machine, in the words of a message."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pipectl.engines.docker.api import FOLDER_LABEL, DockerApi
from pipectl.engines.local.processes import Listener, listeners
from pipectl.engines.local.supervisor.supervisor import project_of_session
from pipectl.errors import EngineError


class Holder(NamedTuple):
    """Who listens on a port, in words, and the project that it belongs to, if it does to one."""

    who: str
    project: Path | None = None

    def __str__(self) -> str:
        """Name both."""
        return f"{self.who} of the project {self.project}" if self.project else self.who


def describe(port: int) -> str:
    """Return who listens on the port of 127.0.0.1, and for which project; empty if nobody is seen."""
    return str(find(port) or "")


def find(port: int) -> Holder | None:
    """Return who listens on the port of 127.0.0.1; None if nobody is seen."""
    found = listeners(port)
    own = next((listener for listener in found if listener.pid), None)
    project = project_of_session(own.pid) if own and own.pid else None
    if own and project:
        return Holder(_process(own), project)
    if container := _container(port):
        return container
    if own:
        return Holder(_process(own))
    return Holder("a process of another user") if found else None


def _process(listener: Listener) -> str:
    return f"process {listener.pid} ({listener.name})"


def _container(port: int) -> Holder | None:
    try:
        api = DockerApi()
        containers = api.published(port) if api.answers() else {}
    except EngineError:
        return None
    for name, labels in containers.items():
        folder = labels.get(FOLDER_LABEL, "")
        return Holder(f"the container {name}", Path(folder.removesuffix("/stack")) if folder else None)
    return None
