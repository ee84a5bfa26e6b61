"""A program that is forked from another one is supervised as any other, and may start by itself too."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from pipectl.engines.local.supervisor.program import Program
from pipectl.engines.local.supervisor.supervisor import Supervisor
from support import ROOT
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process adopt another"),
]

# As the launcher does: one imports, and serves whoever has asked meanwhile.
SERVICE = """\
import os, select, sys, time
environment = dict(os.environ)
sys.path.insert(0, {folder!r})
import forks
if sys.argv[1] == "parent":
    while not os.path.exists(sys.argv[2]):
        time.sleep(0.01)
    # Airflow takes seconds to import; the other has asked by then.
    select.select([int(number) for number in [environment.get("PIPECTL_FORKS")] if number], [], [], 5)
    if sys.argv[3:]:
        sys.exit(1)
    description = forks.serve(environment)
    kind = "forked" if description else "parent"
    print(kind, *sys.argv[1:], os.getcwd(), os.environ.get("WHO"), flush=True)
else:
    print("alone", flush=True)
time.sleep(600)
"""


class Stack:
    """A supervisor, and two programs of which one may be forked from the other once `import_ends`."""

    def __init__(self, folder: Path) -> None:
        self.supervisor = Supervisor(folder / ".pipectl")
        self.supervisor.state_dir.mkdir()
        self.script, self.imported = folder / "service.py", folder / "imported"
        self.script.write_text(SERVICE.format(folder=str(ROOT / "stack" / "airflow")), encoding="utf-8")
        self.folder = folder

    def start(self, *options: str, who: str = "both") -> None:
        command = (sys.executable, "-P", str(self.script))
        elsewhere = self.folder / "elsewhere"
        elsewhere.mkdir()
        words = (*command, "parent", str(self.imported), *options)
        parent = Program("parent", words, self.folder, {"WHO": "both"}, stop_seconds=2, forks=True)
        child = Program(
            "child", (*command, "child"), elsewhere, {"WHO": who}, stop_seconds=2, forked_from="parent"
        )
        self.supervisor.launch([parent, child])
        for name in ("parent", "child"):
            self.supervisor.start(name)
        until((self.supervisor.run_dir / "child.started").exists, "the child's start")

    def import_ends(self) -> None:
        self.imported.touch()

    def pid(self, name: str = "child") -> int:
        return next(process.pid or 0 for process in self.supervisor.processes() if process.name == name)

    def log(self) -> str:
        path = self.supervisor.log_path("child")
        return path.read_text() if path.exists() else ""


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    found = Stack(tmp_path)
    yield found
    found.supervisor.shutdown()


@pytest.fixture
def forked(stack: Stack) -> Stack:
    stack.start()
    asking = stack.pid()
    stack.import_ends()
    until(lambda: "forked" in stack.log() and stack.pid() != asking, "an adopted fork")
    return stack


def test_a_fork_has_its_own_process_folder_log_and_variables(forked: Stack) -> None:
    assert forked.log() == f"forked child {forked.folder / 'elsewhere'} both\n"
    process = psutil.Process(forked.pid())
    assert process.ppid() == forked.supervisor.pid()
    assert os.getpgid(process.pid) == process.pid
    assert os.getsid(process.pid) == forked.supervisor.pid()
    assert forked.supervisor.log_path("parent").read_text().startswith("parent")
    program = Program("child", ("another",), forked.folder)
    assert forked.supervisor.changes(program, process.pid, ())


@pytest.mark.parametrize("killed", ["child", "parent"])
def test_a_fork_and_what_it_was_forked_from_outlive_each_other(forked: Stack, killed: str) -> None:
    before = {name: forked.pid(name) for name in ("child", "parent")}
    os.kill(before[killed], signal.SIGKILL)
    until(lambda: forked.pid(killed) not in {0, before[killed]}, "another process")
    other = ({"child", "parent"} - {killed}).pop()
    assert forked.pid(other) == before[other]


def test_a_fork_that_is_killed_starts_by_itself(forked: Stack) -> None:
    os.kill(forked.pid(), signal.SIGKILL)
    until(lambda: forked.log().endswith("alone\n"), "a child that imports by itself")


def test_a_fork_is_stopped(forked: Stack) -> None:
    process = psutil.Process(forked.pid())
    forked.supervisor.stop(["child"])
    assert not process.is_running()
    assert forked.pid("parent")


def test_nothing_is_left_of_a_fork_whose_program_was_stopped_while_it_waited(stack: Stack) -> None:
    stack.start()
    stack.supervisor.stop(["child"])
    stack.import_ends()
    until(lambda: stack.supervisor.log_path("parent").read_text().startswith("parent"), "the parent's work")
    session = stack.supervisor.pid()
    until(
        lambda: {process.pid for process in psutil.Process(session).children()} == {stack.pid("parent")},
        "no other process",
    )


@pytest.mark.parametrize(("options", "who"), [(("fail",), "both"), ((), "another")])
def test_what_cannot_be_forked_starts_by_itself(stack: Stack, options: tuple[str, ...], who: str) -> None:
    stack.start(*options, who=who)
    asking = stack.pid()
    stack.import_ends()
    until(lambda: stack.log() == "alone\n", "a child that imports by itself")
    assert stack.pid() == asking
