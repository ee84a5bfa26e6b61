"""How the local engine ends processes that are not its children."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil

from pipectl.engines.local import processes

if TYPE_CHECKING:
    import pytest

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
