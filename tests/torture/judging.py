"""Injects one fault at a time into a stack, brings the stack back, and counts what the fault has done."""

from __future__ import annotations

import random
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from support.stacks import TASKS
from support.waiting import pass_time, until
from torture.faults import LATEST_MOMENT_SECONDS, SITUATIONS

if TYPE_CHECKING:
    import subprocess

    from support.stacks import Stack
    from torture.faults import Fault

# A stack that is not healthy again by itself after this time gets `pipectl up`.
ALONE_SECONDS = 90
COMMAND_SECONDS = 400
REST_SECONDS = 5
# Of a core, for each service, beyond what it used before the first fault.
MOST_AT_REST = 0.05
# What is followed here to its end, which may be the fault, before the stack is looked at.
CHANGES_THE_STACK = {"up", "down", "reset", "scale"}
BUG = "exit 1"


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
        with fault.prepare():
            return self._inflict(fault, situation)

    def _inflict(self, fault: Fault, situation: str) -> Result:
        project = self.stack.project
        retried = self.stack.retried()
        command = self._begin(fault, situation)
        fault.inject(command)
        if command and situation in CHANGES_THE_STACK:
            until(lambda: command.poll() is not None, f"the end of {situation}", COMMAND_SECONDS)
        recovered, seconds = self._recover(situation)
        ended = self._end(situation, command)
        # One more run labels what the fault kept from being labelled.
        project.run("trigger", "--timeout", "300")
        project.settle()
        harm = self.stack.harm()
        # A reset may have forgotten the tries before.
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
            and (fault.ends_tasks or not retried)
            and BUG not in ended.replace("again ", "").split(", "),
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
            say(f"      pipectl {situation}: {command.returncode} {(said or '')[-600:]}")
        codes = [command.returncode]
        # What a command has left undone, the same command completes.
        while situation in {"load", "reset of data"} and codes[-1] != 0 and len(codes) < 3:
            codes.append(self._run(*SITUATIONS[situation]))
        return ", again ".join(outcome(code) for code in codes)

    def _busiest(self) -> float:
        """Share of a core that a service uses more than before; measured again while it is much."""
        for _ in range(5):
            shares = self.stack.cpu(REST_SECONDS)
            busiest = max(share - self.at_rest.get(name, 0.0) for name, share in shares.items())
            if busiest <= MOST_AT_REST:
                break
        return max(busiest, 0.0)


def outcome(code: int) -> str:
    """Return how a command ended, by its exit code or by the signal that ended it."""
    return f"exit {code}" if code >= 0 else f"signal {-code}"


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
