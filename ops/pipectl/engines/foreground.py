"""Programs beside the stack: those with the user's terminal, or the ends of a pipe, and one that is read."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from pipectl.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

# Python ignores these, and a program would inherit that: `yes | head` would end with a message.
IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
# How a user, or who runs pipectl, ends a program.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SIGNALLED = 128  # and the signal's number: the exit code of what a signal ends


@dataclass(frozen=True)
class Command:
    """A program with its words, all of its variables, and the folder that it starts in."""

    words: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    folder: Path


def outcome(command: Command) -> subprocess.CompletedProcess[str]:
    """Run a program without stdin, and return its exit code and what it has printed.

    Raises EngineError if it cannot be started.
    """
    try:
        return subprocess.run(
            command.words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            env=dict(command.environment),
            cwd=command.folder,
        )
    except OSError as error:
        raise EngineError(f"{command.words[0]} cannot be started: {error.strerror}.") from error


def become(words: tuple[str, ...], environment: Mapping[str, str], folder: Path | None = None) -> NoReturn:
    """Replace this process by a program, in `folder`: terminal, signals and exit code are then its own.

    Raises EngineError if it cannot be started.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    before = {number: signal.signal(number, signal.SIG_DFL) for number in IGNORED_BY_PYTHON}
    try:
        if folder is not None:
            os.chdir(folder)
        os.execvpe(words[0], words, environment)  # noqa: S606  no shell is wanted
    except OSError as error:
        for number, handler in before.items():
            signal.signal(number, handler)
        raise EngineError(f"{shlex.quote(words[0])} cannot be started: {error.strerror}.") from error


def attend(words: tuple[str, ...], environment: Mapping[str, str], end: Callable[[int], None]) -> int:
    """Run a program beside this process, and return its exit code.

    `end` is called with the number of a signal that this process gets, or that ended the program itself.
    Raises FileNotFoundError if there is no such program.
    """
    sys.stdout.flush()
    with _calling(end), subprocess.Popen(words, env=environment) as process:
        code = process.wait()
    if code >= 0:
        return code
    end(-code)
    return SIGNALLED - code


@contextmanager
def _calling(end: Callable[[int], None]) -> Iterator[None]:
    """Call `end` for each signal to end; one that is ignored, as in a shell's background, stays so."""
    before = {number: signal.getsignal(number) for number in ENDING}
    chosen = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in chosen:
        signal.signal(number, lambda number, _frame: end(number))
    try:
        yield
    finally:
        for number, handler in chosen.items():
            signal.signal(number, handler)
