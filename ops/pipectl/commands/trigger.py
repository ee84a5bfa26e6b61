"""trigger."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from pipectl import options
from pipectl.commands.shared import Progress, airflow_api, group, line, table
from pipectl.errors import PipectlError, UsageError
from pipectl.names import command, counted, moment

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from pipectl.airflow_api import AirflowApi
    from pipectl.console import Console
    from pipectl.invocation import Invocation
    from pipectl.models import Counts, DagRun, ParsedDag, TaskLogLine, TaskState
    from pipectl.pipeline.run_conf import Assignment, Object
    from pipectl.pipeline.triggering import TriggerResult

END_STYLES = {"success": "bold green", "failed": "bold red"}

Document: TypeAlias = "TriggerResult | tuple[TriggerResult, ...]"  # several with --repeat


def trigger(
    ctx: typer.Context,
    dag_id: options.DagId = None,
    *,
    conf: Annotated[
        list[str] | None,
        typer.Option(
            help="Parameters of the run, as a JSON object, @FILE with one, or KEY=VALUE; several are merged."
        ),
    ] = None,
    logical_date: Annotated[
        str | None,
        typer.Option(
            help="The run's logical date, in ISO 8601, of UTC if it names no time zone.", show_default="now"
        ),
    ] = None,
    no_logical_date: Annotated[
        bool, typer.Option("--no-logical-date", help="The run has none: templates know no `ds`.")
    ] = False,
    wait: options.Wait = True,
    timeout: options.RunTimeout = options.RUN_SECONDS,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show what the tasks log, while they log it.")
    ] = False,
    repeat: Annotated[int, typer.Option(min=1, max=1000, help="Runs, one after the other.")] = 1,
) -> None:
    """Trigger one run of our own, follow it task by task, and say what it did to the data.

    Waits until the DAG is parsed, holds --conf against its params, and unpauses it. Exit 7 if the run
    fails, 8 if it takes too long, 9 for a DAG that is missing or broken.

    Examples: `pipectl trigger` · `pipectl trigger my_dag --conf days=7 --conf '{"full": true}'` ·
    `pipectl trigger --logical-date 2026-01-31 --no-wait --json` · `pipectl trigger --repeat 10`
    """
    invocation: Invocation = ctx.obj
    from pipectl.pipeline import run_conf, triggering  # noqa: PLC0415

    given = run_conf.parse(conf or ())
    if follow and not wait:
        raise UsageError("--follow and --no-wait exclude each other.", hint="Give one of them.")
    date_of = logical_dates(logical_date, none=no_logical_date, repeat=repeat)
    if logical_date and wait and (date := date_of()) and date > datetime.now(UTC):
        raise UsageError(
            f"--logical-date {logical_date} is yet to come, and Airflow starts no run before its date.",
            hint="To have it start then, without following it: --no-wait",
        )
    dag_id = invocation.dag_id(dag_id)
    patience = triggering.Patience(invocation.engine, RunProgress(invocation.console), timeout, follows=wait)
    api = patience.ask(airflow_api, invocation)
    results: list[TriggerResult] = []
    for left in reversed(range(repeat)):
        try:
            result = _trigger_once(
                invocation, api, dag_id, given, date_of, wait=wait, timeout=timeout, logs=follow
            )
        except PipectlError as error:
            if left:
                error.hint = f"{error.hint}\nNot started then: {counted(left, 'run')} of --repeat.".lstrip()
            raise
        results.append(result)
        if wait and result.state != "success":
            break
    document: Document = results[0] if repeat == 1 else tuple(results)
    invocation.console.emit(
        document, lambda: result_text(results[0]) if repeat == 1 else results_text(results, repeat)
    )
    last = results[-1]
    if wait and last.state != "success":
        # Shown already, and not again; a program reads it in the error alone.
        shown = follow and not invocation.console.quiet and not invocation.console.json
        raise triggering.failed_run(api, last.dag_id, last.run_id, last.tasks, lambda _: not shown)


def _trigger_once(
    invocation: Invocation,
    api: AirflowApi,
    dag_id: str,
    given: tuple[Object | Assignment, ...],
    date_of: Callable[[], datetime | None],
    *,
    wait: bool,
    timeout: float,
    logs: bool,
) -> TriggerResult:
    from pipectl.pipeline import run_conf, triggering  # noqa: PLC0415
    from pipectl.pipeline.access import business_databases  # noqa: PLC0415

    settings, observer = invocation.settings, RunProgress(invocation.console)
    patience = triggering.Patience(invocation.engine, observer, timeout, follows=wait)
    patient = patience.repeating(api)

    def batch(batch_id: str) -> Counts | None:
        return patience.ask(lambda: business_databases(invocation.engine).batch(batch_id))

    dag = triggering.wait_until_parsed(
        patient, dag_id, dags_dir=invocation.engine.dags_dir, observer=observer
    )
    invocation.if_interrupted = (
        f"If the run was triggered, it goes on: {command('runs', dag_id)}. "
        f"To end it: {command('cancel', dag_id)}"
    )
    return triggering.trigger(
        patient,
        dag,
        conf=run_conf.conf_for(dag, given, observer),
        logical_date=date_of(),
        batch=batch if dag_id == settings.dag_id else None,
        observer=observer,
        timeout=timeout,
        wait=wait,
        logs=logs,
        asides=api,
    )


def point_in_time(option: str, text: str) -> datetime:
    """Read a time that an option was given, in UTC if it names no time zone. UsageError if it is none."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"{option} {text} is no time.", hint=f"In ISO 8601: {option} 2026-01-31T06:30+01:00"
        ) from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def logical_dates(text: str | None, *, none: bool, repeat: int) -> Callable[[], datetime | None]:
    """Return what gives the next run its logical date. UsageError for one that the options cannot mean."""
    if text is None:
        return lambda: None if none else datetime.now(UTC)
    if none:
        raise UsageError("--logical-date and --no-logical-date exclude each other.", hint="Give one of them.")
    if repeat > 1:
        raise UsageError(
            "--repeat makes several runs, and a DAG has one run at most of a logical date.",
            hint="Leave --logical-date out: each run then has the time at which it is triggered.",
        )
    date = point_in_time("--logical-date", text)
    return lambda: date


def results_text(results: list[TriggerResult], number: int) -> RenderableType:
    """Return what runs, of a `number`, did: a row each, their sums, and the tasks of one that failed."""
    from pipectl.models import Counts  # noqa: PLC0415

    deltas = [result.delta for result in results if result.delta]
    rows: list[tuple[object, ...]] = [
        (
            result.run_id,
            result.state,
            "" if result.seconds is None else f"{result.seconds:.1f} s",
            *(_counts(result.delta) if deltas else ()),
        )
        for result in results
    ]
    columns = ("transactions", "labels", "frauds") if deltas else ()
    ends = Counter(result.state for result in results)
    ends += Counter({"not started": number - len(results)})
    parts = [table("run", "state", "took", *columns, rows=rows)]
    parts.append(line(", ".join(f"{number} {state}" for state, number in ends.items())))
    if deltas:
        total = Counts(*(sum(column) for column in zip(*map(_counts, deltas), strict=True)))
        parts.append(delta_text(total, sum(result.other_labels for result in results)))
    others = [_other_text(run) for result in results for run in result.other_runs]
    failed = [tasks_text(result.tasks) for result in results if result.state == "failed" and result.tasks]
    return group(*parts, *others, *failed)


def result_text(result: TriggerResult) -> RenderableType:
    """Return what a run did: its tasks, and the new rows in the databases."""
    parts = [tasks_text(result.tasks)] if result.tasks else []
    took = f" in {result.seconds:.1f} s" if result.seconds is not None else ""
    parts.append(line(f"{result.run_id}: {result.state}{took}", END_STYLES.get(result.state, "")))
    if result.delta:
        parts.append(delta_text(result.delta, result.other_labels))
    return group(*parts, *(_other_text(run) for run in result.other_runs))


def tasks_text(tasks: tuple[TaskState, ...]) -> RenderableType:
    """Return the latest tries of a run's tasks as a table."""
    rows: list[tuple[object, ...]] = [
        (task.name, task.state, task.tries, "" if task.seconds is None else f"{task.seconds:.1f} s")
        for task in tasks
    ]
    return table("task", "state", "try", "took", rows=rows)


def delta_text(delta: Counts, other_labels: int = 0) -> RenderableType:
    """Return what runs added to the databases."""
    transactions, labels = counted(delta.transactions, "transaction"), counted(delta.labels, "label")
    text = f"  + {transactions}, {labels}, {delta.frauds:,} of them fraud"
    if other_labels:
        text += f", and {counted(other_labels, 'label')} of older transactions"
    if delta.labels < delta.transactions:
        text += "\n  Why labels are missing: pipectl verify-db --expect reconciled"
    return line(text)


def _other_text(run: DagRun) -> RenderableType:
    return line(f"  Apart from it: Airflow's schedule started the run {run.run_id} ({run.state}).")


def _counts(delta: Counts | None) -> tuple[Any, ...]:
    return (delta.transactions, delta.labels, delta.frauds) if delta else ("", "", "")


class RunProgress(Progress):
    """Shows a run task by task: one line per change of state."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._states: dict[tuple[str, int], str] = {}
        self._behind = ""

    def see_unpaused(self, dag: ParsedDag) -> None:
        """Say which runs that starts."""
        from pipectl.airflow_answers import read_time  # noqa: PLC0415

        due = read_time(dag.next_run)
        others = "the runs that it has missed too, one by one" if dag.catchup else "that run too"
        is_due = due is not None and due <= datetime.now(UTC)
        starts = f": a scheduled run is due since {moment(due)}, and Airflow starts {others}"
        self._console.say(f"Unpaused {dag.dag_id}{starts if is_due else ''}.")

    def see_triggered(self, run: DagRun) -> None:
        """Say which run is ours."""
        self._console.say(f"Triggered {run.run_id}")

    def see_run(self, run: DagRun, tasks: tuple[TaskState, ...], behind: DagRun | None) -> None:
        """Say what has changed since the last look."""
        from pipectl.pipeline.causes import queued_behind, waiting  # noqa: PLC0415

        del run
        if behind and behind.run_id != self._behind:
            self._behind = behind.run_id
            self._console.say(f"  {queued_behind(behind)}")
        for task in tasks:
            key = (task.id, task.map_index)
            state = waiting(task)
            if task.state != "none" and self._states.get(key) != state:
                self._states[key] = state
                self._console.say(
                    f"  {task.name}: {state}" + (f", try {task.tries}" if task.tries > 1 else "")
                )

    def see_log(self, line: TaskLogLine) -> None:
        """Show a line of a task's log with the task's name."""
        from pipectl.task_logs import fold_frames  # noqa: PLC0415

        shown = line.text if self._console.verbose else fold_frames(line.text)
        for text in shown.splitlines():
            self._console.say(f"  {line.name} | {text}")

    def see_failed_try(self, task: TaskState, reason: str, due: datetime | None) -> None:
        """Say why it failed, and when the next is due."""
        from pipectl.pipeline.causes import failed_try  # noqa: PLC0415

        self._console.say(f"    {task.name}: {failed_try(task, reason, due)}")
