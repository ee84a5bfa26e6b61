"""What is wrong with a project, its machine and its stack: every check, run side by side."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from pipectl.airflow_health import did_you_mean
from pipectl.errors import (
    AirflowError,
    DatabaseRefusedError,
    DatabaseSilentError,
    ForeignDatabaseError,
    PipectlError,
    UsageError,
)
from pipectl.pipeline.doctor import airflow, databases, machine, project, running
from pipectl.pipeline.doctor.checks import CHECKS, Check, Desk, Finding, NotNowError, in_place, of_error
from pipectl.settings import env_path
from pipectl.wait import Aside, until

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path
    from typing import TypeAlias

    from pipectl.engines.base import Engine

    Report: TypeAlias = Callable[[list[Finding], list[str]], None]

# Airflow's requests end after 20 s, a silent database's after 5.
MOST_SECONDS = 30.0
POLL_SECONDS = 0.02
# How long the checks say nothing.
SLOW_SECONDS = 3.0
UNREACHABLE = (AirflowError, DatabaseRefusedError, DatabaseSilentError, ForeignDatabaseError)
# In the order in which they are shown.
GROUPS = (machine, project, running, airflow, databases)
ORDERED = [each for group in GROUPS for each in CHECKS.values() if each.look.__module__ == group.__name__]


def named(text: str) -> tuple[str, ...]:
    """Return the ids in an enumeration with commas; UsageError with the nearest for what is none."""
    names = tuple(name for part in text.split(",") if (name := part.strip()))
    for name in names:
        if name not in CHECKS:
            raise UsageError(
                f"There is no check {name!r}.",
                hint=f"{did_you_mean(name, CHECKS, likeness=0.5)}There are: {', '.join(CHECKS)}.",
            )
    return names


def of_settings(folder: Path, error: UsageError) -> Finding | None:
    """Return an error about stack/.env as what its check found; None for one about something else."""
    path = env_path(folder)
    if str(path) not in error.message and path.name not in error.hint:
        return None
    line = re.search(r"line (\d+), is not", error.message)
    remedy = in_place(f"{line[1]}d", path) if line else error.hint
    return Finding("env-file", ok=False, found=error.message.removesuffix("."), remedy=remedy)


def examine(
    engine: Engine, only: Collection[str] = (), report: Report = lambda *_: None
) -> tuple[Finding, ...]:
    """Run the checks, all or those of `only`, side by side; what one finds does not stop another.

    While some take long, `report` is told again and again what is found by then, and which those are.
    """
    chosen = [each for each in ORDERED if not only or each.id in only]
    return tuple(
        finding
        or Finding(each.id, ok=False, found=f"no answer in {MOST_SECONDS:.0f} s", remedy="pipectl status")
        for each, finding in zip(chosen, _run(engine, chosen, MOST_SECONDS, report), strict=True)
    )


def examine_briefly(engine: Engine, seconds: float) -> tuple[Finding, ...]:
    """Run those that look at causes, for so long at most; return what they have found wrong by then."""
    chosen = [each for each in ORDERED if each.is_brief]
    return tuple(found for found in _run(engine, chosen, seconds) if found and found.ok is False)


def _run(
    engine: Engine, checks: list[Check], seconds: float, report: Report = lambda *_: None
) -> list[Finding | None]:
    """Return what each has found, None for one that has not ended in time."""
    desk, end = Desk(engine), time.monotonic() + seconds
    asked = [Aside(partial(_look, each, desk)) for each in checks]
    while (left := end - time.monotonic()) > 0:
        if until(lambda: all(each.is_known(0) for each in asked), min(left, SLOW_SECONDS), POLL_SECONDS):
            break
        late = [each.id for each, asking in zip(checks, asked, strict=True) if not asking.is_known(0)]
        report([asking.result() for asking in asked if asking.is_known(0)], late)
    return [each.result() if each.is_known(0) else None for each in asked]


def _look(each: Check, desk: Desk) -> Finding:
    try:
        finding = each.look(desk)
    except NotNowError as error:
        finding = Finding("", ok=None, found=str(error))
    except UNREACHABLE as error:
        # The checks of Airflow and of the databases say so.
        finding = Finding("", ok=None, found=error.message)
    except PipectlError as error:
        finding = of_error(error)
    except OSError as error:
        finding = Finding("", ok=False, found=f"it cannot be looked at: {error}")
    return replace(finding, id=each.id)
