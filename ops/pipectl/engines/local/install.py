"""Installing into the per-user cache by one process at a time, and running the tools that set things up."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipectl import surroundings
from pipectl.engines.local.privileges import drop_prefix
from pipectl.errors import EngineError, remedy
from pipectl.names import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from pipectl.observer import Show

    Report = Callable[[str], None]

MB = 1_000_000
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


def ignore(*_: object, **__: object) -> None:
    """Take what nobody wants to see."""


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
    command: tuple[str, ...],
    failure: EngineError,
    environment: Mapping[str, str] | None = None,
    *,
    folder: Path | None = None,
    watch: Callable[[str], None] = ignore,
) -> str:
    """Run an installer's command, in `folder`, and return its output; `watch` sees each line as it comes.

    `environment` is all that it gets; without it, what installers take from the caller.

    Raises:
        EngineError: `failure`, with the command's last lines as its detail.

    """
    code, output = follow_tool(command, failure, environment, folder=folder, watch=watch)
    if code != 0:
        failure.detail = last_lines(output)
        raise failure
    return output


def follow_tool(
    command: tuple[str, ...],
    failure: EngineError,
    environment: Mapping[str, str] | None = None,
    *,
    folder: Path | None = None,
    watch: Callable[[str], None] = ignore,
) -> tuple[int, str]:
    """Do as `run_tool` does, and return the exit code too; `failure` is for a command that is not there."""
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=surroundings.of_installers(LC_ALL="C") if environment is None else environment,
        )
    except OSError as error:
        failure.detail = f"{command[0]}: {error.strerror}"
        raise failure from error
    lines = []
    with process:
        for line in process.stdout or ():
            lines.append(line)
            watch(line)
    return process.returncode, "".join(lines)


class UvProgress:
    """Tells from the lines that uv writes how far an installation is."""

    def __init__(self, subject: str, show: Show) -> None:
        self._subject = subject
        self._show = show
        self._bytes: dict[str, float] = {}
        self._done: set[str] = set()

    def __call__(self, line: str) -> None:
        """Take in a line."""
        if found := re.match(r"Resolved (\d+) package", line):
            self._show(
                self._subject,
                f"downloading what is new of {counted(int(found[1]), 'package')}",
                milestone=True,
            )
        elif found := re.match(r"Downloading (\S+) \(([\d.]+)([KMG])iB\)", line):
            self._bytes[found[1]] = float(found[2]) * UNITS[found[3]]
            self._downloaded()
        elif found := re.match(r" Downloaded (\S+)", line):
            self._done.add(found[1])
            self._downloaded()
        elif found := re.match(r"Prepared (\d+) package", line):
            self._show(
                self._subject, f"installing {counted(int(found[1]), 'downloaded package')}", milestone=True
            )
        elif found := re.match(r"Installed (\d+) package", line):
            self._show(
                self._subject,
                f"{counted(int(found[1]), 'package')} installed, compiling them",
                milestone=True,
            )

    def _downloaded(self) -> None:
        """Show the large packages; uv says nothing of small ones."""
        total = sum(self._bytes.values())
        done = sum(count for name, count in self._bytes.items() if name in self._done)
        left = len(self._bytes.keys() - self._done)
        self._show(
            self._subject,
            f"downloaded {done / MB:.0f} of {total / MB:.0f} MB in large packages, {left} under way",
            milestone=False,
        )


def last_lines(text: str, count: int = 8) -> str:
    """Return the last lines of a command's output that hold something."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])


def run_server_tool(
    command: tuple[str, ...],
    environment: Mapping[str, str],
    failure: EngineError,
    data_dir: Path,
    statements: str = "",
    *,
    starter: tuple[str, ...] = (),
) -> None:
    """Run a server's own program on `data_dir` without root's rights, `statements` on its stdin.

    `starter` has its rights still, and replaces itself by the program.

    Raises:
        EngineError: `failure`, with the program's last lines as its detail.

    """
    done = subprocess.run(
        (*starter, *drop_prefix(data_dir), *command),
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
