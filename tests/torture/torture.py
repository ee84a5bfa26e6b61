"""Inject faults into real stacks, ask the databases what they did to the data, and write docs/reliability.md.

    make torture                                         all faults on the local engine, in two hours
    make torture TORTURE="--engine docker celery --fault SIGSTOP --situation trigger"
    make torture TORTURE=--short                         three faults, in two minutes: what CI runs

A run of parts adds to the results of earlier ones, which lie in --results; --page writes the page from all of
them. Exit code 1 if a row was lost, doubled or mislabelled, a task ran twice, or a stack did not recover.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import ROOT
from support.stacks import ALL, TASKS, DockerStack, LocalStack
from support.waiting import pass_time, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.stacks import Stack

PAGE = ROOT / "docs" / "reliability.md"
MARK = "<!-- `make torture` writes what follows. -->"
ENGINES = ("local", "docker", "celery")
# What goes on when a fault comes: nothing, or this command.
SITUATIONS: dict[str, tuple[str, ...]] = {
    "idle": (),
    "trigger": ("trigger", "--timeout", "300"),
    "load": ("load", "--transactions", "400_000", "--days", "30"),
    "up": ("up",),
    "down": ("down",),
    "reset": ("reset", "--yes"),
}
AT_WORK = ("idle", "trigger", "load")
SHORT = {
    ("kill -9 everything", "load"),
    ("kill -9 postgres", "trigger"),
    ("SIGSTOP scheduler, 15 s", "trigger"),
}
LATEST_MOMENT_SECONDS = {"trigger": 0.8, "load": 2.0, "up": 8.0, "down": 1.5, "reset": 10.0}
# A stack that is not healthy again by itself after this time gets `pipectl up`.
ALONE_SECONDS = 90
COMMAND_SECONDS = 400
REST_SECONDS = 5
# Of a core, for each service, beyond what it used before the first fault.
MOST_AT_REST = 0.05
DISK_BYTES = 2_000_000_000


class Fault(NamedTuple):
    """What is done to a stack while `situations` go on; `inject` gets the command that runs meanwhile.

    `ends_tasks` tells whether a task may have died, and be tried again.
    """

    name: str
    inject: Callable[[subprocess.Popen[str] | None], None]
    situations: tuple[str, ...] = AT_WORK
    ends_tasks: bool = True


@dataclass(frozen=True)
class Result:
    """What one fault did in one situation. `seconds` from the end of the fault until all was healthy.

    `ratio` is in starts of that stack, `command` how the situation's command ended, `retried` the tries
    beyond the first ones, `busiest` the share of a core that a service at rest uses more than before.
    """

    engine: str
    fault: str
    situation: str
    recovered: str
    seconds: float
    ratio: float
    command: str
    retried: int
    lost: int
    doubled: int
    mislabelled: int
    busiest: float
    is_well: bool


def faults(stack: Stack) -> Iterator[Fault]:
    """Yield the table of faults."""
    if isinstance(stack, LocalStack):
        yield Fault("a full disk, 20 s", lambda _: fill_disk(stack, 20))
        yield Fault("garbage in .pipectl/run, kill -9 everything", lambda _: garble(stack), ("idle",))
    for name in stack.victims:
        # A task is there only while one runs.
        during = ("trigger",) if name == TASKS else AT_WORK
        yield Fault(f"kill -9 {name}", lambda _, name=name: stack.kill(name), during)  # type: ignore[misc]
        for seconds in (15, 60):
            stop = partial(stopped, stack, name, seconds)
            yield Fault(f"SIGSTOP {name}, {seconds} s", stop, during, ends_tasks=False)
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        interrupted = tuple(situation for situation, command in SITUATIONS.items() if command)
        yield Fault(f"{number.name} to pipectl", partial(signalled, number), interrupted)
    yield Fault("30 busy processes, 60 s", lambda _: keep_busy(60), ends_tasks=False)


def stopped(stack: Stack, name: str, seconds: float, _command: object) -> None:
    """Stop a victim as a suspended machine does."""
    with stack.stopped(name):
        pass_time(seconds)


def signalled(number: signal.Signals, command: subprocess.Popen[str] | None) -> None:
    """Send a signal to pipectl itself."""
    assert command
    command.send_signal(number)


def keep_busy(seconds: float) -> None:
    """Use the machine's processors as a heavy build does."""
    busy = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(30)]
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


def fill_disk(stack: Stack, seconds: float) -> None:
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


def garble(stack: Stack) -> None:
    """Put what nobody wrote into every file of the supervisor's folder, and end everything."""
    paths = [path for path in (stack.project.folder / ".pipectl" / "run").iterdir() if path.is_file()]
    stack.kill(ALL)
    for number, path in enumerate(paths):
        path.write_bytes((b"", b"\xff\x00garbage", b"{}")[number % 3])


class Torture:
    """One stack, and what it takes to start: the unit in which recoveries are measured."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        stack.project.run(*stack.up)
        stack.project.run("trigger")
        stack.project.run("down")
        begun = time.monotonic()
        stack.project.run(*stack.up)
        self.start_seconds = time.monotonic() - begun
        stack.project.settle()
        self.at_rest = stack.cpu(REST_SECONDS)

    def inflict(self, fault: Fault, situation: str) -> Result:
        """Inject a fault, wait for the recovery, and count."""
        project = self.stack.project
        retried = self.stack.retried()
        command = self._begin(fault, situation)
        fault.inject(command)
        if situation in {"up", "down", "reset"} and command:
            command.communicate(timeout=COMMAND_SECONDS)
        recovered, seconds = self._recover(situation)
        ended = self._end(situation, command)
        # One more run labels what the fault kept from being labelled.
        project.run("trigger", "--timeout", "300")
        project.settle()
        harm = self.stack.harm()
        retried = max(self.stack.retried() - retried, 0)
        busiest = self._busiest()
        return Result(
            engine=self.stack.name,
            fault=fault.name,
            situation=situation,
            recovered=recovered,
            seconds=round(seconds, 1),
            ratio=round(seconds / self.start_seconds, 2),
            command=ended,
            retried=retried,
            busiest=round(busiest, 3),
            is_well=not any(harm.values())
            and recovered != "not at all"
            and busiest <= MOST_AT_REST
            and (fault.ends_tasks or not retried),
            **harm,
        )

    def _begin(self, fault: Fault, situation: str) -> subprocess.Popen[str] | None:
        """Start the situation's command, and return at a moment that the names of both decide."""
        project, words = self.stack.project, SITUATIONS[situation]
        if not words:
            return None
        if situation == "up":
            project.run("down")
        known, rows = (self.stack.runs(), self.stack.transactions()) if situation != "up" else (0, 0)
        command = project.start(*(self.stack.up if situation == "up" else words))
        if situation == "trigger":
            until(lambda: self.stack.runs() > known or command.poll() is not None, "a run")
        elif situation == "load":
            until(lambda: self.stack.transactions() > rows or command.poll() is not None, "the first rows")
        if TASKS not in fault.name:
            moment = random.Random(f"{fault.name} {situation}").random()  # noqa: S311  no secret
            pass_time(moment * LATEST_MOMENT_SECONDS[situation])
        return command

    def _recover(self, situation: str) -> tuple[str, float]:
        """Return what made the stack healthy again, and the seconds that it took."""
        begun = time.monotonic()
        if self._is_healthy_alone():
            return "by itself", time.monotonic() - begun
        # What a command has left is completed by the same command.
        first = SITUATIONS["reset"] if situation == "reset" else self.stack.up
        for attempt in ([first], [("down",), self.stack.up]):
            begun = time.monotonic()
            codes = [self._run(*words) for words in attempt]
            if not any(codes) and self.stack.is_healthy():
                names = ", ".join(f"`pipectl {words[0]}`" for words in attempt)
                return names, time.monotonic() - begun
        return "not at all", time.monotonic() - begun

    def _run(self, *words: str) -> int:
        command = self.stack.project.start(*words)
        out, said = command.communicate(timeout=COMMAND_SECONDS)
        if command.returncode:
            say(f"      pipectl {' '.join(words)}: {command.returncode} {said[-600:]}{out[-300:]}")
        return command.returncode

    def _is_healthy_alone(self) -> bool:
        """Wait for health, but not if a service is stopped: nothing but a command starts it."""
        with suppress(AssertionError):
            until(lambda: self.stack.is_healthy() or self.stack.is_stopped(), "health", ALONE_SECONDS)
        return self.stack.is_healthy()

    def _end(self, situation: str, command: subprocess.Popen[str] | None) -> str:
        """Wait for the command's end, and repeat a load until it is complete; return how it went."""
        if command is None:
            return ""
        _, said = command.communicate(timeout=COMMAND_SECONDS)
        if command.returncode:
            say(f"      pipectl {situation}: {command.returncode} {(said or '')[-400:]}")
        codes = [command.returncode]
        while situation == "load" and codes[-1] != 0 and len(codes) < 3:
            codes.append(self._run(*SITUATIONS["load"]))
        return ", again ".join(f"exit {code}" for code in codes)

    def _busiest(self) -> float:
        """Share of a core that a service uses more than before; measured again while it is much."""
        for _ in range(5):
            shares = self.stack.cpu(REST_SECONDS)
            busiest = max(share - self.at_rest.get(name, 0.0) for name, share in shares.items())
            if busiest <= MOST_AT_REST:
                break
        return max(busiest, 0.0)


def endure(stack: LocalStack, runs: int) -> Iterator[str]:
    """Run the pipeline `runs` times, and again, after bursts of commands; yield rows of what grew."""
    project = stack.project
    samples: list[dict[str, float]] = []
    for round_runs in (3, runs, runs):
        for words, count in ((("trigger",), 20), (("status",), 50)):
            commands = [project.start(*words) for _ in range(count if samples else 1)]
            for command in commands:
                _, said = command.communicate(timeout=COMMAND_SECONDS)
                assert command.returncode == 0, said
        project.run("trigger", "--repeat", str(round_runs))
        project.settle()
        samples.append(sizes(stack))
    for name, (_, before, after) in {name: [each[name] for each in samples] for name in samples[0]}.items():
        growth = (after - before) / (runs + 20)
        yield f"| {name} | {samples[0][name]:.1f} | {before:.1f} | {after:.1f} | {growth:.3f} |"


def sizes(stack: LocalStack) -> dict[str, float]:
    """What a stack at rest uses."""
    processes = stack.project.processes()
    files = [path for path in (stack.project.folder / ".pipectl").rglob("*") if path.is_file()]
    [(connections,)] = stack.postgres("SELECT count(*) FROM pg_stat_activity WHERE client_port IS NOT NULL")
    return {
        "memory, MB": sum(process.memory_full_info().pss for process in processes) / 1e6,
        "files on disk, MB": sum(path.stat().st_size for path in files) / 1e6,
        "processes": len(processes),
        "open files and sockets": sum(process.num_fds() for process in processes),
        "connections to airbyte-postgres": float(connections) - 1,
    }


def main(given: argparse.Namespace) -> int:
    """Run what was asked for, add it to the results, and write the page; 1 if anything was harmed."""
    results: dict[str, Any] = {"faults": {}, "endurance": []}
    if given.results.exists():
        results = json.loads(given.results.read_text(encoding="utf-8"))
    harmed = False
    for engine in given.engine:
        with ExitStack() as opened:
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory())) / "project"
            kind = LocalStack if engine == "local" else DockerStack
            if engine == "local" and os.geteuid() == 0 and not given.short:
                opened.enter_context(small_disk(folder / ".pipectl"))
            stack = opened.enter_context(kind.new(folder, celery=engine == "celery"))
            torture = Torture(stack)
            for fault, situation in chosen(given, stack):
                result = torture.inflict(fault, situation)
                harmed = harmed or not result.is_well
                results["faults"][f"{engine}, {fault.name}, {situation}"] = asdict(result)
                say(("   " if result.is_well else "!! ") + str(result))
                given.results.write_text(json.dumps(results, indent=1))
            if given.endurance and isinstance(stack, LocalStack):
                results["endurance"] = list(endure(stack, given.endurance))
                given.results.write_text(json.dumps(results, indent=1))
    if given.page:
        write_page([Result(**each) for each in results["faults"].values()], results["endurance"])
    return int(harmed)


def chosen(given: argparse.Namespace, stack: Stack) -> Iterator[tuple[Fault, str]]:
    """Yield the faults that the command line asks for, each with a situation."""
    for fault in faults(stack):
        for situation in fault.situations:
            if given.short:
                if (fault.name, situation) in SHORT:
                    yield fault, situation
            elif situation in given.situation and any(part in fault.name for part in given.fault):
                yield fault, situation


def write_page(results: list[Result], endurance: list[str]) -> None:
    """Write the tables of results into docs/reliability.md, below its mark."""
    head, _, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    titles = (
        "| engine | fault | during | recovered | starts | command | again | lost, doubled, mislabelled |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    rows = [
        f"| {each.engine} | {each.fault} | {each.situation} | {each.recovered} | {each.ratio:.1f} | "
        f"{each.command} | {each.retried} | {each.lost}, {each.doubled}, {each.mislabelled} |"
        for each in sorted(results, key=lambda each: (each.engine, each.fault, each.situation))
    ]
    if endurance:
        rows += [
            "",
            "What a stack of the local engine uses at rest, before and after many runs one after the other,"
            " 20 `pipectl trigger` at once and 50 `pipectl status` at once:",
            "",
            "| | after its start | before | after | growth in a run |",
            "|---|---|---|---|---|",
            *endurance,
        ]
    count = f"{len(results)} faults, on {os.cpu_count()} processor cores:"
    PAGE.write_text("\n".join([head + MARK, "", count, "", titles, *rows]) + "\n", encoding="utf-8")


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", nargs="+", choices=ENGINES, default=["local"])
    parser.add_argument("--fault", nargs="+", default=[""], help="parts of faults' names")
    parser.add_argument("--situation", nargs="+", choices=SITUATIONS, default=list(SITUATIONS))
    parser.add_argument("--short", action="store_true", help="three faults on the local engine")
    parser.add_argument("--endurance", type=int, default=0, help="runs, twice, to see what grows with them")
    parser.add_argument("--page", action="store_true", help="write docs/reliability.md")
    parser.add_argument("--results", type=Path, default=Path(tempfile.gettempdir()) / "pipectl-torture.json")
    given: Any = parser.parse_args()
    return given  # type: ignore[no-any-return]


if __name__ == "__main__":
    # Also a run that is ended leaves no stack behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(main(options()))
