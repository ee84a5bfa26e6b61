"""Ids that Airflow's answers had, kept in .pipectl/seen.json for shells that complete a command line.

Asking Airflow takes longer than anybody waits for a key. The file is there while the stack runs, as far as
pipectl knows: the first answer after `up` makes it, `down` and `reset` delete it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipectl import json_text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FILE = "seen.json"
ASKED = "seen.asked"  # the latest question for what no answer has had yet
MOST_DAGS, MOST_RUNS, MOST_TASKS = 1_000, 20, 200


@dataclass
class Seen:
    """Ids of DAGs, and by DAG those of its runs, made last first, and the names of its task instances."""

    dags: dict[str, None] = field(default_factory=dict)
    runs: dict[str, dict[str, None]] = field(default_factory=dict)
    tasks: dict[str, dict[str, None]] = field(default_factory=dict)
    # Whether `dags` are all that there are.
    is_complete: bool = False


_noted = Seen()


def note_dags(dag_ids: Iterable[str]) -> None:
    """Take in all DAGs that there are."""
    _noted.dags, _noted.is_complete = dict.fromkeys(dag_ids), True


def note_dag(dag_id: str) -> None:
    """Take in one DAG."""
    if dag_id:
        _noted.dags[dag_id] = None


def note_run(dag_id: str, run_id: str) -> None:
    """Take in a run."""
    if dag_id:
        _noted.runs.setdefault(dag_id, {})[run_id] = None


def note_task(dag_id: object, name: str) -> None:
    """Take in a task instance."""
    if isinstance(dag_id, str) and dag_id:
        _noted.tasks.setdefault(dag_id, {})[name] = None


def keep(state_dir: Path) -> None:
    """Write what this process has seen beside what earlier ones have; nothing without a stack's folder."""
    global _noted
    noted, _noted = _noted, Seen()
    if noted == Seen() or not state_dir.is_dir():
        return
    before = read(state_dir)
    dags = noted.dags if noted.is_complete else before.dags | noted.dags
    dags |= dict.fromkeys([*noted.runs, *noted.tasks])
    document = {
        "dags": list(dags)[:MOST_DAGS],
        "runs": _merged(noted.runs, before.runs, dags, MOST_RUNS),
        "tasks": _merged(noted.tasks, before.tasks, dags, MOST_TASKS),
    }
    json_text.note(state_dir / FILE, document)


def read(state_dir: Path) -> Seen:
    """Return what was kept; nothing of it if there is no such file, or it holds something else."""
    kept = json_text.read_object(state_dir / FILE)
    return Seen(_names(kept.get("dags")), _by_dag(kept.get("runs")), _by_dag(kept.get("tasks")))


def forget(state_dir: Path) -> None:
    """Forget what was kept, and what this process has seen: the stack stops, or loses its data."""
    global _noted  # noqa: PLW0603  one memory per process
    _noted = Seen()
    for name in (FILE, ASKED):
        with suppress(OSError):
            (state_dir / name).unlink()


def _merged(
    noted: dict[str, dict[str, None]], before: dict[str, dict[str, None]], dags: dict[str, None], most: int
) -> dict[str, list[str]]:
    return {
        dag_id: list(noted.get(dag_id, {}) | before.get(dag_id, {}))[:most]
        for dag_id in dags
        if dag_id in noted or dag_id in before
    }


def _by_dag(value: Any) -> dict[str, dict[str, None]]:  # noqa: ANN401  whatever the file holds
    return {dag_id: _names(names) for dag_id, names in value.items()} if isinstance(value, dict) else {}


def _names(value: Any) -> dict[str, None]:  # noqa: ANN401  as above
    names = value if isinstance(value, list) else []
    return {name: None for name in names if isinstance(name, str) and name.isprintable()}
