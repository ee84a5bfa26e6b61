"""The table of faults, and the situations that they come in."""

from __future__ import annotations

import os
import signal
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from support.stacks import ALL, ALONE, TASKS, DockerStack, LocalStack
from torture import injections

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from support.stacks import Stack

Command: TypeAlias = "subprocess.Popen[str] | None"

# What goes on when a fault comes: nothing, or this command.
SITUATIONS: dict[str, tuple[str, ...]] = {
    "idle": (),
    "trigger": ("trigger", "--timeout", "300"),
    "load": ("load", "--transactions", "400_000", "--days", "30"),
    "up": ("up",),
    "down": ("down",),
    "reset": ("reset", "--yes"),
    "reset of data": ("reset", "--data-only", "--yes"),
    "scale": ("scale", "2"),
}
AT_WORK = ("idle", "trigger", "load")
LATEST_MOMENT_SECONDS = {
    "trigger": 0.8,
    "load": 2.0,
    "up": 8.0,
    "down": 1.5,
    "reset": 10.0,
    "reset of data": 1.0,
    "scale": 2.0,
}
HOUR = 3600
# Files of a local stack that pipectl and its supervisor read, each an example of those like it.
STATE_FILES = (
    "engine",
    "requirements",
    "airflow/created",
    "airflow/simple_auth_manager_passwords.json.generated",
    "run/supervisord.conf",
    "run/supervisord.pid",
    "run/start_program.py",
    "run/webserver.json",
    "run/webserver.started",
)
CUT_OFF = ("postgres", "airbyte-postgres", "airbyte-mysql", "redis", "webserver", "scheduler", "worker")


class Fault(NamedTuple):
    """What is done to a stack while `situations` go on; `inject` gets the command that runs meanwhile.

    `ends_tasks` tells whether a task may have failed, and be tried again. `prepare` surrounds all of it.
    """

    name: str
    inject: Callable[[Command], None]
    situations: tuple[str, ...] = AT_WORK
    ends_tasks: bool = True
    prepare: Callable[[], AbstractContextManager[None]] = nullcontext


def faults(stack: Stack) -> Iterator[Fault]:
    """Yield the table of faults."""
    if isinstance(stack, LocalStack):
        yield from faults_of_files(stack)
        yield from faults_of_the_clock(stack)
    if isinstance(stack, DockerStack):
        yield from faults_of_the_engine(stack)
    for name in stack.victims:
        # A task is there only while one runs.
        during = ("trigger",) if name == TASKS else AT_WORK
        yield Fault(f"kill -9 {name}", _later(stack.kill, name), during)
        for seconds in (15, 60):
            stop = _later(injections.stop, stack, name, seconds)
            yield Fault(f"SIGSTOP {name}, {seconds} s", stop, during, ends_tasks=False)
    for name in (ALONE, "scheduler", ALL):
        if name == ALONE or name in stack.victims:
            stop = _later(injections.stop, stack, name, 300)
            yield Fault(f"SIGSTOP {name}, 300 s", stop, ("trigger",), ends_tasks=False)
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        names = tuple(name for name, words in SITUATIONS.items() if words and can_be(name, stack))
        yield Fault(f"{number.name} to pipectl", partial(injections.send, number), names)
    yield Fault("30 busy processes, 60 s", _later(injections.keep_busy, 30, 60), ends_tasks=False)


def can_be(situation: str, stack: Stack) -> bool:
    """Whether a stack has the command: only Celery has workers to scale."""
    return situation != "scale" or stack.name == "celery"


def faults_of_files(stack: LocalStack) -> Iterator[Fault]:
    """Yield what happens to a local stack's disk and files; root alone mounts one that may fill up."""
    state = stack.project.folder / ".pipectl"
    if os.geteuid() == 0:
        during = (*AT_WORK, "up", "reset of data")
        yield Fault("a full disk, 20 s", _later(injections.fill_disk, stack, 20), during)
        yield Fault("a read-only .pipectl, 20 s", _later(injections.forbid_writing, state, 20), during)
    ended = "garbage in .pipectl/run, kill -9 everything"
    yield Fault(ended, _later(injections.garble_all, stack), ("idle",))
    for name in STATE_FILES:
        for what, content in (("garbage", injections.GARBAGE), ("nothing", b"")):
            damaged = _later(injections.damage, stack, state / name, content)
            yield Fault(f"{what} in {name}, then `pipectl down`", damaged, ("idle",))
    yield Fault("half of the cache's files", _later(injections.halve_cache, stack), ("idle",))


def faults_of_the_clock(stack: LocalStack) -> Iterator[Fault]:
    """Yield jumps of the clock both ways.

    Airflow begins no run whose time is still to come, so a run from before a jump back waits for its end.
    """
    clock = injections.Clock(stack)
    ahead, back = _later(clock.jump, HOUR), _later(clock.jump_for, -HOUR, 60)
    yield Fault("the clock jumps an hour ahead", ahead, ends_tasks=False, prepare=clock.own)
    yield Fault("the clock jumps an hour back, 60 s", back, ends_tasks=False, prepare=clock.own)


def faults_of_the_engine(stack: DockerStack) -> Iterator[Fault]:
    """Yield cuts of containers' networks, and the end of an engine that is the torture's own."""
    for name in CUT_OFF:
        if name in stack.victims:
            cut = _later(injections.cut_off, stack, name, 30)
            yield Fault(f"no network for {name}, 30 s", cut, ("trigger", "load"))
    if "ENGINE_STATE" in os.environ:
        end = _later(injections.end_engine, Path(os.environ["ENGINE_STATE"]))
        yield Fault("kill -9 the Docker engine", end)


def _later(inject: Callable[..., None], *arguments: object) -> Callable[[Command], None]:
    """Return what injects a fault that has nothing to do with the command."""
    return lambda _: inject(*arguments)
