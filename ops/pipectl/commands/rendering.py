"""How results look: the JSON that scripts rely on, and text for people."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipectl.console import elapsed, group, plain, table, words
from pipectl.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType

    from pipectl.console import Console
    from pipectl.models import DagRun, DatabaseContent, Service, TaskState, Volume
    from pipectl.pipeline.lifecycle import ResetResult, UpResult
    from pipectl.pipeline.overview import Status
    from pipectl.pipeline.triggering import TriggerResult
    from pipectl.pipeline.verification import Verification

VERIFICATION_HINTS = {
    "empty": "To empty them: pipectl reset --data-only. If rows are right: --expect populated or reconciled",
    "populated": "Run the pipeline once: pipectl trigger",
    "reconciled": "Label what is left: pipectl trigger. Orphans: a database was restored on its own.",
}


def up_json(result: UpResult) -> dict[str, Any]:
    """Return the documented JSON of `up`."""
    document: dict[str, Any] = plain(result)
    document["moved_ports"] = {
        name: {"wanted": wanted, "used": used} for name, (wanted, used) in result.moved_ports.items()
    }
    return document


def up_text(result: UpResult) -> RenderableType:
    """Return what a user needs after `up`: address, login, ports, and what was moved."""
    default = result.user == result.password == "admin"
    login = f"{result.user} / {result.password}" if default else f"{result.user}, password in stack/.env"
    ports = ", ".join(f"{name} {port}" for name, port in result.ports.items())
    what = "Everything ran already" if not result.started else f"Up in {result.seconds:.1f} s"
    lines = [
        words(f"{what} ({result.engine} engine)", "bold green"),
        words(f"  Airflow   {result.url}   login {login}"),
        words(f"  Ports     {ports}, all on 127.0.0.1"),
    ]
    lines += [
        words(
            f"  Port {wanted} of {name} was taken, so it is {used} now (remembered in stack/.env)", "yellow"
        )
        for name, (wanted, used) in result.moved_ports.items()
    ]
    lines.append(words("  Next      pipectl trigger, pipectl status, pipectl down"))
    return group(*lines)


def down_text(stopped: tuple[str, ...], deleted: tuple[Volume, ...]) -> RenderableType:
    """Return what `down` did."""
    lines = [words(f"Stopped: {', '.join(stopped)}." if stopped else "Nothing was running.")]
    if deleted:
        lines.append(words(f"Deleted: {', '.join(volume.name for volume in deleted)}."))
    return group(*lines)


def reset_json(result: ResetResult) -> dict[str, Any]:
    """Return the JSON of `reset`."""
    return {
        "deleted": plain(result.deleted),
        "created": plain(result.created),
        "up": up_json(result.up) if result.up else None,
    }


def reset_text(result: ResetResult) -> RenderableType:
    """Return the proof of a reset: what went, what stands there now, and since when."""
    before = {volume.name: volume for volume in result.deleted}
    rows: list[tuple[object, ...]] = [
        (
            volume.name,
            before[volume.name].created.astimezone().strftime("%Y-%m-%d %H:%M:%S")
            if volume.name in before
            else "",
            volume.created.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        )
        for volume in result.created
    ]
    proof = table("volume", "deleted, was from", "new, created", rows=rows, title="Reset")
    return group(proof, up_text(result.up)) if result.up else proof


def volumes_text(volumes: tuple[Volume, ...], title: str) -> RenderableType:
    """Return the volumes that a command is about."""
    if not volumes:
        return words(f"{title}: nothing, there is no data of this project.")
    rows: list[tuple[object, ...]] = [
        (
            volume.name,
            volume.location,
            volume.created.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
            size(volume.bytes),
        )
        for volume in volumes
    ]
    return table("volume", "location", "created", "size", rows=rows, title=title)


def dry_run_text(document: dict[str, Any], volumes: tuple[Volume, ...]) -> RenderableType:
    """Return what a command would do."""
    parts = []
    if "would_delete" in document:
        parts.append(volumes_text(volumes, "Would be deleted"))
    for key, title in (("would_start", "Would be started"), ("would_stop", "Would be stopped")):
        if key in document:
            parts.append(words(f"{title}: {', '.join(document[key]) or 'nothing'}."))
    parts += [words(f"$ {command}") for command in document.get("would_run", ())]
    return group(*parts)


def size(count: int) -> str:
    """Return bytes as people read them."""
    return f"{count / 1_000_000:,.1f} MB"


def content_text(content: tuple[DatabaseContent, ...], title: str) -> RenderableType:
    """Return tables and rows of databases."""
    rows: list[tuple[object, ...]] = [
        (database.name, found.name, found.rows) for database in content for found in database.tables
    ]
    if not rows:
        return words(f"{title}: no tables in {' and '.join(database.name for database in content)}.")
    return table("database", "table", "rows", rows=rows, title=title)


def verification_text(result: Verification) -> RenderableType:
    """Return what is in the databases and whether that is as expected."""
    parts = [content_text(result.databases, "Databases")]
    if result.expect == "reconciled":
        parts.append(
            words(f"Transactions without a label: {result.unlabelled}. Orphaned labels: {result.orphans}.")
        )
    if result.ok:
        parts.append(words(f"As expected: {result.expect}.", "bold green"))
    return group(*parts)


def run_json(run: DagRun) -> dict[str, Any]:
    """Return a DAG run as JSON."""
    return {**plain(run), "seconds": run.seconds}


def runs_text(dag_id: str, runs: tuple[DagRun, ...]) -> RenderableType:
    """Return the runs of a DAG, newest first."""
    if not runs:
        return words(f"{dag_id} has never run. Start it: pipectl trigger {dag_id}")
    rows: list[tuple[object, ...]] = [
        (
            run.run_id,
            run.run_type,
            run.state,
            _clock(run.start),
            "" if run.seconds is None else f"{run.seconds:.1f} s",
        )
        for run in runs
    ]
    return table("run", "type", "state", "started", "took", rows=rows, title=dag_id)


def trigger_json(result: TriggerResult) -> dict[str, Any]:
    """Return the documented JSON of `trigger`."""
    return {
        "dag_id": result.dag_id,
        "run_id": result.run_id,
        "state": result.state,
        "seconds": result.seconds,
        "tasks": [
            {"id": task.id, "state": task.state, "try": task.tries, "seconds": task.seconds}
            | ({"map_index": task.map_index} if task.map_index >= 0 else {})
            for task in result.tasks
        ],
        "delta": plain(result.delta),
        "unpaused": result.unpaused,
        "other_runs": [run_json(run) for run in result.other_runs],
    }


def trigger_text(result: TriggerResult) -> RenderableType:
    """Return what a run did: its tasks, and what came into the databases."""
    parts = []
    if result.tasks:
        rows: list[tuple[object, ...]] = [
            (
                task.id if task.map_index < 0 else f"{task.id}[{task.map_index}]",
                task.state,
                task.tries,
                "" if task.seconds is None else f"{task.seconds:.1f} s",
            )
            for task in result.tasks
        ]
        parts.append(table("task", "state", "try", "took", rows=rows))
    took = f" in {result.seconds:.1f} s" if result.seconds is not None else ""
    style = {"success": "bold green", "failed": "bold red"}.get(result.state, "")
    parts.append(words(f"{result.run_id}: {result.state}{took}", style))
    if result.delta:
        delta = result.delta
        parts.append(
            words(
                f"  + {delta.transactions:,} transactions, {delta.labels:,} labels, "
                f"{delta.frauds:,} of them fraud"
            )
        )
    parts += [
        words(f"  Apart from it: unpausing made Airflow start the scheduled run {run.run_id} ({run.state}).")
        for run in result.other_runs
    ]
    return group(*parts)


def status_json(found: Status) -> dict[str, Any]:
    """Return the documented JSON of `status`."""
    return {
        "project": str(found.project),
        "engine": found.engine,
        "services": [
            {
                "name": service.name,
                "state": service.state,
                "health": service.health,
                "port": service.port,
                **({"container": service.container} if service.container else {"pid": service.pid}),
            }
            for service in found.services
        ],
        "airflow": plain(found.airflow),
        "dag": {
            **plain(found.dag),
            "last_run": run_json(found.dag.last_run) if found.dag.last_run else None,
        },
        "databases": {
            database.address.service.removeprefix("airbyte-"): {
                **plain(database.address),
                "reachable": database.reachable,
                "rows": database.rows,
                "error": database.error,
            }
            for database in found.databases
        },
    }


def status_text(found: Status) -> RenderableType:
    """Return the state of everything on one screen."""
    rows: list[tuple[object, ...]] = [
        (
            service.name,
            service.state,
            service.health,
            str(service.port or ""),
            service.container or str(service.pid or ""),
        )
        for service in found.services
    ]
    services = table(
        "service",
        "state",
        "health",
        "port",
        "container" if any(service.container for service in found.services) else "pid",
        rows=rows,
        title=f"{found.project} ({found.engine})",
    )
    airflow, dag = found.airflow, found.dag
    lines = [
        f"Airflow   {airflow.url}  {airflow.version}, {airflow.executor}"
        if airflow.reachable
        else "Airflow   not running; start it: pipectl up"
    ]
    if dag.found:
        paused = (
            "paused; start it: pipectl trigger" if dag.paused else f"on, next run {dag.next_run or 'unknown'}"
        )
        lines.append(f"DAG       {dag.dag_id}: {paused}")
        last = dag.last_run
        lines.append(f"Last run  {last.run_id}: {last.state}" if last else "Last run  none")
    elif airflow.reachable:
        lines.append(f"DAG       {dag.dag_id}: not parsed")
    if dag.import_error:
        lines.append(f"          {dag.import_error.strip().splitlines()[-1]}")
    for database in found.databases:
        address = database.address
        where = f"{address.host}:{address.port}/{address.database}"
        content = ", ".join(f"{name} {count:,}" for name, count in database.rows.items()) or "no tables"
        lines.append(f"{address.service:<17} {where}: {content if database.reachable else 'not reachable'}")
    return group(services, *(words(line) for line in lines))


def services_table(services: tuple[Service, ...], since: float) -> RenderableType:
    """Return the live table of `up`."""
    rows: list[tuple[object, ...]] = [(service.name, service.state, service.health) for service in services]
    return table("service", "state", "health", rows=rows, title=f"Starting, {elapsed(since)}")


class Progress(Observer):
    """Says what a command does, line by line."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def report(self, sentence: str) -> None:
        """Say it."""
        self._console.say(sentence)


class StartProgress(Progress):
    """Shows how services come up: a live table in a terminal, a line per service elsewhere."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._since = time.monotonic()
        self._services: tuple[Service, ...] = ()
        self._healthy: set[str] = set()
        self._redraw: Callable[[], None] = lambda: None

    def see_services(self, services: tuple[Service, ...]) -> None:
        """Show them."""
        self._services = services
        self._redraw()
        for service in services:
            if service.health == "healthy" and service.name not in self._healthy:
                self._healthy.add(service.name)
                if not self._console.is_live:
                    self._console.say(f"  {service.name} is healthy ({elapsed(self._since)})")

    @contextmanager
    def shown(self) -> Iterator[Observer]:
        """Draw the live table while the block runs."""
        with self._console.live(lambda: services_table(self._services, self._since)) as self._redraw:
            yield self


class RunProgress(Progress):
    """Shows a run task by task: one line per change of state."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._states: dict[tuple[str, int], str] = {}
        self._behind = ""

    def see_triggered(self, run: DagRun, *, unpaused: bool) -> None:
        """Say which run is ours."""
        if unpaused:
            self._console.say(f"Unpaused {run.dag_id}: Airflow starts the run of its latest slot too.")
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
                name = task.id if task.map_index < 0 else f"{task.id}[{task.map_index}]"
                self._console.say(
                    f"  {name}: {task.state}" + (f", try {task.tries}" if task.tries > 1 else "")
                )


def _clock(when: Any) -> str:  # noqa: ANN401  datetime or None
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S") if when else ""
