"""Completion in real shells, on a terminal, as `--install-completion` has set them up."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import termios
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipectl import seen
from support.needs import need_program
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.integration
RUN = "manual__2026-11-26T15:18:19.123+00:00"
PROMPT = "READY>"
BIN = Path(sys.executable).parent
PROMPTS = {"bash": f"PS1='{PROMPT}'", "zsh": f"PS1='{PROMPT}'; unsetopt prompt_sp"}


class Terminal:
    """A shell on a terminal, in which keys are pressed."""

    def __init__(self, shell: str, home: Path, folder: Path, path: str) -> None:
        self._keys, there = pty.openpty()
        termios.tcsetwinsize(there, (50, 200))
        environment = {
            "PATH": path,
            "HOME": str(home),
            "TERM": "dumb",
            "LC_ALL": "C.UTF-8",
        }
        words = (need_program("shells", shell), "-i")
        self._process = subprocess.Popen(
            words,
            cwd=folder,
            env=environment,
            stdin=there,
            stdout=there,
            stderr=there,
            start_new_session=True,
        )
        os.close(there)
        os.set_blocking(self._keys, False)
        self.shown = ""

    def press(self, keys: str) -> None:
        os.write(self._keys, keys.encode())

    def shows(self, text: str) -> bool:
        with suppress(OSError):  # nothing to read now
            self.shown += os.read(self._keys, 65536).decode(errors="replace")
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[>=]|[\x07\x08\r]", "", self.shown)
        return text in plain

    def expect(self, text: str) -> None:
        try:
            until(lambda: self.shows(text), text)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.shown!r}") from None

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._keys)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "a project"
    for name in ("dags", "stack", ".pipectl"):
        (folder / name).mkdir(parents=True)
    document = {"dags": ["orders"], "runs": {"orders": [RUN]}, "tasks": {"orders": ["load[3]"]}}
    (folder / ".pipectl" / seen.FILE).write_text(json.dumps(document), encoding="utf-8")
    (folder / "answers.html").touch()
    return folder


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Home folders in which shells have completion switched on, by the documented command."""

    @cache
    def home_of(shell: str) -> Path:
        folder = tmp_path_factory.mktemp("home")
        environment = {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(folder)}
        done = subprocess.run(
            (need_program("shells", shell), "-c", f"pipectl --install-completion {shell}"),
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"{shell} completion installed" in done.stdout, done.stdout + done.stderr
        if shell in PROMPTS:
            with (folder / f".{shell}rc").open("a", encoding="utf-8") as file:
                file.write(f"\n{PROMPTS[shell]}\n")
        return folder

    return home_of


@pytest.fixture
def home(homes: Callable[[str], Path], shell: str) -> Path:
    return homes(shell)


@pytest.fixture
def terminal(shell: str, home: Path, project: Path) -> Iterator[Terminal]:
    opened = Terminal(shell, home, project, f"{BIN}:{os.environ['PATH']}")
    try:
        opened.expect(PROMPT)
        yield opened
    finally:
        opened.close()


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize(
    ("typed", "becomes"),
    [
        ("pipectl stat", "pipectl status "),
        ("pipectl --engine local logs sched", "pipectl --engine local logs scheduler "),
        ("pipectl verify-db --expect rec", "pipectl verify-db --expect reconciled "),
        ("pipectl verify-db --expect=rec", "pipectl verify-db --expect=reconciled "),
        ("pipectl task-log ord", "pipectl task-log orders "),
        ("pipectl task-log orders man", f"pipectl task-log orders {RUN} "),
        ("pipectl task-log orders manual__2026-11-26T15:1", f"pipectl task-log orders {RUN} "),
        ("pipectl report --html answ", "pipectl report --html answers.html "),
    ],
)
def test_tab_completes_a_word(terminal: Terminal, typed: str, becomes: str) -> None:
    terminal.press(f"{typed}\t")
    terminal.expect(f"{PROMPT}{becomes}")


@pytest.mark.parametrize("shell", ["fish"])
@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("pipectl stat", ["status"]),
        ("pipectl --engine local logs sched", ["scheduler"]),
        ("pipectl verify-db --expect rec", ["reconciled"]),
        ("pipectl verify-db --expect=rec", ["--expect=reconciled"]),
        ("pipectl task-log orders manual__2026-11-26T15:1", [RUN]),
        ("pipectl task-log orders latest ", ["load[3]"]),
        ("pipectl report --html answ", ["answers.html"]),
    ],
)
def test_fish_has_the_same_candidates(home: Path, project: Path, typed: str, found: list[str]) -> None:
    assert fish(home, project, typed, f"{BIN}:{os.environ['PATH']}") == found


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize("typed", [r"../a\ clone/pipectl", "~/pipectl"])
def test_a_pipectl_that_is_not_on_path_is_asked_itself(
    shell: str, typed: str, home: Path, project: Path
) -> None:
    for folder in (project.parent / "a clone", home):
        folder.mkdir(exist_ok=True)
        (folder / "pipectl").unlink(missing_ok=True)
        (folder / "pipectl").symlink_to(BIN / "pipectl")
    opened = Terminal(shell, home, project, "/usr/bin:/bin")
    try:
        opened.expect(PROMPT)
        opened.press(f"{typed} stat\t")
        opened.expect(f"{PROMPT}{typed} status ")
    finally:
        opened.close()


def fish(home: Path, project: Path, line: str, path: str) -> list[str]:
    """Return what fish completes a line with, and says."""
    done = subprocess.run(
        (need_program("shells", "fish"), "-c", 'complete --do-complete "$LINE"'),
        cwd=project,
        env={"PATH": path, "HOME": str(home), "LINE": line, "TERM": "dumb"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    return [*done.stdout.split("\n")[:-1], *done.stderr.splitlines()]


@pytest.mark.parametrize("shell", ["bash"])
def test_a_shell_is_not_disturbed_without_a_project(terminal: Terminal) -> None:
    terminal.press("cd /; pipectl trigger \t\t\x15echo do''ne\n")
    terminal.expect("done")
    assert "Traceback" not in terminal.shown
    assert "Error" not in terminal.shown
