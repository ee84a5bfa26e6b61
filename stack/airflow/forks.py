"""One import of Airflow for two services: the DAG processor is a fork of the scheduler.

Importing takes each of them three seconds of CPU, and the modules are the same; a fork shares their memory
too. It is made once the scheduler has imported, and before it does anything else.

The local engine alone asks for it. Its start_program.py listens on a socket on behalf of the scheduler, and
asks there on behalf of the DAG processor; whatever goes wrong, both start as they do without it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from typing import Any

# The socket that start_program.py listens on.
DESCRIPTOR = "PIPECTL_FORKS"
# So long a path of a description, and an answer, can be.
MESSAGE_BYTES = 8192
ANSWER_SECONDS = 5
STREAMS = (0, 1, 2)


def serve(environment: dict[str, str]) -> dict[str, Any] | None:
    """Fork whoever has asked for it by now; return the fork's description in the fork, None in this process.

    `environment` is what this process was started with, which a fork has in common with it.
    """
    number = os.environ.pop(DESCRIPTOR, "")
    if not number:
        return None
    with socket.socket(fileno=int(number)) as listener:
        listener.setblocking(False)
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return None
            with connection:
                try:
                    description = answer(connection, environment)
                except (OSError, ValueError, KeyError, TypeError) as error:
                    sys.stderr.write(f"pipectl launcher: could not fork: {error!r}\n")
                    continue
            if description is not None:
                return description


def answer(connection: socket.socket, environment: dict[str, str]) -> dict[str, Any] | None:
    """Fork for one who asks, if it would be started with the same command and environment."""
    connection.settimeout(ANSWER_SECONDS)
    path, streams, *_ = socket.recv_fds(connection, MESSAGE_BYTES, len(STREAMS))
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123  bytes, as they came
            description: dict[str, Any] = json.load(file)
        variables = {name: environment.get(name) for name in description["environment"]}
        own = [sys.executable, "-P", os.path.abspath(sys.argv[0])]  # noqa: PTH100  links stay
        is_alike = description["command"][:3] == own and description["environment"] == variables
        if not is_alike or len(streams) != len(STREAMS) or threading.active_count() > 1:
            return None
        # Collections of the fork, or of this process, would write to what the two share.
        gc.freeze()
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.fork()
        if parent:
            os.waitpid(parent, 0)
            return None
        if os.fork():
            os._exit(0)  # the other is now a child of supervisord, which adopts it
        become(description, streams, connection)
        return description
    finally:
        for descriptor in streams:
            with suppress(OSError):
                os.close(descriptor)


def become(description: dict[str, Any], streams: list[int], connection: socket.socket) -> None:
    """Be the process that a description is of; end if whoever asked for it has ended meanwhile."""
    try:
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        for descriptor, number in zip(streams, STREAMS, strict=True):
            os.dup2(descriptor, number)
        os.chdir(description["directory"])
        os.environ.clear()
        os.environ.update(description["environment"])
        sys.argv = list(description["command"][2:])
        connection.sendall(str(os.getpid()).encode())
        if not connection.recv(1):
            os._exit(1)
    except BaseException:  # noqa: BLE001  no second scheduler, whatever happens
        os._exit(1)
    # Which this process has from its parent.
    with suppress(Exception):
        importlib.import_module("setproctitle").setproctitle(" ".join(description["command"]))
