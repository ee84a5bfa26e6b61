"""Inject faults into real stacks, ask the databases what they did to the data, and write docs/reliability.md.

    make torture                                         all faults on the local engine, in four hours
    make torture TORTURE="--engine docker celery --fault SIGSTOP --situation trigger"
    make torture TORTURE="--endurance runs triggers status day load"

A run of parts adds to the results of earlier ones, which lie in --results; --page writes the page from all of
them. Exit code 1 if a row was lost, doubled or mislabelled, a task ran twice, a command ended as a bug, or a
stack did not recover. tests/e2e/test_torture.py has the short form, which CI runs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.stacks import DockerStack, LocalStack
from torture import page
from torture.endurance import STEPS, endure
from torture.faults import SITUATIONS, faults
from torture.injections import small_disk
from torture.judging import Result, Torture, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.stacks import Stack
    from torture.faults import Fault

ENGINES = ("local", "docker", "celery")


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
            if engine == "local" and os.geteuid() == 0 and not given.endurance:
                opened.enter_context(small_disk(folder / ".pipectl"))
            stack = opened.enter_context(kind.new(folder, celery=engine == "celery"))
            if given.endurance:
                assert isinstance(stack, LocalStack), "only the local engine is measured"
                results["endurance"].append([])
                for sample in endure(stack, given.endurance, given.runs, given.rows):
                    results["endurance"][-1].append(sample)
                    given.results.write_text(json.dumps(results, indent=1))
                continue
            torture = Torture(stack)
            for fault, situation in chosen(given, stack):
                result = torture.inflict(fault, situation)
                harmed = harmed or not result.is_well
                results["faults"][f"{engine}, {fault.name}, {situation}"] = asdict(result)
                say(("   " if result.is_well else "!! ") + str(result))
                given.results.write_text(json.dumps(results, indent=1))
    if given.page:
        page.write([Result(**each) for each in results["faults"].values()], results["endurance"])
    return int(harmed)


def chosen(given: argparse.Namespace, stack: Stack) -> Iterator[tuple[Fault, str]]:
    """Yield the faults that the command line asks for, each with a situation."""
    for fault in faults(stack):
        if any(part in fault.name for part in given.fault):
            yield from ((fault, situation) for situation in fault.situations if situation in given.situation)


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="torture", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", nargs="+", choices=ENGINES, default=["local"])
    parser.add_argument("--fault", nargs="+", default=[""], help="parts of faults' names")
    parser.add_argument("--situation", nargs="+", choices=SITUATIONS, default=list(SITUATIONS))
    parser.add_argument("--endurance", nargs="+", choices=STEPS, help="steps, instead of faults")
    parser.add_argument("--runs", type=int, default=500, help="of the step `runs`")
    parser.add_argument("--rows", type=int, default=10_000_000, help="of the step `load`")
    parser.add_argument("--page", action="store_true", help="write docs/reliability.md")
    parser.add_argument("--results", type=Path, default=Path(tempfile.gettempdir()) / "pipectl-torture.json")
    given: Any = parser.parse_args()
    return given  # type: ignore[no-any-return]


if __name__ == "__main__":
    # Also a run that is ended leaves no stack behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(main(options()))
