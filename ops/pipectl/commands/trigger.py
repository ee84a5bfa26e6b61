"""trigger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from pipectl import options  # noqa: TC001  Typer reads annotations at run time
from pipectl.commands.shared import Progress, airflow_api, group, line, moment, table
from pipectl.errors import RunFailedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from rich.console import RenderableType

    from pipectl.airflow_api import AirflowApi
    from pipectl.console import Console
    from pipectl.invocation import Invocation
    from pipectl.models import Counts, DagRun, TaskState
    from pipectl.pipeline.triggering import TriggerResult

RUN_SECONDS = 900.0
# Of --conf: more than anybody means, and less than Python's own limit.
DEEPEST = 100

Document: TypeAlias = "TriggerResult | tuple[TriggerResult, ...]"  # several with --repeat


def trigger(
    ctx: typer.Context,
    dag_id: options.DagId = None,
    *,
    conf: Annotated[str | None, typer.Option(help="Parameters of the run, as a JSON object.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the run to its end.")] = True,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds to follow the run; it goes on after that.")
    ] = RUN_SECONDS,
    repeat: Annotated[int, typer.Option(min=1, max=1000, help="Runs, one after the other.")] = 1,
) -> None:
    """Trigger one run of our own, follow it task by task, and say what it did to the data.

    Waits until the DAG is parsed, and unpauses it. Exit 7 if the run fails, 8 if it takes too
    long, 9 for a DAG that is missing or broken.

    Examples: `pipectl trigger` · `pipectl trigger my_dag --conf '{"day": "2026-01-01"}'` ·
    `pipectl trigger --no-wait --json` · `pipectl trigger --repeat 10`
    """
    invocation: Invocation = ctx.obj
    parameters = _parse_conf(conf)
    dag_id = invocation.dag_id(dag_id)
    from pipectl.pipeline.triggering import Patience  # noqa: PLC0415

    patience = Patience(invocation.engine, RunProgress(invocation.console), timeout)
    api = patience.ask(airflow_api, invocation)
    results: list[TriggerResult] = []
    for _ in range(repeat):
        result = _trigger_once(invocation, api, dag_id, parameters, wait=wait, timeout=timeout)
        results.append(result)
        if wait and result.state != "success":
            break
    document: Document = results[0] if repeat == 1 else tuple(results)
    invocation.console.emit(document, lambda: group(*(result_text(result) for result in results)))
    if wait and results[-1].state != "success":
        raise _failed(api, results[-1])


def _trigger_once(
    invocation: Invocation,
    api: AirflowApi,
    dag_id: str,
    conf: dict[str, Any] | None,
    *,
    wait: bool,
    timeout: float,
) -> TriggerResult:
    from pipectl.pipeline import triggering  # noqa: PLC0415
    from pipectl.pipeline.access import business_databases  # noqa: PLC0415

    settings, observer = invocation.settings, RunProgress(invocation.console)
    patience = triggering.Patience(invocation.engine, observer, timeout)
    api = patience.repeating(api)

    def batch(batch_id: str) -> Counts | None:
        return patience.ask(lambda: business_databases(invocation.engine).batch(batch_id))

    paused = triggering.wait_until_parsed(api, dag_id, dags_dir=settings.project / "dags", observer=observer)
    return triggering.trigger(
        api,
        dag_id,
        paused=paused,
        conf=conf,
        batch=batch if dag_id == settings.dag_id else None,
        observer=observer,
        timeout=timeout,
        wait=wait,
    )


def _failed(api: AirflowApi, result: TriggerResult) -> RunFailedError:
    from pipectl.pipeline import triggering  # noqa: PLC0415

    task, log = triggering.failing_task_log(api, result)
    location = f" in task {task.id}" if task else ""
    return RunFailedError(
        f"The run {result.run_id} of {result.dag_id} failed{location}.",
        hint=f"In the browser: {api.address.url}/dags/{result.dag_id}/runs/{result.run_id}",
        detail=log,
    )


def _parse_conf(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    import json  # noqa: PLC0415  20 ms
    import math  # noqa: PLC0415

    def finite(number: str) -> float:
        if not math.isfinite(float(number)):
            raise ValueError(f"{number} is no value that JSON has")
        return float(number)

    example = """A JSON object in quotes: --conf '{"count": 100}'"""
    try:
        value = json.loads(text, parse_constant=finite, parse_float=finite)
        # UTF-8 spells no half of a pair.
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise UsageError("--conf is nested too deeply.", hint=example) from error
    except ValueError as error:
        raise UsageError(f"--conf is not JSON: {error}.", hint=example) from error
    if not isinstance(value, dict):
        raise UsageError("--conf must be a JSON object.", hint=example)
    for part, level in _parts(value):
        if level > DEEPEST:
            raise UsageError(f"--conf is nested more than {DEEPEST} levels deep.", hint=example)
        if isinstance(part, str) and "\0" in part:
            raise UsageError(
                "--conf holds the character U+0000, which PostgreSQL does not store.", hint=example
            )
    return value


def _parts(value: object) -> Iterator[tuple[object, int]]:
    """Yield all that a JSON value consists of, names too, each with the level at which it stands."""
    left = [(value, 0)]
    while left:
        part, level = left.pop()
        yield part, level
        inner = [*part.keys(), *part.values()] if isinstance(part, dict) else part
        left += [(entry, level + 1) for entry in inner] if isinstance(inner, list) else []


def result_text(result: TriggerResult) -> RenderableType:
    """Return what a run did: its tasks, and the new rows in the databases."""
    parts = []
    if result.tasks:
        rows: list[tuple[object, ...]] = [
            (_name(task), task.state, task.tries, "" if task.seconds is None else f"{task.seconds:.1f} s")
            for task in result.tasks
        ]
        parts.append(table("task", "state", "try", "took", rows=rows))
    took = f" in {result.seconds:.1f} s" if result.seconds is not None else ""
    style = {"success": "bold green", "failed": "bold red"}.get(result.state, "")
    parts.append(line(f"{result.run_id}: {result.state}{took}", style))
    if delta := result.delta:
        parts.append(
            line(
                f"  + {delta.transactions:,} transactions, {delta.labels:,} labels, "
                f"{delta.frauds:,} of them fraud"
            )
        )
    parts += [
        line(f"  Apart from it: unpausing made Airflow start the scheduled run {run.run_id} ({run.state}).")
        for run in result.other_runs
    ]
    return group(*parts)


class RunProgress(Progress):
    """Shows a run task by task: one line per change of state."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._states: dict[tuple[str, int], str] = {}
        self._behind = ""

    def see_triggered(self, run: DagRun, *, unpaused: bool) -> None:
        """Say which run is ours."""
        if unpaused:
            self._console.say(
                f"Unpaused {run.dag_id}: Airflow starts its latest scheduled run too, if one is due."
            )
        self._console.say(f"Triggered {run.run_id}")

    def see_run(self, run: DagRun, tasks: tuple[TaskState, ...], behind: DagRun | None) -> None:
        """Say what has changed since the last look."""
        del run
        if behind and behind.run_id != self._behind:
            self._behind = behind.run_id
            self._console.say(f"  queued behind {behind.run_id} ({behind.run_type})")
        for task in tasks:
            key = (task.id, task.map_index)
            if task.state != "none" and self._states.get(key) != task.state:
                self._states[key] = task.state
                self._console.say(
                    f"  {_name(task)}: {task.state}" + (f", try {task.tries}" if task.tries > 1 else "")
                )

    def see_failed_try(self, task: TaskState, reason: str, due: datetime | None) -> None:
        """Say why it failed, and when the next is due."""
        self._console.say(
            f"    {_name(task)}: try {task.tries} failed"
            + (f": {reason}" if reason else "")
            + (f"; try {task.tries + 1} is due at {moment(due)}" if due else "")
        )


def _name(task: TaskState) -> str:
    return task.id if task.map_index < 0 else f"{task.id}[{task.map_index}]"
