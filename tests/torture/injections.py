"""What is done to a stack: each function injects one kind of fault, and takes it away again."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipectl.settings import cache_dir
from support import ROOT
from support.docker_project import docker
from support.stacks import ALL
from support.waiting import pass_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.stacks import DockerStack, LocalStack, Stack

CLOCK = Path(__file__).with_name("clock.c")
DISK_BYTES = 2_000_000_000
GARBAGE = b"\xff\x00garbage"
# Folders of the cache that other tests make, and no stack uses.
OTHERS_CACHES = "airflow-test-*"


def stop(stack: Stack, name: str, seconds: float) -> None:
    """Stop a victim as a suspended machine does."""
    with stack.stopped(name):
        pass_time(seconds)


def send(number: signal.Signals, command: subprocess.Popen[str] | None) -> None:
    """Send a signal to pipectl itself."""
    assert command
    command.send_signal(number)


def keep_busy(processes: int, seconds: float) -> None:
    """Use the machine's processors as a heavy build does."""
    busy = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(processes)]
    try:
        pass_time(seconds)
    finally:
        for process in busy:
            process.kill()
            process.wait()


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a small file system at `folder`, so that it can be filled."""
    folder.mkdir(parents=True, mode=0o700)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "pipectl", folder], check=True
    )
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill_disk(stack: LocalStack, seconds: float) -> None:
    """Write a file until the disk is full, most of it in one step: a command's moment is short."""
    filler = stack.project.folder / ".pipectl" / "filler"
    disk = os.statvfs(filler.parent)
    try:
        with filler.open("wb", buffering=0) as file:
            try:
                os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - (4 << 20))
                file.seek(0, os.SEEK_END)
                while True:
                    file.write(bytes(1 << 20))
            except OSError:
                pass_time(seconds)
    finally:
        filler.unlink()


def forbid_writing(folder: Path, seconds: float) -> None:
    """Make a folder read-only, also for root; what is open already can still be written to."""
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        pass_time(seconds)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def garble_all(stack: LocalStack) -> None:
    """Put what nobody wrote into every file of the supervisor's folder, and end everything."""
    paths = [path for path in (stack.project.folder / ".pipectl" / "run").iterdir() if path.is_file()]
    stack.kill(ALL)
    for number, path in enumerate(paths):
        path.write_bytes((b"", GARBAGE, b"{}")[number % 3])


def damage(stack: LocalStack, path: Path, content: bytes) -> None:
    """Put something else into a file under the running stack, which `down` must find nevertheless."""
    path.write_bytes(content)
    stack.project.run("down")
    assert not stack.project.processes()


def halve_cache(stack: LocalStack) -> None:
    """Give the stopped stack a copy of the cache, in which half of all files are missing."""
    stack.project.run("down")
    copy = stack.project.folder / "cache"
    shutil.copytree(cache_dir(), copy, symlinks=True, ignore=shutil.ignore_patterns(OTHERS_CACHES))
    os.environ["PIPECTL_CACHE_DIR"] = str(copy)
    files = sorted(path for path in copy.rglob("*") if path.is_file() and not path.is_symlink())
    for path in random.Random(0).sample(files, len(files) // 2):  # noqa: S311  no secret
        path.unlink()


class Clock:
    """The wall clock of a local stack and of the commands that ask it, and of nothing else on the machine."""

    def __init__(self, stack: LocalStack) -> None:
        self._stack = stack

    @contextmanager
    def own(self) -> Iterator[None]:
        """Start the stack anew with a clock of its own, for the time of a block."""
        with tempfile.TemporaryDirectory(dir="/tmp") as folder:
            # Servers that dropped privileges read it too.
            Path(folder).chmod(0o755)
            self._shift = Path(folder) / "shift"
            self.jump(0)
            library = Path(folder) / "clock.so"
            options = ("-shared", "-fPIC", "-O2", f'-DSHIFT="{self._shift}"', "-o", library)
            subprocess.run(["cc", *options, CLOCK], check=True)
            self._restart(str(library))
            try:
                yield
            finally:
                # The machine's own time again, which is a jump to the other side.
                self.jump(0)
                self._restart(None)

    def jump(self, seconds: int) -> None:
        """Set how far the clock is ahead."""
        with self._shift.open("r+b" if self._shift.exists() else "wb", buffering=0) as file:
            file.write(seconds.to_bytes(8, "little", signed=True))

    def jump_for(self, ahead: int, seconds: float) -> None:
        """Jump, and after a while back to the machine's own time."""
        self.jump(ahead)
        pass_time(seconds)
        self.jump(0)

    def _restart(self, library: str | None) -> None:
        self._stack.project.run("down")
        if library is None:
            del os.environ["LD_PRELOAD"]
        else:
            os.environ["LD_PRELOAD"] = library
        self._stack.project.run("up")


def cut_off(stack: DockerStack, name: str, seconds: float) -> None:
    """Take a service's container out of its networks, and put it back under the same names."""
    networks = [
        (network, container, found["Aliases"] or ())
        for container in stack.containers(name)
        for network, found in json.loads(
            docker("inspect", "--format", "{{json .NetworkSettings.Networks}}", container)
        ).items()
    ]
    for network, container, _ in networks:
        docker("network", "disconnect", network, container)
    try:
        pass_time(seconds)
    finally:
        for network, container, names in networks:
            aliases = [word for alias in names for word in ("--alias", alias)]
            docker("network", "connect", *aliases, network, container)


def end_engine(state: Path) -> None:
    """Kill a Docker engine that tests/torture/own-engine started, and start it as an init system would."""
    os.kill(int((state / "docker.pid").read_text(encoding="ascii")), signal.SIGKILL)
    subprocess.run([ROOT / "tests" / "images" / "start-engine.sh"], check=True, stdout=subprocess.DEVNULL)
