"""The Docker engine's API over its socket: what containers, volumes and networks there are, and their start.

A request takes a few milliseconds, a docker command 30 to 60 ms of processor time, which adds up while `up`
looks 10 times a second at containers that start on the same processors. All other changes go through Compose.
"""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import quote

from pipectl import json_text
from pipectl.engines.docker.connection import REQUEST_SECONDS, connect, find_host, no_engine, request
from pipectl.errors import EngineError
from pipectl.models import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Compose names the folder of its file here: stack/ of the project.
FOLDER_LABEL = "com.docker.compose.project.working_dir"
# The version of the API that the methods below are written for.
KNOWN_API = (1, 44)
PODMAN = "Podman Engine"
# A socket of systemd starts the engine at the first connection.
PING_SECONDS = 5.0
CHANGE_SECONDS = 150  # a worker gets 120 s for its tasks
PROGRAM_SECONDS = 60
HEADER_BYTES = 8
# How long a registry may be silent in the middle of a pull.
PULL_SECONDS = 300
SEE_SERVICES = "Look at its services and their logs: pipectl status, pipectl logs"
PULL_HINT = "Try it by hand: docker pull {image}."
MESSAGE_LENGTH = 300

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


@dataclass(frozen=True)
class EngineVersion:
    """What an engine says of itself; `api` and `oldest_api` are the versions of its API, as numbers."""

    version: str
    api: tuple[int, int]
    oldest_api: tuple[int, int]
    is_podman: bool


@dataclass(frozen=True)
class Container:
    """A container as the engine describes it.

    `service` is empty outside Compose, `image` is the image's digest, its name and `user` are as configured.
    """

    id: str
    name: str
    service: str
    state: str
    exit_code: int
    pid: int | None
    restarts: int
    health: str
    labels: dict[str, str]
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    image: str = ""
    image_name: str = ""
    started: datetime | None = None
    user: str = ""
    # Those of the container, each with the port of 127.0.0.1 that it is published on.
    published: dict[int, int] = field(default_factory=dict)
    networks: tuple[str, ...] = ()
    # What the latest health check printed.
    health_output: str = ""


def _understood(
    method: Callable[Concatenate[DockerApi, Parameters], Result],
) -> Callable[Concatenate[DockerApi, Parameters], Result]:
    """Turn an answer of another shape than an engine's into EngineError."""

    @wraps(method)
    def explained(api: DockerApi, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return method(api, *args, **kwargs)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise no_engine(api.host, repr(error)) from error

    return explained


class DockerApi:
    """The engine at `host`. Every method may raise EngineError."""

    def __init__(self, host: str | None = None) -> None:
        self._named_host = host
        self._inspected: dict[tuple[str, str], Container] = {}

    @cached_property
    def host(self) -> str:
        """The engine's address."""
        return self._named_host or find_host()

    def answers(self) -> bool:
        """Whether an engine answers that this user may use, and that runs on this machine."""
        try:
            return request(self.host, "/_ping", seconds=PING_SECONDS)[0] == http.client.OK
        except EngineError:
            return False

    @_understood
    def version(self) -> EngineVersion:
        """Version of the engine and of its API."""
        answer = _json(self.host, "/version", *request(self.host, "/version"))
        names = [part["Name"] for part in answer.get("Components") or ()]
        return EngineVersion(
            version=answer["Version"],
            api=_numbers(answer["ApiVersion"]),
            oldest_api=_numbers(answer.get("MinAPIVersion") or "0.0"),
            is_podman=PODMAN in names,
        )

    @_understood
    def containers(self, labels: dict[str, str]) -> tuple[Container, ...]:
        """Return all containers, stopped ones too, that carry `labels`."""
        containers: dict[tuple[str, str], Container] = {}
        for entry in self.get(f"/containers/json?all=1&filters={_filters(labels)}"):
            # The status names state and age ("Up 5 seconds"): while it stays the same, so does all the rest.
            key = (entry["Id"], entry["Status"])
            if not (container := self._inspected.get(key)):
                path = f"/containers/{entry['Id']}/json"
                status, body = self._request(path)
                if status == http.client.NOT_FOUND:
                    continue  # removed since it was listed
                container = _container(_json(self.host, path, status, body))
            containers[key] = container
        self._inspected = containers
        return tuple(containers.values())

    @_understood
    def container_names(self) -> dict[str, dict[str, str]]:
        """Return the labels of every container of this engine, by name."""
        return {
            name.lstrip("/"): entry.get("Labels") or {}
            for entry in self.get("/containers/json?all=1")
            for name in entry.get("Names") or ()
        }

    @_understood
    def published(self, port: int) -> dict[str, dict[str, str]]:
        """Return the labels of the containers that publish a port of this machine now, by name."""
        return {
            entry["Names"][0].lstrip("/"): entry.get("Labels") or {}
            for entry in self.get("/containers/json")
            if any(published.get("PublicPort") == port for published in entry.get("Ports") or ())
        }

    @_understood
    def reserved_ports(self, folder: str) -> set[int]:
        """Return the ports of running and restarting containers, but not of Compose's in `folder`."""
        ports: set[int] = set()
        for entry in self.get("/containers/json?all=1"):
            if (entry.get("Labels") or {}).get(FOLDER_LABEL) == folder:
                continue
            if entry.get("State") == "restarting":
                ports.update(_container(self.get(f"/containers/{entry['Id']}/json")).published.values())
            ports.update(
                published["PublicPort"] for published in entry.get("Ports") or () if "PublicPort" in published
            )
        return ports

    @_understood
    def volumes(self, labels: dict[str, str] | None = None) -> list[dict[str, Any]]:
        """Return the volumes that carry `labels`, all volumes without them."""
        return list(self.get(f"/volumes?filters={_filters(labels or {})}").get("Volumes") or ())

    @_understood
    def volume_sizes(self) -> dict[str, int]:
        """Return the bytes of every volume; the engine counts them, which takes a while for large ones."""
        usage = self.get("/system/df?type=volume").get("Volumes") or ()
        return {
            str(entry["Name"]): int(entry["UsageData"]["Size"]) for entry in usage if entry.get("UsageData")
        }

    @_understood
    def networks(self, name: str) -> list[dict[str, Any]]:
        """Return the networks of exactly this name."""
        filters = quote(json.dumps({"name": [name]}))
        return [network for network in self.get(f"/networks?filters={filters}") if network["Name"] == name]

    @_understood
    def usage(self, container: str) -> Usage | None:
        """Return what a container has used, as `docker stats` counts it; None if it does not run."""
        path = f"/containers/{container}/stats?stream=false&one-shot=true"
        status, body = self._request(path)
        if status in {http.client.NOT_FOUND, http.client.CONFLICT}:
            return None
        answer = _json(self.host, path, status, body)
        memory = answer.get("memory_stats") or {}
        if "usage" not in memory:
            return None
        pages = memory.get("stats") or {}
        # By the names of both versions of cgroups: page cache that the kernel takes back first.
        cache = pages.get("inactive_file", pages.get("total_inactive_file", 0))
        return Usage(answer["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9, max(0, memory["usage"] - cache))

    def has_image(self, name: str) -> bool:
        """Whether the image is on this machine."""
        return self._request(f"/images/{quote(name)}/json")[0] == http.client.OK

    @_understood
    def image(self, name: str) -> tuple[str, dict[str, str]]:
        """Return an image's id, empty if it is not on this machine, and the variables that it brings."""
        path = f"/images/{quote(name)}/json"
        status, body = self._request(path)
        if status == http.client.NOT_FOUND:
            return "", {}
        answer = _json(self.host, path, status, body)
        return answer["Id"], _variables(answer["Config"])

    def pull(self, name: str) -> Iterator[dict[str, Any]]:
        """Pull an image; yield what the engine tells of it, layer by layer.

        Raises EngineError with the engine's words as its detail.
        """
        repository, tag = name, ""
        if "@" not in name:
            repository, _, tag = (
                name.rpartition(":") if ":" in name.rsplit("/", 1)[-1] else (name, "", "latest")
            )
        failure = EngineError(f"The image {name} could not be pulled.", hint=PULL_HINT.format(image=name))
        query = f"fromImage={quote(repository, safe='')}&tag={quote(tag, safe='')}"
        path, connection = f"{self._prefix}/images/create?{query}", connect(self.host, PULL_SECONDS)
        try:
            connection.request("POST", path)
            response = connection.getresponse()
            if response.status != http.client.OK:
                failure.detail = _message(response.status, response.read())
                raise failure
            for line in response:
                event = json_text.parse(line)
                if event.get("error"):
                    failure.detail = str(event["error"])
                    raise failure
                yield event
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            failure.detail = str(error)
            raise failure from error
        finally:
            connection.close()

    def start(self, container: str) -> None:
        """Start a container by its id; EngineError, the engine's words as its detail, if it cannot."""
        self._change(f"/containers/{container}/start", "Docker could not start the stack.")

    def stop(self, container: str) -> None:
        """Stop a container by its id, after the time that Compose gives it; EngineError as above."""
        self._change(f"/containers/{container}/stop", "Docker could not stop a service.")

    def remove(self, container: str) -> None:
        """Remove a container by its id; its volumes stay. EngineError as above."""
        self._change(f"/containers/{container}?force=1", "Docker could not remove a container.", "DELETE")

    @_understood
    def remove_networks(self, labels: dict[str, str]) -> None:
        """Remove the networks that carry `labels`; one that another container is in stays."""
        for network in self.get(f"/networks?filters={_filters(labels)}"):
            if not self.get(f"/networks/{network['Id']}").get("Containers"):
                self._change(f"/networks/{network['Id']}", "Docker could not remove a network.", "DELETE")

    def put(self, container: str, folder: str, archive: bytes) -> None:
        """Unpack a tar archive in a folder of a container; EngineError as above."""
        path = f"/containers/{container}/archive?path={quote(folder)}"
        self._change(
            path, "Docker could not put a file into a container.", "PUT", ("application/x-tar", archive)
        )

    def archive(self, container: str, path: str) -> bytes:
        """Return a folder of a container as a tar archive; EngineError as above."""
        status, body = self._request(f"/containers/{container}/archive?path={quote(path)}")
        if status != http.client.OK:
            raise EngineError("Docker could not read a container's files.", detail=_message(status, body))
        return body

    @_understood
    def run(self, container: str, words: tuple[str, ...]) -> tuple[int, str]:
        """Run a program in a container by its id; return its exit code and what it has printed."""
        asked = {"Cmd": words, "AttachStdout": True, "AttachStderr": True}
        path = f"/containers/{container}/exec"
        status, body = self._request(path, "POST", content=_as_json(asked))
        if status != http.client.CREATED:
            raise EngineError(
                "Docker could not run a program in a container.",
                hint=SEE_SERVICES,
                detail=_message(status, body),
            )
        path = f"/exec/{json_text.parse(body)['Id']}"
        _, stream = self._request(f"{path}/start", "POST", PROGRAM_SECONDS, _as_json({"Detach": False}))
        return int(self.get(f"{path}/json")["ExitCode"]), _printed(stream)

    def _change(
        self, path: str, message: str, method: str = "POST", content: tuple[str, bytes] | None = None
    ) -> None:
        status, body = self._request(path, method, CHANGE_SECONDS, content)
        is_gone = method == "DELETE" and status == http.client.NOT_FOUND
        if status not in {http.client.OK, http.client.NO_CONTENT, http.client.NOT_MODIFIED} and not is_gone:
            raise EngineError(
                message,
                hint=SEE_SERVICES,
                detail=_message(status, body),
            )

    def get(self, path: str) -> Any:  # noqa: ANN401  any JSON value
        """Return the answer to a GET request."""
        return _json(self.host, path, *self._request(path))

    def _request(
        self,
        path: str,
        method: str = "GET",
        seconds: float = REQUEST_SECONDS,
        content: tuple[str, bytes] | None = None,
    ) -> tuple[int, bytes]:
        return request(self.host, f"{self._prefix}{path}", method=method, seconds=seconds, content=content)

    @cached_property
    def _prefix(self) -> str:
        """The API's version in front of every path, so that a newer engine answers in the form known here."""
        version = self.version()
        return "/v{}.{}".format(*max(min(KNOWN_API, version.api), version.oldest_api))


def _json(host: str, path: str, status: int, body: bytes) -> Any:  # noqa: ANN401  any JSON value
    if status != http.client.OK:
        raise EngineError(f"The Docker engine at {host} refused a request ({path}): {_message(status, body)}")
    try:
        return json_text.parse(body)
    except ValueError as error:
        raise no_engine(host, _message(status, body)) from error


def _message(status: int, body: bytes) -> str:
    """Return what the engine says of a request that it refused, in one line."""
    try:
        text = str(json_text.parse(body)["message"])
    except (ValueError, LookupError, TypeError):
        text = body.decode(errors="replace")
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return line[:MESSAGE_LENGTH] or f"HTTP status {status}"


def _as_json(value: object) -> tuple[str, bytes]:
    return "application/json", json.dumps(value).encode()


def _printed(stream: bytes) -> str:
    """Return what a program has printed: before each part stand its stream and its length, in 8 bytes."""
    parts, start = [], HEADER_BYTES
    while start <= len(stream):
        end = start + int.from_bytes(stream[start - 4 : start])
        parts.append(stream[start:end])
        start = end + HEADER_BYTES
    return b"".join(parts).decode(errors="replace")


def _numbers(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def _filters(labels: dict[str, str]) -> str:
    return quote(json.dumps({"label": [f"{name}={value}" for name, value in labels.items()]}))


def _container(answer: dict[str, Any]) -> Container:
    state, labels = answer["State"], answer["Config"].get("Labels") or {}
    health = state.get("Health") or {}
    checks = health.get("Log") or [{}]
    return Container(
        id=answer["Id"],
        name=answer["Name"].lstrip("/"),
        service=labels.get("com.docker.compose.service", ""),
        state=state["Status"],
        exit_code=state["ExitCode"],
        pid=state["Pid"] or None,
        restarts=answer.get("RestartCount", 0),
        health=health.get("Status", ""),
        health_output=str(checks[-1].get("Output") or "").strip(),
        labels=labels,
        environment=_variables(answer["Config"]),
        image=answer.get("Image", ""),
        image_name=answer["Config"].get("Image", ""),
        started=datetime.fromisoformat(state["StartedAt"]) if state["Pid"] else None,
        user=answer["Config"].get("User") or "",
        published=_ports(answer.get("HostConfig", {}).get("PortBindings") or {}),
        networks=tuple(answer.get("NetworkSettings", {}).get("Networks") or ()),
    )


def _variables(configuration: dict[str, Any]) -> dict[str, str]:
    return dict(line.split("=", 1) for line in configuration.get("Env") or () if "=" in line)


def _ports(bindings: dict[str, list[dict[str, str]] | None]) -> dict[int, int]:
    return {
        int(name.split("/")[0]): int(published[0]["HostPort"])
        for name, published in bindings.items()
        if published and published[0].get("HostPort", "").isdecimal()
    }
