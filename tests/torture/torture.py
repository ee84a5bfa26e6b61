"""Inject faults into real stacks, check by SQL what they did to the data, and write docs/reliability.md.

    python tests/torture/torture.py --short                 some of them, in minutes: what CI runs
    python tests/torture/torture.py --engine local          all of them on one engine
    python tests/torture/torture.py --faults kill --situations load

Results are kept in --results (a file of JSON), so that a long run can be done in parts; the page is written
from all that is in it. Exits 1 if a row was lost, doubled or mislabelled, or a stack did not recover.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import ROOT
from support.stacks import DockerStack, LocalStack
from support.waiting import pass_time, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.stacks import Stack

PAGE = ROOT / "docs" / "reliability.md"
SITUATIONS = ("idle", "trigger", "load")
ENGINES = ("local", "docker", "celery")
LOADED = 400_000
# A stack that is not healthy again by itself after this time gets `pipectl up`.
ALONE_SECONDS = 90
COMMAND_SECONDS = 300
REST_SECONDS = 8
# Of a core, per process and beyond what it used before the fault.
MOST_AT_REST = 0.05


@dataclass(frozen=True)
class Result:
    """What one fault did in one situation. `seconds` from the end of the fault until all was healthy."""

    engine: str
    fault: str
    situation: str
    recovered: str
    seconds: float
    ratio: float
    command: str
    tries: int
    lost: int
    doubled: int
    mislabelled: int
    busiest: float

    @property
    def is_well(self) -> bool:
        """Whether the fault did no harm that lasts."""
        harm = self.lost, self.doubled, self.mislabelled
        return harm == (0, 0, 0) and self.recovered != "not at all" and self.busiest <= MOST_AT_REST


class Torture:
    """One stack, and what it takes to start: the unit in which recoveries are measured."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        begun = time.monotonic()
        stack.project.run(*stack.up)
        stack.project.run("down")
        begun = time.monotonic()
        stack.project.run(*stack.up)
        self.start_seconds = time.monotonic() - begun
        stack.project.run("trigger")
        stack.project.settle()
        self.at_rest = stack.cpu(REST_SECONDS)

    def faults(self, kind: str) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield each fault of a kind with its name."""
        stack = self.stack
        if kind == "kill":
            for name in stack.victims:
                yield f"kill -9 {name}", partial(stack.kill, name)
        elif kind.startswith("stop"):
            seconds = int(kind.removeprefix("stop"))
            for name in stack.victims:
                yield f"SIGSTOP {name}, {seconds} s", partial(self._stop, name, seconds)

    def _stop(self, name: str, seconds: float) -> None:
        with self.stack.stopped(name):
            pass_time(seconds)

    def inflict(self, fault: str, inject: Callable[[], None], situation: str) -> Result:
        """Inject a fault, wait for the recovery, and count."""
        project = self.stack.project
        command = self._begin(situation)
        inject()
        begun = time.monotonic()
        recovered, seconds = "by itself", 0.0
        if not self._is_healthy_within(ALONE_SECONDS):
            begun = time.monotonic()
            code = project.start(*self.stack.up).wait(COMMAND_SECONDS)
            recovered = "`pipectl up`" if code == 0 else "not at all"
        seconds = time.monotonic() - begun
        end = self._end(situation, command)
        # One more run labels what the fault kept from being labelled.
        project.run("trigger", "--timeout", str(COMMAND_SECONDS))
        project.settle()
        harm = self.stack.harm()
        before, after = self.at_rest, self.stack.cpu(REST_SECONDS)
        return Result(
            engine=self.stack.name,
            fault=fault,
            situation=situation,
            recovered=recovered,
            seconds=round(seconds, 1),
            ratio=round(seconds / self.start_seconds, 2),
            command=end,
            tries=self.stack.most_tries(),
            busiest=round(
                max((share - before.get(name, 0.0) for name, share in after.items()), default=0), 3
            ),
            **harm,
        )

    def _begin(self, situation: str) -> subprocess.Popen[str] | None:
        project = self.stack.project
        if situation == "trigger":
            known = len(project.client().call(RUNS)["dag_runs"])
            command = project.start("trigger", "--json", "--timeout", str(COMMAND_SECONDS))
            until(lambda: len(project.client().call(RUNS)["dag_runs"]) > known, "a run")
            return command
        if situation == "load":
            before = self.stack.transactions()
            command = project.start("load", "--transactions", str(LOADED), "--days", "30", "--json")
            until(lambda: self.stack.transactions() > before or command.poll() is not None, "the first rows")
            return command
        return None

    def _is_healthy_within(self, seconds: float) -> bool:
        try:
            until(self.stack.is_healthy, "a healthy stack", seconds)
        except AssertionError:
            return False
        return True

    def _end(self, situation: str, command: subprocess.Popen[str] | None) -> str:
        """Wait for the command's end, and give a load what it needs to be whole; return how it went."""
        if command is None:
            return ""
        command.communicate(timeout=COMMAND_SECONDS)
        codes = [command.returncode]
        while situation == "load" and codes[-1] != 0 and len(codes) <= 3:
            again = self.stack.project.start("load", "--transactions", str(LOADED), "--days", "30", "--json")
            again.communicate(timeout=COMMAND_SECONDS)
            codes.append(again.returncode)
        return ", then ".join(f"exit {code}" for code in codes)


RUNS = "/api/v2/dags/generate_transaction_and_labels/dagRuns?limit=1000"


def interruptions(torture: Torture) -> Iterator[tuple[str, str, Callable[[], str]]]:
    """Yield, per command and signal, what the command after it does: pipectl itself is what dies."""
    project = torture.stack.project
    for words in (
        ("up",),
        ("down",),
        ("trigger",),
        ("load", "--transactions", "100_000"),
        ("reset", "--yes"),
    ):
        for number in (signal.SIGKILL, signal.SIGHUP, signal.SIGTERM, signal.SIGINT):

            def interrupt(words: tuple[str, ...] = words, number: int = number) -> str:
                if words[0] == "up":
                    project.run("down")
                command = project.start(*words)
                try:
                    command.communicate(timeout=MOMENT * (1 + os.getpid() % 5))
                except subprocess.TimeoutExpired:
                    command.send_signal(number)
                    command.communicate()
                code = project.start(*torture.stack.up).wait(COMMAND_SECONDS)
                return "`pipectl up`" if code == 0 else "not at all"

            yield f"{signal.Signals(number).name} to pipectl", words[0], interrupt


MOMENT = 0.5


def main(given: argparse.Namespace) -> int:
    """Run what was asked for, add it to the results, and write the page; 1 if anything was harmed."""
    results = read(given.results)
    engines = ("local",) if given.short else given.engine
    kinds = ("kill",) if given.short else given.faults
    situations = ("idle", "trigger") if given.short else given.situations
    with ExitStack() as opened:
        for engine in engines:
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory())) / "project"
            kind = LocalStack if engine == "local" else DockerStack
            stack = opened.enter_context(kind.new(folder, celery=engine == "celery"))
            torture = Torture(stack)
            say(f"{engine}: a start takes {torture.start_seconds:.1f} s")
            for situation in situations:
                for kind_of_fault in kinds:
                    for name, inject in torture.faults(kind_of_fault):
                        if given.only and given.only not in name:
                            continue
                        keep(results, torture.inflict(name, inject, situation), given.results)
            if "interrupt" in kinds:
                for fault, command, act in interruptions(torture):
                    keep(results, _interrupted(torture, fault, command, act), given.results)
    if given.page:
        write_page(list(results.values()))
    return 0 if all(result.is_well for result in results.values()) else 1


def _interrupted(torture: Torture, fault: str, command: str, act: Callable[[], str]) -> Result:
    begun = time.monotonic()
    recovered = act()
    seconds = time.monotonic() - begun
    torture.stack.project.run("trigger")
    torture.stack.project.settle()
    return Result(
        torture.stack.name, fault, command, recovered, round(seconds, 1),
        round(seconds / torture.start_seconds, 2), "", 1, busiest=0.0, **torture.stack.harm(),
    )  # fmt: skip


def keep(results: dict[str, Result], result: Result, path: Path) -> None:
    """Add a result and write all of them down."""
    results[f"{result.engine}/{result.fault}/{result.situation}"] = result
    path.write_text(json.dumps([asdict(each) for each in results.values()], indent=1), encoding="utf-8")
    say(
        ("   " if result.is_well else "!! ")
        + " ".join(f"{name}={value}" for name, value in asdict(result).items())
    )


def read(path: Path) -> dict[str, Result]:
    """Return earlier results, none if there is no file."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    found = [Result(**each) for each in known if set(each) == {field.name for field in fields(Result)}]
    return {f"{each.engine}/{each.fault}/{each.situation}": each for each in found}


def write_page(results: list[Result]) -> None:
    """Write the table of results into docs/reliability.md, below its mark."""
    text = PAGE.read_text(encoding="utf-8")
    head, mark, _ = text.partition(MARK)
    rows = [
        f"| {each.engine} | {each.fault} | {each.situation} | {each.recovered} | {each.ratio:.1f} | "
        f"{each.command or ''} | {each.tries} | {each.lost}, {each.doubled}, {each.mislabelled} |"
        for each in sorted(results, key=lambda each: (each.engine, each.fault, each.situation))
    ]
    titles = (
        "| engine | fault | during | recovered | starts | command | tries | lost, doubled, mislabelled |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    PAGE.write_text("\n".join([head + mark, "", titles, *rows]) + "\n", encoding="utf-8")


MARK = "<!-- Below is written by `make torture`. -->"


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def options() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", action="append", choices=ENGINES, default=None)
    parser.add_argument(
        "--faults", nargs="+", default=["kill", "stop60", "interrupt"], help="stopN is N seconds"
    )
    parser.add_argument("--situations", nargs="+", choices=SITUATIONS, default=list(SITUATIONS))
    parser.add_argument("--only", help="faults whose name has this in it")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--page", action="store_true", help="write docs/reliability.md")
    parser.add_argument("--results", type=Path, default=Path(tempfile.gettempdir()) / "pipectl-torture.json")
    return parser


def parse() -> argparse.Namespace:
    """Read the command line."""
    given: Any = options().parse_args()
    given.engine = given.engine or list(ENGINES)
    return given  # type: ignore[no-any-return]


if __name__ == "__main__":
    sys.exit(main(parse()))
