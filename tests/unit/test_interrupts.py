"""Ctrl-C ends a command, also if it comes when Python drops exceptions, unless the caller ignores Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from pipectl import cli
from pipectl.errors import ExitCode
from pipectl.invocation import Invocation

SWALLOWED = """
import os, signal, sys, time
from pipectl import cli

class Destructor:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)

def work():
    destructor = Destructor()
    del destructor
    time.sleep(float(sys.argv[1]))

cli.app = lambda **_: cli.run_guarded(work, cli.Console)
cli.main()
"""
IGNORED = """
import os, signal
from pipectl import cli

def work():
    os.kill(os.getpid(), signal.SIGINT)
    print("went on")

cli.app = lambda **_: cli.run_guarded(work, cli.Console)
cli.main()
"""

SIGNALLED = """
import os, sys
from pipectl import cli

def work():
    try:
        os.kill(os.getpid(), int(sys.argv[1]))
    finally:
        print("in good order")

cli.app = lambda **_: cli.run_guarded(work, cli.Console)
cli.main()
"""


@pytest.mark.parametrize("seconds_left", ["0", "60"])
def test_an_interrupt_that_a_destructor_swallows_comes_again(seconds_left: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWED, seconds_left],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert "Interrupted." in done.stderr


def test_a_command_in_the_background_of_a_shell_stays_deaf_to_ctrl_c() -> None:
    done = subprocess.run(
        ["sh", "-c", 'trap "" INT; exec "$0" -c "$1"', sys.executable, IGNORED],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_a_command_lets_it_end_in_good_order(number: signal.Signals) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(int(number))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "in good order\n", "")


@pytest.mark.parametrize(("command", "goes_on"), [("logs", False), ("status", False), ("up", True)])
def test_only_a_command_that_starts_something_says_that_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, command: str, *, goes_on: bool
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Invocation, "settings", property(interrupted))
    monkeypatch.setattr(Invocation, "engine", property(interrupted))
    done = CliRunner().invoke(cli.app, [command])
    assert done.exit_code == ExitCode.INTERRUPTED
    assert "Interrupted." in done.stderr
    assert ("What was started goes on" in done.stderr) == goes_on
    done = CliRunner().invoke(cli.app, [command, "--json"])
    assert (done.exit_code, done.stdout) == (ExitCode.INTERRUPTED, "")
    error = json.loads(done.stderr)["error"]
    assert (error["code"], error["kind"]) == (130, "interrupted")
    assert ("What was started goes on" in error["hint"]) == goes_on
