"""backfill."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipectl import options
from pipectl.commands.shared import NAMED_FAILURES, airflow_api, group, line
from pipectl.commands.trigger import RunProgress, delta_text, point_in_time
from pipectl.errors import RunFailedError, UsageError
from pipectl.names import command, counted, moment

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipectl.invocation import Invocation
    from pipectl.models import DagRun
    from pipectl.pipeline.backfilling import BackfillCancelled, BackfillPlan, BackfillResult

NAMED_SLOTS = 6

Document: TypeAlias = "BackfillResult | BackfillPlan | BackfillCancelled"


def backfill(
    ctx: typer.Context,
    dag_id: options.DagId = None,
    *,
    since: Annotated[
        str | None,
        typer.Option("--from", help="The first logical date, in ISO 8601, of UTC if it names no time zone."),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option("--to", help="The last logical date: a date alone is its midnight.", show_default="now"),
    ] = None,
    max_active_runs: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Runs at once.", show_default="the DAG's own"),
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Start runs that failed again, too.")] = False,
    dry_run: options.DryRun = False,
    wait: options.Wait = True,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout", min=0.1, help="Seconds to wait for the next run to end; they go on after that."
        ),
    ] = options.RUN_SECONDS,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="End the DAG's backfill: its runs that have begun go on.")
    ] = False,
) -> None:
    """Run the slots of the past that have no run, follow them, and say what they did to the data.

    Unpauses the DAG. Exit 7 if a run fails, 8 if none ends in time.

    Examples: `pipectl backfill --from 2026-01-30 --to 2026-01-31 --dry-run` ·
    `pipectl backfill my_dag --from 2026-01-30 --max-active-runs 4` · `pipectl backfill my_dag --cancel`
    """
    invocation: Invocation = ctx.obj
    dag_id = invocation.dag_id(dag_id)
    from pipectl.pipeline import backfilling, triggering  # noqa: PLC0415

    if cancel:
        api = airflow_api(invocation)
        invocation.if_interrupted = f"Which runs go on: {command('runs', dag_id)}"
        cancelled = backfilling.cancel(api, dag_id)
        invocation.console.emit(cancelled, lambda: cancelled_text(cancelled))
        return
    first, last = _times(since, until)
    observer = RunProgress(invocation.console)
    patience = triggering.Patience(invocation.engine, observer, timeout, follows=wait)
    api = patience.ask(airflow_api, invocation)
    patient = patience.repeating(api)
    dag = triggering.wait_until_parsed(
        patient, dag_id, dags_dir=invocation.engine.dags_dir, observer=observer
    )
    if dry_run:
        backfilling.check_schedule(dag)
        plan = backfilling.plan(patient, dag_id, first, last, failed=failed)
        invocation.console.emit(plan, lambda: plan_text(plan))
        return
    invocation.if_interrupted = (
        f"If the backfill was made, it goes on: {command('runs', dag_id)}. "
        f"To end it: {command('backfill', dag_id, '--cancel')}"
    )
    result = backfilling.backfill(
        api,
        dag,
        first,
        last,
        max_active_runs=max_active_runs or dag.max_active_runs or 1,
        patience=patience,
        observer=observer,
        timeout=timeout,
        failed=failed,
        wait=wait,
    )
    if wait and result.runs and dag_id == invocation.settings.dag_id:
        from pipectl.pipeline.access import business_databases  # noqa: PLC0415  60 ms

        batches = tuple(map(backfilling.batch_of, result.runs))
        delta = patience.ask(lambda: business_databases(invocation.engine).batches(batches))
        other_labels = triggering.labels_of_others(api, result.runs, delta)
        result = replace(result, delta=delta, other_labels=other_labels)
    invocation.console.emit(result, lambda: result_text(result))
    if result.failed:
        raise _failure(result)


def _failure(result: BackfillResult) -> RunFailedError:
    """Return the error that says which runs failed, and which were cancelled."""
    failed = [run for run in result.failed if not run.cancelled]
    cancelled = len(result.failed) - len(failed)
    ends = [f"{len(failed):,} failed, {failed[0].run_id} first"] if failed else []
    ends += [f"{cancelled:,} {'was' if cancelled == 1 else 'were'} cancelled"] if cancelled else []
    why = [f"Why: {command('runs', result.dag_id, failed[0].run_id)}"] if failed else []
    return RunFailedError(
        f"Of {counted(len(result.runs), 'run')} of {result.dag_id} {' and '.join(ends)}.",
        hint="\n".join([*why, "To start them again: the same with --failed"]),
    )


def plan_text(plan: BackfillPlan) -> RenderableType:
    """Return which slots would run, and what is there."""
    slots = [moment(slot) for slot in plan.slots]
    if len(slots) > NAMED_SLOTS:
        slots = [*slots[: NAMED_SLOTS - 1], f"… {len(slots) - NAMED_SLOTS:,} more …", slots[-1]]
    would = f"{plan.dag_id}: {counted(len(plan.slots), 'run')} would be made{':' if slots else '.'}"
    return group(line(would), *(line(f"  {slot}") for slot in slots), *_existing_lines(plan.existing))


def result_text(result: BackfillResult) -> RenderableType:
    """Return how the runs ended, and what they did to the data."""
    if not result.runs:
        return group(
            line(f"{result.dag_id}: no slot without a run, so none was made."),
            *_existing_lines(result.existing),
        )
    states = sorted({run.outcome for run in result.runs}, key=lambda state: (state != "success", state))
    counts = ", ".join(f"{sum(run.outcome == state for run in result.runs):,} {state}" for state in states)
    ends = [run.end for run in result.runs if run.end]
    starts = [run.start for run in result.runs if run.start]
    # A run that was ended before its start has none.
    ended = bool(starts) and len(ends) == len(result.runs)
    took = f" in {(max(ends) - min(starts)).total_seconds():.1f} s" if ended else ""
    style = (
        "" if states[-1] in {"queued", "running"} else "bold green" if states == ["success"] else "bold red"
    )
    parts = [line(f"{result.dag_id}: {counted(len(result.runs), 'run')}{took}: {counts}", style)]
    if result.delta:
        parts.append(delta_text(result.delta, result.other_labels))
    failed = [line(f"  {run.outcome}: {run.run_id}", "red") for run in result.failed[:NAMED_FAILURES]]
    return group(*parts, *failed, *_existing_lines(result.existing))


def cancelled_text(result: BackfillCancelled) -> RenderableType:
    """Return what has become of the runs."""
    if not result.cancelled:
        return line(f"{result.dag_id} has no backfill under way.")
    failed = counted(result.failed, "run")
    verb = "is" if result.failed == 1 else "are"
    parts = [line(f"The backfill of {result.dag_id} is ended: {failed} that had not begun {verb} cancelled.")]
    parts += [
        line(f"  {run_id} goes on. To end it too: {command('cancel', result.dag_id, run_id)}")
        for run_id in result.running
    ]
    return group(*parts)


def _times(since: str | None, until: str | None) -> tuple[datetime, datetime]:
    now = datetime.now(UTC).replace(microsecond=0)
    if since is None:
        raise UsageError("A backfill needs to know since when.", hint="Say it: --from 2026-01-31")
    first, last = point_in_time("--from", since), point_in_time("--to", until) if until else now
    hint = "A backfill runs slots of the past, from the first to the last."
    if until and first > last:
        raise UsageError(f"--from {since} is after --to {until}.", hint=hint)
    if first > now:
        raise UsageError(f"--from {since} is yet to come.", hint=hint)
    return first, last


def _existing_lines(existing: tuple[DagRun, ...]) -> list[RenderableType]:
    if not existing:
        return []
    failed = [run for run in existing if run.state == "failed"]
    verb = "has a slot" if len(existing) == 1 else "have slots"
    parts = [line(f"  {counted(len(existing), 'run')} {verb} of these times already.")]
    if failed:
        ends = " or ".join(sorted({run.outcome for run in failed}, reverse=True)).replace(
            "cancelled", "were cancelled"
        )
        parts += [
            line(f"  {len(failed):,} of them {ends}, {failed[0].run_id} first.", "yellow"),
            line("  To start these again: --failed", "yellow"),
        ]
    return parts
