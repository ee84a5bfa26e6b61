"""The way to the Docker engine: its address, and one request at a time over its socket.

Whatever answers there, or does not, ends as an EngineError that says what was seen.
"""

from __future__ import annotations

import grp
import hashlib
import http.client
import os
import pwd
import socket
import stat
import threading
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

from pipectl import json_text
from pipectl.errors import EngineError, EngineSilentError

DEFAULT_HOST = "unix:///var/run/docker.sock"
REQUEST_SECONDS = 30.0
PROBE_SECONDS = 1.0
MOST_BYTES = 64 * 2**20
PORT = 2375
DEFAULT_CONTEXT = "default"
LOOPBACK = ("127.", "::1")
WITHOUT_DOCKER = "Or run the stack without Docker: pipectl --engine local up"
LET_IN_BY_GROUP = stat.S_IRGRP | stat.S_IWGRP
# Where other engines listen: `~` is the home folder, `$RUN` the user's XDG_RUNTIME_DIR.
OTHER_SOCKETS = (
    "$RUN/docker.sock",  # rootless Docker
    "$RUN/podman/podman.sock",
    "~/.docker/run/docker.sock",  # Docker Desktop on macOS
    "~/.docker/desktop/docker.sock",  # Docker Desktop on Linux
    "~/.colima/default/docker.sock",
    "~/.orbstack/run/docker.sock",
    "~/.rd/docker.sock",  # Rancher Desktop
    "/run/podman/podman.sock",
)


def find_host() -> str:
    """Return the engine's address as the docker client finds it: DOCKER_HOST, then the current context.

    Raises EngineError for a context that is not there: another engine in its place would be the wrong one.
    """
    if host := os.environ.get("DOCKER_HOST"):
        return host
    folder = _client_folder()
    context = os.environ.get("DOCKER_CONTEXT") or _current_context(folder / "config.json")
    if context == DEFAULT_CONTEXT:
        return DEFAULT_HOST
    path = folder / "contexts" / "meta" / hashlib.sha256(context.encode()).hexdigest() / "meta.json"
    choose = "run: docker context use NAME"
    if os.environ.get("DOCKER_CONTEXT"):
        choose = "set DOCKER_CONTEXT to one of them, or unset it"
    hint = f"Look at docker context ls, then {choose}. {WITHOUT_DOCKER}"
    try:
        return str(json_text.parse(path.read_text(encoding="utf-8"))["Endpoints"]["docker"]["Host"])
    except FileNotFoundError as error:
        raise EngineError(
            f"There is no Docker context {context!r} in {folder / 'contexts'}.", hint=hint
        ) from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise EngineError(
            f"{path} does not say where the engine of the Docker context {context!r} is.",
            hint=hint,
            detail=repr(error),
        ) from error


def request(
    host: str,
    path: str,
    *,
    method: str = "GET",
    seconds: float = REQUEST_SECONDS,
    content: tuple[str, bytes] | None = None,
) -> tuple[int, bytes]:
    """Return status and body of the answer to one request; `content` is what it sends, after its type.

    Raises EngineSilentError after `seconds`, also where the answer comes drop by drop.
    """
    connection = connect(host, seconds)
    opened = connection.sock
    is_late = threading.Event()

    def give_up() -> None:
        is_late.set()
        with suppress(OSError):
            opened.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    what = f"{method} {path.partition('?')[0]}"
    hint = f"Look whether it still works: docker info. {WITHOUT_DOCKER}"
    error: Exception | None = None
    status, answer = 0, b""
    try:
        status, answer = _answer(connection, method, path, content)
    except (OSError, http.client.HTTPException, ValueError) as caught:
        error = caught
    finally:
        timer.cancel()
        connection.close()
    if is_late.is_set() or isinstance(error, TimeoutError):
        raise EngineSilentError(
            f"The Docker engine at {host} did not answer within {seconds:g} s ({what}).", hint=hint
        ) from error
    if isinstance(error, ConnectionError | http.client.IncompleteRead):
        raise EngineError(
            f"The Docker engine at {host} broke off its answer ({what}).", hint=hint, detail=repr(error)
        ) from error
    if error:
        raise no_engine(host, repr(error)) from error
    if status == http.client.BAD_REQUEST and b"HTTPS server" in answer:
        raise _wants_tls(host)
    return status, answer


def _answer(
    connection: http.client.HTTPConnection, method: str, path: str, content: tuple[str, bytes] | None
) -> tuple[int, bytes]:
    if content:
        connection.request(method, path, content[1], {"Content-Type": content[0]})
    else:
        connection.request(method, path)
    response = connection.getresponse()
    answer = response.read(MOST_BYTES + 1)
    if len(answer) > MOST_BYTES:
        raise http.client.HTTPException(f"an answer of more than {MOST_BYTES} bytes")
    if response.length:  # read() does not mind a body that ends before its length
        raise http.client.IncompleteRead(answer[:0], response.length)
    return response.status, answer


def connect(host: str, seconds: float) -> http.client.HTTPConnection:
    """Return an open connection to the engine at `host`, whose every step may take `seconds`."""
    connection = _connection(host, seconds)
    try:
        connection.connect()
    except PermissionError as error:
        raise EngineError(
            f"This user may not use the Docker engine at {host}.",
            hint=f"{_how_to_be_let_in(host)}{WITHOUT_DOCKER}",
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a path that no socket can have
        others = [found for found in _other_sockets() if found != host]
        start = "Start it (Docker Desktop, or: sudo systemctl start docker)."
        chosen = ""
        if host == os.environ.get("DOCKER_HOST"):
            chosen, start = ", which DOCKER_HOST names", "Start it, set DOCKER_HOST to another, or unset it."
        raise EngineError(
            f"No Docker engine answers at {host}{chosen}.",
            hint=f"{f'Use the one that is there: export DOCKER_HOST={others[0]}.' if others else start} "
            f"{WITHOUT_DOCKER}",
            detail=str(error),
        ) from error
    return connection


def _leave_it() -> str:
    """Return how to leave the engine that was chosen, by what has chosen it; empty if nothing has."""
    if chosen := next((name for name in ("DOCKER_HOST", "DOCKER_CONTEXT") if os.environ.get(name)), ""):
        return f"Unset {chosen}. "
    has_context = _current_context(_client_folder() / "config.json") != DEFAULT_CONTEXT
    return f"Leave its context: docker context use {DEFAULT_CONTEXT}. " if has_context else ""


def no_engine(host: str, detail: str) -> EngineError:
    """Return the error for something else than an engine that answers at `host`."""
    return EngineError(
        f"What answers at {host} is no Docker engine.",
        hint=f"{_leave_it()}{WITHOUT_DOCKER}",
        detail=detail,
    )


def no_docker_command() -> EngineError:
    """Return the error for an engine without the docker command."""
    return EngineError(
        "An engine answers, but the docker command is not installed.",
        hint=f"Install it (Debian: apt install docker-cli). {WITHOUT_DOCKER}",
    )


def _wants_tls(host: str) -> EngineError:
    return EngineError(
        f"The Docker engine at {host} wants TLS, which pipectl does not speak.",
        hint=f"Name a socket of this machine: export DOCKER_HOST={DEFAULT_HOST}. {WITHOUT_DOCKER}",
    )


def _client_folder() -> Path:
    """Return the folder of the docker client's settings."""
    return Path(os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"))  # noqa: PTH111  there may be no home


def _current_context(path: Path) -> str:
    # Of a file that it cannot read the docker client too uses nothing.
    return str(json_text.read_object(path).get("currentContext") or DEFAULT_CONTEXT)


def _connection(host: str, seconds: float) -> http.client.HTTPConnection:
    hint = f"{_leave_it()}{WITHOUT_DOCKER}"
    scheme, separator, path = host.partition("://")
    if scheme == "unix":
        return _UnixConnection(path, seconds)
    try:
        parts = urlsplit(host)
        name, port = parts.hostname or "127.0.0.1", parts.port or PORT
    except ValueError as error:
        raise EngineError(f"{host} is no address of a Docker engine: {error}.", hint=hint) from error
    if not separator or scheme not in {"tcp", "http", "https", "ssh"}:
        raise EngineError(
            f"{host} is no address of a Docker engine that pipectl can use: unix:// or tcp://.", hint=hint
        )
    if scheme != "ssh" and (name == "localhost" or name.startswith(LOOPBACK)):
        if scheme == "https":
            raise _wants_tls(host)
        return http.client.HTTPConnection(name, port, timeout=seconds)
    raise EngineError(
        f"The Docker engine at {host} is not on this machine, whose folders the stack mounts.", hint=hint
    )


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("docker", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _how_to_be_let_in(host: str) -> str:
    """Return what opens the socket to this user, if its owner and mode tell."""
    try:
        status = Path(host.partition("://")[2]).stat()
        group, owner = grp.getgrgid(status.st_gid).gr_name, pwd.getpwuid(status.st_uid).pw_name
    except (OSError, KeyError, ValueError):
        return ""
    if status.st_gid and status.st_mode & LET_IN_BY_GROUP == LET_IN_BY_GROUP:
        return f"Join the socket's group: sudo usermod -aG {group} $USER, then log in again. "
    return f"The socket is for the user {owner} alone. "


def _other_sockets() -> list[str]:
    """Return the addresses of OTHER_SOCKETS on which something listens that this user may use."""
    run = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    listening = []
    for path in OTHER_SOCKETS:
        socket_path = os.path.expanduser(path.replace("$RUN", run))  # noqa: PTH111  there may be no home
        with suppress(OSError, ValueError), closing(_UnixConnection(socket_path, PROBE_SECONDS)) as probe:
            probe.connect()
            listening.append(f"unix://{socket_path}")
    return listening
