"""A program that listens on a project's port and passes everything on to a port of another project."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def forwarding(port: int, target: int) -> Iterator[None]:
    """Listen on 127.0.0.1:`port`, which must become free, and forward to `target` for the time of a block."""
    listener = until(lambda: _listener(port), f"port {port} to be free")
    assert listener
    threading.Thread(target=_accept, args=(listener, target), daemon=True).start()
    try:
        yield
    finally:
        # Ends a thread that waits in accept, which a mere close does not.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _listener(port: int) -> socket.socket | None:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(16)
    except OSError:
        listener.close()
        return None
    return listener


def _accept(listener: socket.socket, target: int) -> None:
    while True:
        try:
            client, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", target))
        except OSError:
            return
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=_copy, args=(source, sink), daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return
