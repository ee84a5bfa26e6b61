"""Single servers: started as the supervisor does, on a port that is free."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import psutil

from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from pipectl.engines.local.supervisor.program import Program


def start_program(program: Program, log: Path) -> subprocess.Popen[bytes]:
    """Start `program` in a session of its own; what it prints is appended to `log`."""
    with log.open("ab") as output:
        return subprocess.Popen(
            program.command,
            cwd=program.directory,
            env={"PATH": os.environ["PATH"], **program.environment},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until_it_answers(server: subprocess.Popen[bytes], connect: Callable[[], Any], log: Path) -> None:
    """Wait until a server lets `connect` in; fail with its log as soon as it has ended."""

    def answers() -> bool:
        assert server.poll() is None, log.read_text(encoding="utf-8", errors="replace")
        try:
            connect().close()
        except Exception:  # noqa: BLE001  two drivers' errors, all of which mean not yet
            return False
        return True

    until(answers, f"an answer of the server that writes {log}")


def listening_addresses(pids: Iterable[int]) -> set[tuple[str, int]]:
    """Return the addresses and ports on which processes listen; those of one that has ended are none."""
    found = set()
    for pid in pids:
        try:
            connections = psutil.Process(pid).net_connections("inet")
        except psutil.AccessDenied:
            continue  # Airflow's task workers hide theirs from all but root
        except psutil.NoSuchProcess:
            continue
        for connection in connections:
            if connection.status == psutil.CONN_LISTEN:
                found.add((connection.laddr.ip, connection.laddr.port))
    return found
