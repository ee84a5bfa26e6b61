"""Checks of Airflow: its API, heartbeats, DAG files, triggerer, pools and old runs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pipectl.airflow_answers import NEWEST_FIRST, import_reason, objects, one_line, read_time
from pipectl.airflow_health import LATE
from pipectl.errors import AirflowError, AirflowSilentError, PipectlError
from pipectl.names import counted, shell
from pipectl.overload import overload
from pipectl.pipeline.doctor.checks import UP, Desk, Finding, bad, check, fine
from pipectl.pipeline.readiness import component_starts, processor_start
from pipectl.services import HEALTHY, SERVICES, WAITING

if TYPE_CHECKING:
    from pipectl.airflow_health import AirflowHealth

RESTART = "pipectl restart {}"
# The clean-up runs once a day, and a machine may be off for one.
LATE_DAYS = 3
DEFAULT_RETENTION = 30
ROOM = 16


@check("airflow")
def airflow(desk: Desk) -> Finding:
    """Airflow's API answers, is this project's, takes its login, and reaches its metadata database."""
    health = desk.airflow()
    try:
        health.check()
        health.read("/api/v2/dags?limit=1")
        return fine(f"Airflow {health.version()} at {health.address.url}")
    except AirflowSilentError as error:
        found = error.message.removesuffix(".")
        if refused := desk.refused(desk.log_in("postgres")):
            return replace(refused, found=f"{found}, and {refused.found}")
        return bad(found, RESTART.format("webserver"))
    except PipectlError as error:
        return bad(error.message.removesuffix("."), UP)


@check("heartbeats")
def heartbeats(desk: Desk) -> Finding:
    """Scheduler, DAG processor and triggerer give heartbeats."""
    starts = component_starts(desk.services)
    states, latest = desk.airflow().components_and_heartbeats(starts)
    waiting = {service.name for service in desk.services if service.health == WAITING}
    down = {service.name for service in desk.services if service.state != "running"}
    told, now = [], datetime.now(UTC)
    for service in SERVICES:
        if service.component not in latest or service.name in waiting:
            continue
        beat = latest[service.component]
        age = f"{max((now - beat).total_seconds(), 0):.0f} s ago" if beat else "never"
        state = states[service.component]
        # The load may have gone down since.
        late = f", late{f', for {busy}' if (busy := overload()) else ''}" if state == LATE else ""
        told.append(f"{service.name} {age}{late}")
        if service.name in down:
            return bad(f"{service.name} gives no heartbeats{f', the latest {age}' if beat else ''}", UP)
        if state not in {HEALTHY, LATE}:
            return _silent(service.name, beat, starts.get(service.component), now, overload())
    return fine(", ".join(told))


def _silent(name: str, beat: datetime | None, start: datetime | None, now: datetime, busy: str) -> Finding:
    """Say of a service that runs how long it gives no heartbeats, and when to restart it."""
    since = f", the latest {(now - beat).total_seconds():.0f} s ago" if beat else ""
    if start and (beat is None or beat < start):
        since = f" since it was started {(now - start).total_seconds():.0f} s ago"
    restart = RESTART.format(name)
    if busy:
        restart = (
            f"Wait until it has less to do. Only if that does not help, for it interrupts tasks: {restart}"
        )
        since += f", and {busy}"
    return bad(f"{name} gives no heartbeats{since}", restart)


@check("tasks-api")
def tasks_api(desk: Desk) -> Finding:
    """Tasks reach the API that they need, by the way and through the proxies that they take."""
    desk.require("webserver", "scheduler")
    desk.require_user_settings()
    if problem := desk.engine.tasks_api_problem():
        # One that answers nobody is told of by its own check.
        desk.airflow().check()
        return bad(
            f"Airflow answers, and a task's request fails: {one_line(problem.splitlines()[-1])}",
            "Look at the proxies that tasks get, which pipectl does without: of stack/airflow/user.env, "
            "or of the shell that ran pipectl up.",
        )
    return fine("it answers a request made as a task makes it")


@check("dag-imports")
def dag_imports(desk: Desk) -> Finding:
    """Airflow can import every DAG file and every plugin, and has parsed the pipeline's DAG."""
    health, dag_id = desk.airflow(), desk.settings.dag_id
    failures = health.import_failures(processor_start(desk.services))
    if failures:
        reason = import_reason(failures[0].stack_trace)
        more = f", and {counted(len(failures) - 1, 'file')} more" if len(failures) > 1 else ""
        return bad(f"{failures[0].filename} cannot be imported{more}: {reason}", "pipectl check")
    for plugin in _broken_plugins(health):
        reason = one_line(desk.engine.masked(str(plugin.get("error"))))
        return bad(
            f"the plugin {plugin.get('source')} cannot be imported: {reason}",
            "Mend that file, and apply it: pipectl up",
        )
    dag = health.dag(dag_id)
    if dag is None or dag.stale:
        desk.require("dag-processor")
        return bad(f"no file has the DAG {dag_id}", "pipectl dags")
    return fine(f"{counted(len(health.dags()), 'DAG')}; {dag_id} is {'paused' if dag.paused else 'on'}")


def _broken_plugins(health: AirflowHealth) -> list[dict[str, Any]]:
    try:
        return objects(health.read("/api/v2/plugins/importErrors").get("import_errors"))
    except AirflowSilentError:
        raise
    except AirflowError:  # Airflow 3.0 does not tell
        return []


@check("triggerer")
def triggerer(desk: Desk) -> Finding:
    """The triggerer is healthy, or waits for a task to be deferred."""
    health = desk.airflow()
    answer = health.read("/api/v2/dags/~/dagRuns/~/taskInstances?state=deferred&limit=1")
    deferred = answer.get("total_entries")
    service = next((each for each in desk.services if each.name == "triggerer"), None)
    state = (service.health if service and service.health == WAITING else "") or (
        health.components(component_starts(desk.services)).get("triggerer", "unknown")
    )
    tasks = counted(deferred, "task is", "tasks are") if deferred else "no task is"
    found = f"{tasks} deferred, and the triggerer is {state}"
    # One that waits starts with the first task that is deferred.
    is_well = state == HEALTHY if deferred else state != "unhealthy"
    return fine(found) if is_well else bad(found, RESTART.format("triggerer"))


@check("pools")
def pools(desk: Desk) -> Finding:
    """Every pool has slots, and none that is full keeps tasks waiting."""
    found = objects(desk.airflow().read("/api/v2/pools?limit=100").get("pools"))
    told = []
    for pool in found:
        name, slots = str(pool.get("name")), pool.get("slots")
        numbers = {key: pool.get(f"{key}_slots") or 0 for key in ("open", "queued", "scheduled", "running")}
        waiting = numbers["queued"] + numbers["scheduled"]
        remedy = f"pipectl airflow pools set {shell(name)} {ROOM} 'set by hand'"
        if slots == 0:
            return bad(f"the pool {name} has no slots, so its tasks never start", remedy)
        if isinstance(slots, int) and slots > 0 and numbers["open"] <= 0 and waiting:
            remedy = remedy.replace(f" {ROOM} ", f" {slots * 2} ")
            return bad(f"all {counted(slots, 'slot')} of the pool {name} are taken, {waiting} wait", remedy)
        told.append(f"{name} {slots if slots != -1 else 'unlimited'}")
    return fine(", ".join(told) or "none")


@check("retention")
def retention(desk: Desk) -> Finding:
    """Runs and logs that are older than PIPECTL_RETENTION_DAYS are gone."""
    days = int(desk.settings.variables.get("PIPECTL_RETENTION_DAYS") or DEFAULT_RETENTION)
    health, oldest = desk.airflow(), datetime.now(UTC) - timedelta(days=days)
    bound = quote((oldest - timedelta(days=LATE_DAYS)).isoformat(), safe="")
    path = f"/api/v2/dags/~/dagRuns?start_date_lte={bound}&order_by={NEWEST_FIRST}&limit=100"
    answer = health.read(path)
    old = [run for run in objects(answer.get("dag_runs")) if read_time(run.get("end_date"))]
    # The clean-up leaves each DAG its latest run.
    latest = {run.run_id for run in health.last_runs({str(run.get("dag_id")) for run in old}).values()}
    kept = [run for run in old if run.get("dag_run_id") not in latest]
    if kept:
        moment = oldest.strftime("%Y-%m-%dT%H:%M:%S+00:00")
        clean = (
            "pipectl",
            "airflow",
            "db",
            "clean",
            "--clean-before-timestamp",
            moment,
            "--skip-archive",
            "--yes",
        )
        return bad(
            f"{counted(len(kept), 'run')} older than {counted(days, 'day')}, which no clean-up has deleted",
            shell(*clean),
        )
    return fine(f"nothing older than {counted(days, 'day')}")
