"""How a service of Airflow ends when its start, or its end, fails."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SERVICE = """\
import os, signal
import launcher

def start(*_arguments, with_shortcuts):
    print("with" if with_shortcuts else "without", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: None)
    if not os.fork():
        # A task that is ended is no service that is.
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    os.wait()
    {action}
    raise RuntimeError("the database is gone")

launcher.start = start
launcher.main("scheduler")
"""


def run(folder: Path, action: str) -> subprocess.CompletedProcess[str]:
    program = folder / "service.py"
    program.write_text(SERVICE.format(action=action), encoding="utf-8")
    return subprocess.run(
        [sys.executable, program],
        env=os.environ | {"PYTHONPATH": str(ROOT / "stack" / "airflow")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_service_that_fails_soon_starts_once_more_without_shortcuts(tmp_path: Path) -> None:
    done = run(tmp_path, "")
    assert done.stdout.split() == ["with", "without"]
    assert done.returncode == 1
    assert "starting again without shortcuts after RuntimeError('the database is gone')" in done.stderr


def test_a_service_that_was_told_to_end_does_not_start_again(tmp_path: Path) -> None:
    done = run(tmp_path, "os.kill(os.getpid(), signal.SIGTERM)")
    assert done.stdout.split() == ["with"]
    assert done.returncode == 0
    assert done.stderr == "pipectl launcher: told to end, did so with RuntimeError('the database is gone')\n"


ENDING = """\
import atexit, sys, threading, time
import launcher

class Freed:
    def __del__(self):
        print("freed", flush=True)

kept = Freed()
atexit.register(print, "connections closed")
if sys.argv[1:]:
    threading.Thread(target=lambda: (time.sleep(0.2), print("work done"))).start()
launcher.end_at_once()
"""


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [((), ["connections closed"]), (("working",), ["work done", "connections closed", "freed"])],
)
def test_a_service_that_ends_does_what_is_due_and_frees_nothing_unless_a_thread_works(
    tmp_path: Path, arguments: tuple[str, ...], shown: list[str]
) -> None:
    program = tmp_path / "ending.py"
    program.write_text(ENDING, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, program, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT / "stack" / "airflow")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == shown
