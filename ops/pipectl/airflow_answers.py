"""How Airflow's answers are read.

What pipectl needs of them, whatever a version of Airflow adds, leaves out or sets to null.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import dropwhile, takewhile
from typing import TYPE_CHECKING, Any

from pipectl import seen
from pipectl.models import (
    Backfill,
    DagParam,
    DagRun,
    ImportFailure,
    ParsedDag,
    TaskState,
    TaskTry,
    instance_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = 100  # objects in an answer: Airflow's default maximum
MOST_PAGES = 1000
# Runs in the order in which they were made: by its time, a backfill's run would stand far down.
NEWEST_FIRST = "-id"
LONGEST_LINE, MOST_LINES = 1_000, 200  # characters, and lines, of a trace
LONGEST_REASON = 200  # characters of an error in a sentence
RUN_CHANGED = "patch_dag_run"  # Airflow's name of the event
# Summaries of schedules without slots of the past, which Airflow before 3.3 does not tell otherwise.
WITHOUT_SLOTS = {"", "@once", "@continuous", "Asset"}
DURATION = re.compile(r"P(?:(\d+)Y)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?", re.ASCII)
NEVER = datetime.max.replace(tzinfo=UTC)
# As Python shows where an exception was raised, and a group of them that nothing else has caused.
FRAME = re.compile(r' *File "[^"\n]+", line \d+')
HEADING, GROUP = "Traceback", "  + Exception Group Traceback"


def all_pages(page: Callable[[int], dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Return the objects in the list `name` of all pages; `page` gives the one that begins at an offset."""
    found: list[dict[str, Any]] = []
    for _ in range(MOST_PAGES):
        answer = page(len(found))
        entries = objects(answer.get(name))
        found += entries
        total = answer.get("total_entries")
        if not entries or not isinstance(total, int) or len(found) >= total:
            break
    return found


def objects(value: object) -> list[dict[str, Any]]:
    """Return the objects of a list in an answer; nothing if it is missing or no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def read_dag(answer: dict[str, Any]) -> ParsedDag:
    """Read a DAG, as it is listed or with its details."""
    summary, periodic, params = (
        answer.get(name) for name in ("timetable_summary", "timetable_periodic", "params")
    )
    limit, tasks = answer.get("max_active_runs"), answer.get("max_active_tasks")
    assets = _object(answer.get("asset_expression"))
    schedule = str(summary) if summary and summary != "None" else ""
    seen.note_dag(str(answer.get("dag_id") or ""))
    return ParsedDag(
        paused=bool(answer.get("is_paused")),
        has_import_errors=bool(answer.get("has_import_errors")),
        file=str(answer.get("relative_fileloc") or ""),
        next_run=str(answer.get("next_dagrun_run_after") or ""),
        parsed=read_time(answer.get("last_parsed_time")),
        dag_id=str(answer.get("dag_id") or ""),
        schedule=schedule,
        periodic=periodic if isinstance(periodic, bool) else schedule not in WITHOUT_SLOTS,
        stale=answer.get("is_stale") is True,
        max_active_runs=limit if isinstance(limit, int) else None,
        max_active_tasks=tasks if isinstance(tasks, int) else None,
        timeout=read_duration(answer.get("dag_run_timeout")),
        start=read_time(answer.get("start_date")),
        end=read_time(answer.get("end_date")),
        catchup=answer.get("catchup") is True,
        asset_rule=("any" if "any" in assets else "all") if assets else "",
        params={
            name: DagParam(
                param.get("value"), _object(param.get("schema")), str(param.get("description") or "")
            )
            for name, param in _object(params).items()
            if isinstance(param, dict)
        },
    )


def read_dags(answers: list[dict[str, Any]]) -> tuple[ParsedDag, ...]:
    """Read all DAGs that there are."""
    dags = tuple(read_dag(answer) for answer in answers if answer.get("dag_id"))
    seen.note_dags(dag.dag_id for dag in dags)
    return dags


def read_import_failures(
    answers: list[dict[str, Any]],
    since: datetime | None = None,
    mask: Callable[[str], str] = lambda text: text,
) -> tuple[ImportFailure, ...]:
    """Read the DAG files that could not be imported, of those that were tried `since` then.

    `mask` takes secrets away, which an exception may hold, before anything is shortened.
    """
    return tuple(
        ImportFailure(str(error.get("filename") or ""), shortened(mask(str(error.get("stack_trace") or ""))))
        for error in answers
        if is_since(read_time(error.get("timestamp")), since)
    )


def shortened(trace: str) -> str:
    """Return a trace without the middle of many or of long lines: an exception may quote megabytes."""
    lines = trace.splitlines()
    if len(lines) > MOST_LINES:
        lines[MOST_LINES // 2 : -MOST_LINES // 2] = ["    …"]
    return "\n".join(
        f"{line[: LONGEST_LINE // 2]} … {line[-LONGEST_LINE // 2 :]}" if len(line) > LONGEST_LINE else line
        for line in lines
    )


def import_reason(trace: str) -> str:
    """Return why a DAG file cannot be imported, in one line that is not too long for a sentence."""
    return one_line(import_error(trace)) or "it does not say why"


def import_error(trace: str) -> str:
    """Return the error at the end of the trace of a DAG file that cannot be imported, all of it in a line."""
    lines = trace.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith(GROUP)]
    if starts:
        # Of a group of exceptions what it says itself, not what is in it.
        inner = takewhile(lambda line: line.startswith("  | "), lines[starts[-1] + 1 :])
        lines = [line.removeprefix("  | ") for line in inner]
    last = max((number for number, line in enumerate(lines) if FRAME.match(line)), default=-1)
    # Below the place stand its source and, of what recurs, how often: indented, as no error begins.
    error = dropwhile(lambda line: not line.strip() or line.startswith((" ", HEADING)), lines[last + 1 :])
    return shortened(" ".join(" ".join(error).split()))


def in_file(failures: tuple[ImportFailure, ...], file: str) -> tuple[ImportFailure, ...]:
    """Return the failures of a file, of which `file` is the path in the folder of DAGs.

    Airflow 3.0 calls it by its whole path.
    """
    return tuple(
        failure
        for failure in failures
        if file and (failure.filename == file or failure.filename.endswith(f"/{file}"))
    )


def is_since(time: datetime | None, earliest: datetime | None) -> bool:
    """Whether `time` is not before `earliest`; True if either is unknown."""
    return time is None or earliest is None or time >= earliest


def read_run(answer: dict[str, Any]) -> DagRun | None:
    """Read a DAG run, None if it has no id."""
    if not answer.get("dag_run_id"):
        return None
    seen.note_run(str(answer.get("dag_id") or ""), str(answer["dag_run_id"]))
    return DagRun(
        dag_id=str(answer.get("dag_id") or ""),
        run_id=str(answer["dag_run_id"]),
        run_type=str(answer.get("run_type") or ""),
        state=str(answer.get("state") or ""),
        logical_date=read_time(answer.get("logical_date")),
        queued_at=read_time(answer.get("queued_at")),
        start=read_time(answer.get("start_date")),
        end=read_time(answer.get("end_date")),
        run_after=read_time(answer.get("run_after")),
    )


def read_stops(events: list[dict[str, Any]]) -> dict[tuple[str, str], datetime]:
    """Read from Airflow's event log when somebody last set each run to failed, by DAG and run."""
    stops: dict[tuple[str, str], datetime] = {}
    for event in events:
        when = read_time(event.get("when"))
        if event.get("event") == RUN_CHANGED and '"failed"' in str(event.get("extra")) and when:
            key = (str(event.get("dag_id")), str(event.get("run_id")))
            stops[key] = max(when, stops.get(key, when))
    return stops


def may_be_stopped(run: DagRun) -> bool:
    """Whether only Airflow's event log tells if a run failed by itself."""
    return run.state == "failed" and run.start is not None


def with_stop(run: DagRun, stops: dict[tuple[str, str], datetime]) -> DagRun:
    """Return a run with the time at which somebody stopped it: of one that began again since, none."""
    stopped = stops.get((run.dag_id, run.run_id))
    if stopped is None or not may_be_stopped(run) or (run.queued_at and stopped < run.queued_at):
        return run
    return replace(run, stopped=stopped)


def read_backfill(answer: dict[str, Any]) -> Backfill | None:
    """Read a backfill, None for one that is closed or of which Airflow does not say which it is."""
    number = answer.get("id")
    times = [read_time(answer.get(name)) for name in ("from_date", "to_date", "created_at")]
    since, until, created = times
    if answer.get("completed_at") or not isinstance(number, int) or not since or not until or not created:
        return None
    limit = answer.get("max_active_runs")
    return Backfill(
        number,
        str(answer.get("dag_id") or ""),
        since,
        until,
        created,
        limit if isinstance(limit, int) else None,
        answer.get("is_paused") is True,
    )


def read_tasks(answers: list[dict[str, Any]]) -> tuple[TaskState, ...]:
    """Read task instances, in order of start, but those of a mapped task by their index, after the first."""
    tasks = [read_task(task) for task in answers if task.get("task_id")]
    starts: dict[str, datetime] = {}
    for task in tasks:
        starts[task.id] = min(starts.get(task.id, NEVER), task.start or NEVER)
    return tuple(sorted(tasks, key=lambda task: (starts[task.id], task.id, task.map_index)))


def read_task(task: dict[str, Any]) -> TaskState:
    """Read a task instance, which has a task_id; all else may be missing or null."""
    start, end = read_time(task.get("start_date")), read_time(task.get("end_date"))
    number, index = task.get("try_number"), task.get("map_index")
    index = index if isinstance(index, int) else -1
    seen.note_task(task.get("dag_id"), instance_name(str(task["task_id"]), index))
    return TaskState(
        id=str(task["task_id"]),
        state=str(task.get("state") or "none"),
        tries=number if isinstance(number, int) else 0,
        seconds=(end - start).total_seconds() if start and end else None,
        map_index=index,
        start=start,
        end=end,
        waits_for=_waits_for(task),
    )


def _waits_for(task: dict[str, Any]) -> str:
    """Return what ends the wait of a task that has given up its process; empty for any other."""
    if task.get("state") == "awaiting_input":
        return "an answer in Airflow's user interface"
    trigger = task.get("trigger")
    if task.get("state") != "deferred" or not isinstance(trigger, dict) or not trigger.get("classpath"):
        return ""
    name = str(trigger["classpath"]).rpartition(".")[2]
    return f"{name} in the triggerer" if trigger.get("triggerer_id") else f"the triggerer, to run {name}"


def read_try(answer: dict[str, Any]) -> TaskTry:
    """Read one try of a task instance."""
    number = answer.get("try_number")
    return TaskTry(
        number=number if isinstance(number, int) else 0,
        state=str(answer.get("state") or "none"),
        start=read_time(answer.get("start_date")),
        end=read_time(answer.get("end_date")),
    )


def read_rows(event: dict[str, Any]) -> int:
    """Return the rows that the event of an asset tells, 0 if it tells none."""
    rows = _object(event.get("extra")).get("rows")
    return rows if isinstance(rows, int) else 0


def refusal(answer: object) -> str:
    """Return what Airflow says of a request that it refused: the first paragraph, empty if nothing."""
    detail = answer.get("detail") if isinstance(answer, dict) else None
    if isinstance(detail, list):
        detail = "; ".join(
            str(item.get("msg", item)) if isinstance(item, dict) else str(item) for item in detail
        )
    return str(detail or "").split("\n\n", 1)[0].rstrip(".")


def one_line(text: str) -> str:
    """Return the beginning of a text without line breaks, as a part of a sentence."""
    told = " ".join(text.split())
    return told if len(told) <= LONGEST_REASON else f"{told[:LONGEST_REASON]}…"


def cut_lines(text: str) -> str:
    """Return a text of which each line has its beginning alone, if it is too long for a sentence."""
    return "\n".join(
        line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]}…" for line in text.splitlines()
    )


def read_time(text: object) -> datetime | None:
    """Read a time, in UTC if it has no time zone; None if it is missing or no time."""
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def read_duration(answer: Any) -> timedelta | None:  # noqa: ANN401  whatever Airflow answers
    """Read a duration, as an object or in ISO 8601 as Pydantic writes it; None if it is missing or none."""
    try:
        if isinstance(answer, str) and (parts := DURATION.fullmatch(answer)):
            years, days, hours, minutes, seconds = (float(part or 0) for part in parts.groups())
            return timedelta(365 * years + days, hours=hours, minutes=minutes, seconds=seconds)
        return timedelta(**{name: answer[name] for name in ("days", "seconds", "microseconds")})
    except (TypeError, KeyError, OverflowError):
        return None


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
