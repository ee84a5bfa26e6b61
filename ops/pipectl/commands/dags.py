"""trigger, runs, pause, unpause."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipectl import options
from pipectl.commands import rendering
from pipectl.console import group, words
from pipectl.errors import RunFailedError, UsageError

if TYPE_CHECKING:
    from pipectl.airflow_api import AirflowApi
    from pipectl.invocation import Invocation
    from pipectl.pipeline.triggering import TriggerResult


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    for command in (trigger, runs, pause, unpause):
        app.command()(command)


def trigger(
    ctx: typer.Context,
    dag_id: options.DagId = options.DEFAULT_DAG_ID,
    *,
    conf: Annotated[str | None, typer.Option(help="Parameters of the run, as a JSON object.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the run to its end.")] = True,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds to follow the run; it goes on after that.")
    ] = options.RUN_SECONDS,
    repeat: Annotated[int, typer.Option(min=1, max=1000, help="Runs, one after the other.")] = 1,
) -> None:
    """Trigger one run of our own, follow it task by task, and say what it did to the data.

    Waits until the DAG is parsed, and unpauses it. Exit 7 where the run fails, 8 where it takes too
    long, 9 for a DAG that is missing or broken.

    Examples: `pipectl trigger` · `pipectl trigger my_dag --conf '{"day": "2026-01-01"}'` ·
    `pipectl trigger --no-wait --json` · `pipectl trigger --repeat 10`
    """
    invocation: Invocation = ctx.obj
    parameters = _parse_conf(conf)
    api = _api(invocation)
    results = []
    for _ in range(repeat):
        result = _trigger_once(invocation, api, dag_id, parameters, wait=wait, timeout=timeout)
        results.append(result)
        if wait and result.state != "success":
            break
    answers = [rendering.trigger_json(result) for result in results]
    invocation.console.emit(
        answers[0] if repeat == 1 else answers,
        lambda: group(*(rendering.trigger_text(result) for result in results)),
    )
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

    console, settings = invocation.console, invocation.settings
    observer = rendering.RunProgress(console)
    paused = triggering.wait_until_parsed(api, dag_id, dags_dir=settings.project / "dags", observer=observer)
    own = dag_id == settings.dag_id
    count = business_databases(invocation.engine).counts if own else None
    return triggering.trigger(
        api,
        dag_id,
        paused=paused,
        conf=conf,
        count=count,
        observer=observer,
        timeout=timeout,
        wait=wait,
    )


def _failed(api: AirflowApi, result: TriggerResult) -> RunFailedError:
    from pipectl.pipeline import triggering  # noqa: PLC0415

    task, log = triggering.failing_task_log(api, result)
    where = f" in task {task.id}" if task else ""
    return RunFailedError(
        f"The run {result.run_id} of {result.dag_id} failed{where}.",
        hint=f"In the browser: {api.address.url}/dags/{result.dag_id}/runs/{result.run_id}",
        detail=log,
    )


def runs(
    ctx: typer.Context,
    dag_id: options.DagId = options.DEFAULT_DAG_ID,
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100, help="How many, newest first.")] = 10,
) -> None:
    """List the latest runs of a DAG.

    Examples: `pipectl runs` · `pipectl runs my_dag --limit 50 --json`
    """
    invocation: Invocation = ctx.obj
    found = _api(invocation).runs(dag_id, limit)
    invocation.console.emit(
        {"dag_id": dag_id, "runs": [rendering.run_json(run) for run in found]},
        lambda: rendering.runs_text(dag_id, found),
    )


def pause(ctx: typer.Context, dag_id: options.DagId = options.DEFAULT_DAG_ID) -> None:
    """Pause a DAG: Airflow schedules no new runs, a run that is active goes on.

    Examples: `pipectl pause` · `pipectl pause my_dag`
    """
    _set_paused(ctx.obj, dag_id, paused=True)


def unpause(ctx: typer.Context, dag_id: options.DagId = options.DEFAULT_DAG_ID) -> None:
    """Unpause a DAG: Airflow starts the run of the latest slot at once, then one per slot.

    Examples: `pipectl unpause` · `pipectl unpause my_dag`
    """
    _set_paused(ctx.obj, dag_id, paused=False)


def _set_paused(invocation: Invocation, dag_id: str, *, paused: bool) -> None:
    api = _api(invocation)
    api.set_paused(dag_id, paused=paused)
    invocation.console.emit(
        {"dag_id": dag_id, "paused": paused},
        lambda: words(f"{dag_id} is {'paused' if paused else 'unpaused'}."),
    )


def _api(invocation: Invocation) -> AirflowApi:
    from pipectl.airflow_api import AirflowApi  # noqa: PLC0415
    from pipectl.pipeline.access import airflow_address  # noqa: PLC0415

    return AirflowApi(airflow_address(invocation.engine))


def _parse_conf(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    import json  # noqa: PLC0415  20 ms

    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(
            f"--conf is not JSON: {error}.", hint="""A JSON object in quotes: --conf '{"count": 100}'"""
        ) from error
    if not isinstance(value, dict):
        raise UsageError("--conf must be a JSON object.", hint="""For example: --conf '{"count": 100}'""")
    return value
