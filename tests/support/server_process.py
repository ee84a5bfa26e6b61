"""What the tests of single servers share: start one as the supervisor does, and find a port for it."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
