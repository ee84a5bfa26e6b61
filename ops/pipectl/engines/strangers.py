"""Who listens on a port of this machine, in the words of a message."""

from __future__ import annotations

from pipectl.engines.docker.api import FOLDER_LABEL, DockerApi
from pipectl.engines.local.processes import Listener, listeners
from pipectl.engines.local.supervisor.supervisor import project_of_session
from pipectl.errors import EngineError


def describe(port: int) -> str:
    """Return who listens on the port of 127.0.0.1, and for which project; empty if nobody is seen."""
    found = listeners(port)
    own = next((listener for listener in found if listener.pid), None)
    project = project_of_session(own.pid) if own and own.pid else None
    if own and project:
        return f"{_process(own)} of the project {project}"
    if container := _container(port):
        return container
    if own:
        return _process(own)
    return "a process of another user" if found else ""


def _process(listener: Listener) -> str:
    return f"process {listener.pid} ({listener.name})"


def _container(port: int) -> str:
    try:
        api = DockerApi()
        containers = api.published(port) if api.answers() else {}
    except EngineError:
        return ""
    for name, labels in containers.items():
        folder = labels.get(FOLDER_LABEL, "")
        project = f" of the project {folder.removesuffix('/stack')}" if folder else ""
        return f"the container {name}{project}"
    return ""
