"""The Docker engine's API over its socket: what containers, volumes and networks there are, and their start.

A request takes a few milliseconds, a docker command 30 to 60 ms of processor time, which adds up while `up`
looks 10 times a second at containers that start on the same processors. All other changes go through Compose.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from pipectl.errors import EngineError

DEFAULT_HOST = "unix:///var/run/docker.sock"
# Compose names the folder of its file here: stack/ of the project.
FOLDER_LABEL = "com.docker.compose.project.working_dir"
CONNECT_SECONDS = 1.0
START_SECONDS = 60
REQUEST_SECONDS = 30.0
NEAR = {"", "localhost", "127.0.0.1", "::1"}
WITHOUT_DOCKER = "Or run the stack without Docker: pipectl --engine local up"


@dataclass(frozen=True)
class Container:
    """A container as the engine describes it; `service` is empty outside Compose."""

    id: str
    name: str
    service: str
    state: str
    exit_code: int
    pid: int | None
    restarts: int
    health: str
    labels: dict[str, str]
    # Those of the container, each with the port of 127.0.0.1 that it is published on.
    ports: dict[int, int] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    networks: tuple[str, ...] = ()


def find_host() -> str:
    """Return the engine's address as the docker client finds it: DOCKER_HOST, then the current context."""
    if host := os.environ.get("DOCKER_HOST"):
        return host
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        context = os.environ.get("DOCKER_CONTEXT") or config.get("currentContext") or "default"
        if context == "default":
            return DEFAULT_HOST
        digest = hashlib.sha256(str(context).encode()).hexdigest()
        meta = json.loads((folder / "contexts" / "meta" / digest / "meta.json").read_text(encoding="utf-8"))
        return str(meta["Endpoints"]["docker"]["Host"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return DEFAULT_HOST


class DockerApi:
    """The engine at `host`. Every method may raise EngineError."""

    def __init__(self, host: str | None = None) -> None:
        self.host = host or find_host()
        self._inspected: dict[tuple[str, str], Container] = {}

    def answers(self) -> bool:
        """Whether an engine answers that this user may use, and that runs on this machine."""
        try:
            return self._request("/_ping", CONNECT_SECONDS)[0] == http.client.OK
        except (EngineError, OSError, http.client.HTTPException):
            return False

    def version(self) -> dict[str, Any]:
        """Version of the engine and of its API."""
        version: dict[str, Any] = self.get("/version")
        return version

    def containers(self, labels: dict[str, str]) -> tuple[Container, ...]:
        """Return all containers, stopped ones too, that carry `labels`."""
        containers: dict[tuple[str, str], Container] = {}
        for entry in self.get(f"/containers/json?all=1&filters={_filters(labels)}"):
            # The status names state and age ("Up 5 seconds"): while it stays the same, so does all the rest.
            key = (entry["Id"], entry["Status"])
            try:
                containers[key] = self._inspected.get(key) or _container(
                    self.get(f"/containers/{entry['Id']}/json")
                )
            except EngineError:
                continue  # removed since it was listed
        self._inspected = containers
        return tuple(containers.values())

    def container_names(self) -> dict[str, dict[str, str]]:
        """Return the labels of every container of this engine, by name."""
        return {
            name.lstrip("/"): entry.get("Labels") or {}
            for entry in self.get("/containers/json?all=1")
            for name in entry.get("Names") or ()
        }

    def published(self, port: int) -> dict[str, dict[str, str]]:
        """Return the labels of the containers that publish a port of this machine now, by name."""
        return {
            entry["Names"][0].lstrip("/"): entry.get("Labels") or {}
            for entry in self.get("/containers/json")
            if any(published.get("PublicPort") == port for published in entry.get("Ports") or ())
        }

    def reserved_ports(self, folder: str) -> set[int]:
        """Return the ports of running and restarting containers, but not of Compose's in `folder`."""
        ports: set[int] = set()
        for entry in self.get("/containers/json?all=1"):
            if (entry.get("Labels") or {}).get(FOLDER_LABEL) == folder:
                continue
            if entry.get("State") == "restarting":
                ports.update(_container(self.get(f"/containers/{entry['Id']}/json")).ports.values())
            ports.update(
                published["PublicPort"] for published in entry.get("Ports") or () if "PublicPort" in published
            )
        return ports

    def volumes(self, labels: dict[str, str] | None = None) -> list[dict[str, Any]]:
        """Return the volumes that carry `labels`, all volumes without them."""
        return list(self.get(f"/volumes?filters={_filters(labels or {})}").get("Volumes") or ())

    def volume_sizes(self) -> dict[str, int]:
        """Return the bytes of every volume; the engine counts them, which takes a while for large ones."""
        usage = self.get("/system/df?type=volume").get("Volumes") or ()
        return {
            str(entry["Name"]): int(entry["UsageData"]["Size"]) for entry in usage if entry.get("UsageData")
        }

    def networks(self, name: str) -> list[dict[str, Any]]:
        """Return the networks of exactly this name."""
        filters = quote(json.dumps({"name": [name]}))
        return [network for network in self.get(f"/networks?filters={filters}") if network["Name"] == name]

    def has_image(self, name: str) -> bool:
        """Whether the image is on this machine."""
        return self._explained(f"/images/{name}/json")[0] == http.client.OK

    def start(self, container: str) -> None:
        """Start a container by its id; EngineError, the engine's words as its detail, if it cannot."""
        status, body = self._explained(f"/containers/{container}/start", "POST", START_SECONDS)
        if status not in {http.client.NO_CONTENT, http.client.NOT_MODIFIED}:
            raise EngineError(
                "Docker could not start the stack.",
                hint="Look at its services and their logs: pipectl status, pipectl logs",
                detail=_message(body),
            )

    def get(self, path: str) -> Any:  # noqa: ANN401  any JSON value
        """Return the answer to a GET request."""
        status, body = self._explained(path)
        if status != http.client.OK:
            raise EngineError(
                f"The Docker engine at {self.host} refused a request ({path}): {_message(body)}"
            )
        return json.loads(body)

    def _explained(
        self, path: str, method: str = "GET", seconds: float = REQUEST_SECONDS
    ) -> tuple[int, bytes]:
        try:
            return self._request(path, seconds, method)
        except PermissionError as error:
            raise EngineError(
                f"This user may not use the Docker engine at {self.host}.",
                hint=f"Join its group: sudo usermod -aG docker $USER, then log in again. {WITHOUT_DOCKER}",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(
                f"No Docker engine answers at {self.host}.",
                hint=f"Start it (Docker Desktop, or: sudo systemctl start docker). {WITHOUT_DOCKER}",
                detail=str(error),
            ) from error

    def _request(self, path: str, seconds: float, method: str = "GET") -> tuple[int, bytes]:
        connection = self._connection(seconds)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _connection(self, seconds: float) -> http.client.HTTPConnection:
        parts = urlsplit(self.host)
        if parts.scheme == "unix":
            return _UnixConnection(parts.path, seconds)
        if parts.scheme in {"tcp", "http"} and (parts.hostname or "") in NEAR:
            return http.client.HTTPConnection(
                parts.hostname or "127.0.0.1", parts.port or 2375, timeout=seconds
            )
        raise EngineError(
            f"The Docker engine at {self.host} is not on this machine, whose folders the stack mounts.",
            hint=f"Unset DOCKER_HOST, or run: docker context use default. {WITHOUT_DOCKER}",
        )


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("docker", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _message(body: bytes) -> str:
    """Return what the engine says of a request that it refused."""
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace").strip()


def _filters(labels: dict[str, str]) -> str:
    return quote(json.dumps({"label": [f"{name}={value}" for name, value in labels.items()]}))


def _container(answer: dict[str, Any]) -> Container:
    state, labels = answer["State"], answer["Config"].get("Labels") or {}
    return Container(
        id=answer["Id"],
        name=answer["Name"].lstrip("/"),
        service=labels.get("com.docker.compose.service", ""),
        state=state["Status"],
        exit_code=state["ExitCode"],
        pid=state["Pid"] or None,
        restarts=answer.get("RestartCount", 0),
        health=(state.get("Health") or {}).get("Status", ""),
        labels=labels,
        ports=_ports(answer.get("HostConfig", {}).get("PortBindings") or {}),
        environment=dict(line.split("=", 1) for line in answer["Config"].get("Env") or () if "=" in line),
        networks=tuple(answer.get("NetworkSettings", {}).get("Networks") or ()),
    )


def _ports(bindings: dict[str, list[dict[str, str]] | None]) -> dict[int, int]:
    return {
        int(name.split("/")[0]): int(published[0]["HostPort"])
        for name, published in bindings.items()
        if published and published[0].get("HostPort", "").isdecimal()
    }
