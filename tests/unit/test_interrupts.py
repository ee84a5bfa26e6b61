"""Ctrl-C ends a command, also where it comes at a moment in which Python drops exceptions."""

from __future__ import annotations

import subprocess
import sys

SWALLOWED = """
import os, signal, time
from pipectl import cli

class Destructor:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)

def work():
    destructor = Destructor()
    del destructor
    time.sleep(30)

cli.app = lambda: cli.run_guarded(work, cli.Console)
cli.main()
"""


def test_an_interrupt_that_a_destructor_swallows_comes_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWED], capture_output=True, text=True, timeout=20, check=False
    )
    assert "Interrupted." in done.stderr
