"""Load a history: the project's `history_loader.py` in several processes, and how far they are.

The script runs in pipectl's own Python, which has NumPy and both drivers, so loading works the same whichever
engine runs the databases, and each shard has an interpreter of its own.
"""

from __future__ import annotations

import json
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from pipectl import surroundings
from pipectl.databases import script_variables
from pipectl.errors import DatabaseError, EngineError, PipectlError, UsageError
from pipectl.models import LoadProgress
from pipectl.names import counted
from pipectl.pipeline.consumers import BOUND_PLACE, too_much_binlog, too_much_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from pipectl.models import DatabaseAddress
    from pipectl.observer import Observer

SCRIPT = "scripts/history_loader.py"
STOP_SECONDS = 10
# Progress older than this says nothing about the speed now.
RATE_SECONDS = 10.0
SCRIPT_USAGE, SCRIPT_DATABASE, SCRIPT_SLOT = 2, 5, 6
_FAILURE = re.compile(r'\bevent=failed .*?\berror=("(?:[^"\\]|\\.)*"|\S+)')


class SlotsTooSmallError(UsageError):
    """Replication slots cannot hold what a load writes; `slots` has their names."""

    def __init__(self, bytes_of_log: int, rooms: dict[str, int]) -> None:
        super().__init__(
            f"The load writes {too_much_for(rooms, bytes_of_log)} Nothing was written.",
            hint="Load as fast as the readers read: --wait-for-slots\nIf nobody reads any more, or reads a "
            "snapshot next: --drop-slots\nHow far they are behind: pipectl status",
        )
        self.slots = tuple(rooms)


@dataclass(frozen=True)
class LoadResult:
    """What a load did; `resumed` transactions were there from an earlier try. `load` is its name."""

    load: str
    transactions: int
    labels: int
    frauds: int
    resumed: int
    shards: int
    transactions_seconds: float
    labels_seconds: float
    seconds: float


class Rate:
    """Rows a second over the latest seconds."""

    def __init__(self, total: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self.done = 0
        self._clock = clock
        self._seen = [(clock(), 0)]

    def add(self, rows: int) -> None:
        """Take in rows that have just been committed."""
        self.done += rows
        now = self._clock()
        self._seen.append((now, self.done))
        while len(self._seen) > 2 and self._seen[0][0] < now - RATE_SECONDS:  # noqa: PLR2004  two make a span
            del self._seen[0]

    def progress(self, phase: str) -> LoadProgress:
        """Return how far it is."""
        (start, before), (end, done) = self._seen[0], self._seen[-1]
        rate = (done - before) / (end - start) if end > start and done > before else None
        left = max(self.total - self.done, 0) / rate if rate else None
        return LoadProgress(phase, self.done, max(self.total, self.done), rate, left)


class HistoryLoader:
    """Runs the script against two databases. Methods raise DatabaseError, UsageError and PipectlError."""

    script = SCRIPT

    def __init__(
        self,
        project: Path,
        databases: tuple[DatabaseAddress, DatabaseAddress],
        *,
        seed: str | None,
        observer: Observer,
    ) -> None:
        self._command = (sys.executable, str(project / self.script))
        self._environment = _environment(databases, seed)
        self._observer = observer

    def load(
        self,
        *,
        transactions: int,
        days: int,
        shards: int,
        wait_for_slots: bool = False,
        binlog_limit: int | None = None,
    ) -> LoadResult:
        """Write transactions in `shards` processes, then their labels; what an earlier try wrote stays.

        Raises SlotsTooSmallError, and writes nothing, if a replication slot cannot hold them, unless each
        chunk waits for the slots' readers. `binlog_limit` is what MySQL keeps of its binary log.
        """
        started = time.monotonic()
        arguments = ("--transactions", str(transactions), "--days", str(days))
        waits = ("--wait-for-slots",) if wait_for_slots else ()
        plan = self._plan((*arguments, *waits, "--shard", f"1/{shards}"))
        if binlog_limit and int(plan["binlog_bytes"]) > binlog_limit:
            self._observer.report(too_much_binlog("labels", int(plan["binlog_bytes"]), binlog_limit))
        self._warn_of_other_seed(plan)
        self._tell_of_unfinished(plan)
        name = ("--load", str(plan["load"]))
        resumed = int(plan["written"])

        begun = time.monotonic()
        written = Rate(transactions - resumed)
        self._observer.see_load(written.progress("transactions"))
        parts = [
            (*arguments, *name, *waits, "--only", "transactions", "--shard", f"{shard}/{shards}")
            for shard in range(1, shards + 1)
        ]
        waiting = ""
        for event in self._run(*(parts if written.total else ())):
            if event["event"] == "waits":
                # Each shard says so, and says when it goes on.
                waits_for = _waits_for(event["slots"])
                if waits_for and waits_for != waiting:
                    self._observer.report(waits_for)
                waiting = waits_for
                continue
            written.add(int(event["rows"]))
            self._observer.see_load(written.progress("transactions"))

        labelled = time.monotonic()
        labels = Rate(transactions)
        done: dict[str, Any] = {}
        for event in self._run((*arguments, *name, "--only", "labels", *(("--due",) if resumed else ()))):
            if event["event"] == "due":
                labels.total = int(event["rows"])
            elif event["event"] == "labels":
                labels.add(int(event["rows"]))
            else:
                done = event
            self._observer.see_load(labels.progress("labels"))
        ended = time.monotonic()
        return LoadResult(
            load=str(plan["load"]),
            transactions=written.done,
            labels=int(done["labels"]),
            frauds=int(done["frauds"]),
            resumed=resumed,
            shards=shards,
            transactions_seconds=labelled - begun,
            labels_seconds=ended - labelled,
            seconds=ended - started,
        )

    def _warn_of_other_seed(self, plan: dict[str, Any]) -> None:
        if plan["other_seed"] is not None:
            self._observer.report(
                f"The databases have customers and terminals of seed {plan['other_seed']}, which stay: seed "
                f"{plan['seed']} means others by the same numbers. For one seed alone: Ctrl-C, then "
                "pipectl reset --data-only"
            )

    def _tell_of_unfinished(self, plan: dict[str, Any]) -> None:
        """Say which load this one goes on with, and which others wait for that."""
        for load in plan["unfinished"]:
            written, size, days = f"{load['written']:,}", load["transactions"], load["days"]
            if load["load"] == plan["load"]:
                sentence = (
                    f"This load was begun on {load['begun']} UTC: it goes on from {written} of "
                    f"{counted(size, 'transaction')}"
                )
            else:
                sentence = (
                    f"A load of {counted(size, 'transaction')}, begun on {load['begun']} UTC, is unfinished: "
                    f"{written} are written. Go on with it: pipectl load --transactions {size} --days {days}"
                )
            self._observer.report(sentence)

    def _plan(self, arguments: tuple[str, ...]) -> dict[str, Any]:
        """Begin the load, or take it up. Raises SlotsTooSmallError, unless it waits for readers."""
        plan: dict[str, Any] = {}
        for event in self._run((*arguments, "--only", "plan")):
            if event["event"] != "short":
                plan = event
            elif "--wait-for-slots" not in arguments:
                rooms = {str(slot["name"]): int(slot["room"]) for slot in event["slots"]}
                raise SlotsTooSmallError(int(event["bytes"]), rooms)
            elif unread := _unread(event["slots"]):
                self._observer.report(
                    f"{unread}, and the whole load has no room there: the load stops on the way until a "
                    "reader connects. If none will: Ctrl-C, then --drop-slots instead of --wait-for-slots"
                )
        return plan

    def _run(self, *commands: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        """Run processes side by side, and yield what they tell; the first failure stops them all."""
        told: queue.SimpleQueue[dict[str, Any] | int] = queue.SimpleQueue()
        with ExitStack() as stack:
            running = []
            for number, arguments in enumerate(commands):
                log = stack.enter_context(tempfile.TemporaryFile("w+"))
                process = subprocess.Popen(
                    (*self._command, *arguments),
                    env=self._environment,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
                stack.callback(_stop, process)
                running.append((process, log))
                threading.Thread(target=_read, args=(number, process.stdout, told), daemon=True).start()
            for _ in commands:
                while not isinstance(event := told.get(), int):
                    yield event
                process, log = running[event]
                if process.wait():
                    raise self._failure(process.returncode, log)

    def _failure(self, code: int, log: IO[str]) -> PipectlError:
        """Return the error for a process that has ended with this code, and its log."""
        text, message = read_failure(log)
        again = "What is committed stays: the same command goes on from there."
        if code == SCRIPT_DATABASE:
            return DatabaseError(message, hint=f"Look at the stack: pipectl status. {again}")
        if code == SCRIPT_USAGE and message:
            return UsageError(message, hint=f"Correct it in stack/.env or in the environment. {again}")
        if code == SCRIPT_SLOT:
            return UsageError(
                message, hint=f"To raise it: {BOUND_PLACE}. To drop the slots: --drop-slots. {again}"
            )
        return broken_script(self.script, code, text, again)


def _waits_for(slots: list[dict[str, Any]]) -> str:
    """Say whose readers the load waits for; empty for none."""
    names = ", ".join(str(slot["name"]) for slot in slots)
    told = (f"Waiting for the reader of {names}; what is committed stays" if slots else "", _unread(slots))
    return ". ".join(filter(None, told))


def _unread(slots: list[dict[str, Any]]) -> str:
    """Say which of the slots have no reader now; empty for none."""
    names = " and ".join(str(slot["name"]) for slot in slots if not slot["active"])
    return f"Nobody reads {names} now" if names else ""


def _environment(databases: tuple[DatabaseAddress, DatabaseAddress], seed: str | None) -> dict[str, str]:
    variables = surroundings.environment()
    for address in databases:
        variables |= script_variables(address.service.upper().replace("-", "_"), address)
    return variables | ({"PIPECTL_SEED": seed} if seed else {})


def _read(number: int, lines: IO[str] | None, told: queue.SimpleQueue[dict[str, Any] | int]) -> None:
    """Queue the events of a process, and at its end its number."""
    try:
        for line in lines or ():
            # A process that is killed may leave half a line.
            if line.endswith("\n"):
                told.put(json.loads(line))
    finally:
        told.put(number)


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout:
        process.stdout.close()


def read_failure(log: IO[str]) -> tuple[str, str]:
    """Return the log of a script, and the error that it ended with; empty if it named none."""
    log.seek(0)
    text = log.read().strip()
    failures = _FAILURE.findall(text)
    reason = failures[-1] if failures else ""
    return text, json.loads(reason) if reason.startswith('"') else reason


def broken_script(script: str, code: int, text: str, again: str) -> PipectlError:
    """Return the error for a script that has ended with a code of no meaning."""
    end = "\n".join(text.splitlines()[-20:])
    if code < 0:
        by = signal.Signals(-code).name
        return EngineError(f"{script} was killed ({by}).", hint=again, detail=end)
    return PipectlError(f"{script} ended with exit code {code}.", hint=again, detail=end)


def seed_of(variables: Mapping[str, str]) -> str | None:
    """The seed of the project's data, if stack/.env or the environment sets one."""
    return variables.get("PIPECTL_SEED") or None
