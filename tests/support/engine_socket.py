"""Small servers on a UNIX socket, in the place of a Docker engine."""

from __future__ import annotations

import json
import socketserver
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

DOCKER = {"Version": "26.1.5", "ApiVersion": "1.45", "MinAPIVersion": "1.24"}
OLD_DOCKER = {"Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12"}
PODMAN = {
    "Version": "5.4.2",
    "ApiVersion": "1.41",
    "MinAPIVersion": "1.24",
    "Components": [{"Name": "Podman Engine", "Version": "5.4.2"}, {"Name": "Conmon"}],
}


def http(body: object, status: str = "200 OK") -> bytes:
    """Return an answer whose body is bytes as they are, or any other value as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(content), content)


@contextmanager
def listening(path: Path, answer: Callable[[socket.socket, str], None]) -> Iterator[list[str]]:
    """Have `answer` write to each connection, given the path asked for; yield all paths asked for."""
    asked: list[str] = []

    class Connection(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            words = self.rfile.readline().split()
            length = 0
            while header := self.rfile.readline().strip():
                name, _, value = header.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            self.rfile.read(length)
            if words:
                asked.append(words[1].decode())
                answer(self.connection, asked[-1])

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: Any) -> None:
            """Say nothing of a client that left."""

    with Server(str(path), Connection) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield asked
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def sending(path: Path, *parts: bytes) -> Iterator[list[str]]:
    """Send the same to every request, and hang up."""
    with listening(path, lambda connection, _: connection.sendall(b"".join(parts))) as asked:
        yield asked


@contextmanager
def engine(
    path: Path, version: object = DOCKER, answers: dict[str, bytes] | None = None
) -> Iterator[list[str]]:
    """Be an engine of this version. `answers` has an answer for each path, without version and query."""

    def answer(connection: socket.socket, asked: str) -> None:
        name = asked.partition("?")[0]
        plain = "/" + name.split("/", 2)[2] if name.startswith("/v1.") else name
        known = {"/_ping": http(b"OK"), "/version": http(version), **(answers or {})}
        connection.sendall(known.get(plain, http({"message": "page not found"}, "404 Not Found")))

    with listening(path, answer) as asked:
        yield asked
