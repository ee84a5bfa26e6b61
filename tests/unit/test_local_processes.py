"""How the local engine ends processes, its children or not."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from pipectl.engines.local import processes
from pipectl.engines.local.supervisor.supervisor import Supervisor
from pipectl.engines.project import write_private

if TYPE_CHECKING:
    from pathlib import Path

# It starts a child, says which, and never asks how that ended.
PARENT = """\
import subprocess, sys
child = subprocess.Popen(["sleep", "1000"])
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_a_process_has_ended_although_its_parent_does_not_ask_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[list[psutil.Process]] = []
    monkeypatch.setattr(processes, "kill", killed.append)
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        processes.end([child])
        assert (killed, child.status()) == ([[]], psutil.STATUS_ZOMBIE)
        parent.communicate()


def test_what_does_not_heed_a_signal_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "END_SECONDS", 0)
    # The line says that it ignores the signal by now.
    script = "trap '' TERM; echo; exec sleep 1000"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE) as stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        processes.end([psutil.Process(stubborn.pid)])
        assert stubborn.wait() == -signal.SIGKILL


def test_a_program_that_has_ended_by_itself_is_stopped_once_supervisord_has_started_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """supervisord says EXITED for some milliseconds; whoever waited for the end looks just then."""
    states = {"scheduler": ["EXITED", "EXITED", "STARTING"], "webserver": ["RUNNING"]}

    def call(_: Supervisor, method: str, *arguments: object) -> Any:
        if method == "stopProcess":
            states[str(arguments[0])][:] = ["STOPPING", "STOPPED"]
            return True
        assert method == "getAllProcessInfo"
        now = {name: left.pop(0) if len(left) > 1 else left[0] for name, left in states.items()}
        return [
            {"name": name, "statename": state, "pid": 0, "spawnerr": "", "description": "", "start": 0}
            for name, state in now.items()
        ]

    monkeypatch.setattr(Supervisor, "_call", call)
    supervisor = Supervisor(tmp_path)
    supervisor.stop(["scheduler", "webserver"])
    assert [process.state for process in supervisor.processes()] == ["STOPPED", "STOPPED"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such table")
def test_who_listens_is_seen_without_psutil(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as own, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in (own, silent)]
        with monkeypatch.context() as without:
            without.setitem(sys.modules, "psutil", None)
            assert processes.listening(dict.fromkeys(ports, os.getpid())) == {ports[0]}
            assert processes.listens(os.getpid(), ports[0])
            assert processes.listening({ports[0]: os.getppid()}) == set()
        assert not processes.listens(os.getpid(), ports[1])


def test_a_description_that_is_replaced_is_read_again(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    supervisor.run_dir.mkdir()
    for port in (5432, 5433, None):
        write_private(supervisor._description_path("postgres"), json.dumps({"port": port}))
        assert [supervisor.port("postgres") for _ in range(2)] == [port, port]
    supervisor._description_path("postgres").unlink()
    assert supervisor.port("postgres") is None
