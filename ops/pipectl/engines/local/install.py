"""Installing into the per-user cache by one process at a time, and running the tools that set things up."""

from __future__ import annotations

import fcntl
import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipectl import surroundings
from pipectl.engines.local.privileges import drop_prefix
from pipectl.errors import EngineError, remedy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    Report = Callable[[str], None]


@contextmanager
def install_lock(cache_dir: Path, what: str, report: Report) -> Iterator[None]:
    """Let one process at a time install `what`; the others wait, and `report` says so.

    Look again for an installed `what` inside the block: another process may have finished it meanwhile.

    Raises:
        EngineError: the cache folder cannot be written.

    """
    path = cache_dir / f"{what}.lock"
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise EngineError(
            f"The cache folder {cache_dir} cannot be written: {error.strerror}.",
            hint=f"{remedy(error, cache_dir)} PIPECTL_CACHE_DIR names another folder.",
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"Waiting for another pipectl that installs {what}")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def run_tool(
    command: tuple[str, ...], failure: EngineError, environment: Mapping[str, str] | None = None
) -> str:
    """Run an installer's command and return its output.

    `environment` is all that it gets; without it, what installers take from the caller.

    Raises:
        EngineError: `failure`, with the command's last lines as its detail.

    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            env=surroundings.of_installers(LC_ALL="C") if environment is None else environment,
        )
    except OSError as error:
        failure.detail = f"{command[0]}: {error.strerror}"
        raise failure from error
    if done.returncode != 0:
        failure.detail = last_lines(done.stdout)
        raise failure
    return done.stdout


def last_lines(text: str, count: int = 8) -> str:
    """Return the last lines of a command's output that hold something."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])


def run_server_tool(
    command: tuple[str, ...], environment: Mapping[str, str], failure: EngineError, statements: str = ""
) -> None:
    """Run a server's own program without root's rights, `statements` on its stdin.

    Raises:
        EngineError: `failure`, with the program's last lines as its detail.

    """
    done = subprocess.run(
        (*drop_prefix(), *command),
        input=statements,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        env=surroundings.environment(**environment) | {"LC_ALL": "C", "TZ": "UTC"},
    )
    if done.returncode != 0:
        failure.detail = last_lines(done.stdout)
        raise failure


def one_line(text: str) -> str:
    """Return a name or password as it is; EngineError if it breaks the line, which ends a statement."""
    if "\n" in text or "\0" in text:
        raise EngineError(
            "A database's name, user or password holds a line break.", hint="Correct it in stack/.env."
        )
    return text
