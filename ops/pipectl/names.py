"""Names of DAGs, runs and choices, and words for messages, apart so that --help need not import settings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

DAG_ID = "generate_transaction_and_labels"
# What `verify-db --expect` and `export --format` take.
EXPECTATIONS = ("empty", "populated", "reconciled")
EXPORT_FORMATS = ("parquet", "csv")
# What `doctor --only` takes.
CHECK_IDS = (
    *("memory", "disk", "file-system", "clock", "locale", "proxy", "cache", "images"),
    *("env-file", "env-modes", "env-running", "env-volumes", "secrets", "line-ends", "mounts", "run-bits"),
    *("scaffold", "snapshots"),
    *("leftovers", "engine", "compose", "ports", "services", "airflow", "heartbeats", "tasks-api"),
    *("dag-imports", "triggerer", "pools", "retention", "databases", "replication-slots", "binary-log"),
    "label-lag",
)
# Airflow's own rules.
LONGEST_ID = 250
DAG_ID_RULE = f"at most {LONGEST_ID} letters, digits, dashes, dots and underscores"
# What is rounded to one decimal, and would be 1,000.0.
LEAST_OF_NEXT = 999.95
MINUTE, HOUR = 60, 3600  # in seconds
_DAG_ID = re.compile(rf"[\w.-]{{1,{LONGEST_ID}}}")


def counted(number: int, thing: str, things: str = "") -> str:
    """Return a number of things in words: 1 try, 1,200 tries."""
    return f"1 {thing}" if number == 1 else f"{number:,} {things or thing + 's'}"


def listed(names: list[str], number: int) -> str:
    """Return names as an enumeration, and how many more there are of `number`."""
    more = [f"{number - len(names):,} more"] if number > len(names) else []
    *first, last = [*names, *more] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def duration(seconds: float) -> str:
    """Return seconds as people read them."""
    whole = round(seconds)
    if whole < 2 * MINUTE:
        return f"{whole} s"
    if whole < 2 * HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE:02d} s"
    return f"{whole // HOUR} h {whole % HOUR // MINUTE:02d} min"


def moment(when: datetime | None) -> str:
    """Return a time in the user's time zone, to the second, with the zone's name; nothing for None."""
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z") if when else ""


def size(count: int) -> str:
    """Return bytes in the unit that fits them."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(value) < LEAST_OF_NEXT:
            return counted(count, "byte") if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def command(*words: str) -> str:
    """Return a command of pipectl as one types it in a shell, to which a task's brackets are a pattern."""
    return shell("pipectl", *words)


def shell(*words: str | Path) -> str:
    """Return a command as one types it in a shell."""
    import shlex  # noqa: PLC0415  3 ms, for a hint alone

    return shlex.join(map(str, words))


def is_dag_id(text: str) -> bool:
    """Whether Airflow would take a text as a DAG's id."""
    return _DAG_ID.fullmatch(text) is not None


def is_run_id(text: str) -> bool:
    """Whether Airflow's API can be asked for a run of that id, whatever pattern of ids Airflow is set to."""
    return 0 < len(text) <= LONGEST_ID and text.isprintable() and "/" not in text and text.strip(".") != ""
