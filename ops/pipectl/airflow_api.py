"""Airflow's REST API, by airflow_client.

The client makes the requests; its models are not used for the answers. They know those of one version of
Airflow, and refuse another's for a field that is missing or null.
"""

from __future__ import annotations

import contextlib
import http.client
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pipectl import json_text
from pipectl.airflow_answers import (
    NEWEST_FIRST,
    PAGE,
    RUN_CHANGED,
    all_pages,
    is_since,
    may_be_stopped,
    objects,
    read_backfill,
    read_dag,
    read_dags,
    read_duration,
    read_import_failures,
    read_rows,
    read_run,
    read_stops,
    read_tasks,
    read_time,
    read_try,
    refusal,
    with_stop,
)
from pipectl.airflow_client_parts import part
from pipectl.airflow_health import (
    AirflowHealth,
    broken_dag,
    no_answer,
    server_version,
    unknown_dag,
    unusable_answer,
)
from pipectl.airflow_login import ProvenConnection
from pipectl.errors import (
    AirflowConflictError,
    AirflowError,
    AirflowMissingError,
    AirflowSilentError,
)
from pipectl.names import command
from pipectl.task_logs import error_last, last_error, log_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from datetime import datetime, timedelta

    from pipectl.errors import DagError
    from pipectl.models import AirflowAddress, Backfill, DagRun, ImportFailure, ParsedDag, TaskState, TaskTry

    Failures = tuple[ImportFailure, ...]

REQUEST_SECONDS = 30.0
# An answer that takes longer is waited for while Airflow answers other questions, up to here.
LONGEST_ANSWER_SECONDS = 600.0
ACTIVE_STATES = ["queued", "running"]
KINDS = {http.client.CONFLICT: AirflowConflictError, http.client.NOT_FOUND: AirflowMissingError}


class AirflowApi:
    """A logged-in client. Every method may raise AirflowError, and DagError for an unknown DAG.

    Whenever it opens a connection, the server proves that it is this project's: ForeignAirflowError if not.
    `report` is told of an answer that takes long. `blame` returns the import failures because of which a DAG
    is not one of those that Airflow has parsed.
    """

    # Each is imported once it is needed: 20 to 150 ms.
    _dags = cached_property(lambda self: part("DAGApi")(self._client))
    _runs = cached_property(lambda self: part("DagRunApi")(self._client))
    _tasks = cached_property(lambda self: part("TaskInstanceApi")(self._client))
    _definitions = cached_property(lambda self: part("TaskApi")(self._client))
    _errors = cached_property(lambda self: part("ImportErrorApi")(self._client))
    _backfills = cached_property(lambda self: part("BackfillApi")(self._client))
    _assets = cached_property(lambda self: part("AssetApi")(self._client))
    _events = cached_property(lambda self: part("EventLogApi")(self._client))

    def __init__(
        self,
        address: AirflowAddress,
        report: Callable[[str], None] = lambda _: None,
        blame: Callable[[str, tuple[ParsedDag, ...], Failures], Failures] = lambda *_: (),
    ) -> None:
        self.address = address
        self._blame = blame
        token = AirflowHealth(address).token()
        configuration = part("Configuration")(host=address.url, retries=False, access_token=token)
        # It is on this machine, and else the client takes the proxy of the environment.
        configuration.proxy = None
        self._client = part("ApiClient")(configuration)
        self._client.rest_client.pool_manager.pool_classes_by_scheme = {"http": _proven_pool(address, report)}

    def dag(self, dag_id: str) -> ParsedDag | None:
        """Return a DAG with its details, None if Airflow has not parsed a DAG of that id.

        Without details if Airflow fails to give them, as for a DAG that it cannot deserialise.
        """
        try:
            return read_dag(self._ask(self._dags.get_dag_details_without_preload_content, dag_id))
        except AirflowMissingError:
            return None
        except AirflowSilentError:
            dag = self._dag(dag_id)
            return None if dag is None else read_dag(dag)

    def dags(self) -> tuple[ParsedDag, ...]:
        """All DAGs that Airflow has parsed and that are not stale, without their details."""
        return read_dags(self._ask_for_all("dags", self._dags.get_dags_without_preload_content))

    def dag_ids(self) -> tuple[str, ...]:
        """Ids of the DAGs that Airflow has parsed."""
        return tuple(dag.dag_id for dag in self.dags())

    def missing_dag(self, dag_id: str) -> DagError:
        """Return the error for a DAG that Airflow has not parsed: why not, if its file cannot be imported."""
        dags, failures = self.dags(), self.import_failures()
        if own := self._blame(dag_id, dags, failures):
            return broken_dag(dag_id, own)
        return unknown_dag(dag_id, tuple(dag.dag_id for dag in dags), failures)

    def set_paused(self, dag_id: str, *, paused: bool) -> None:
        """Pause or unpause a DAG."""
        body = {"is_paused": paused}
        self._ask(self._dags.patch_dag_without_preload_content, dag_id, body, dag_id=dag_id)

    def import_failures(self) -> tuple[ImportFailure, ...]:
        """The DAG files that Airflow could not import."""
        return read_import_failures(
            self._ask_for_all("import_errors", self._errors.get_import_errors_without_preload_content),
            mask=self.address.mask,
        )

    def trigger(
        self, dag_id: str, run_id: str, conf: dict[str, Any] | None, logical_date: datetime | None = None
    ) -> DagRun:
        """Create a run of our own. AirflowConflictError if the DAG has one with that logical date."""
        body = {"conf": conf or {}, "dag_run_id": run_id, "logical_date": logical_date}
        try:
            answer = self._ask(
                self._runs.trigger_dag_run_without_preload_content, dag_id, body, dag_id=dag_id
            )
        except AirflowConflictError:
            try:
                # The id is ours: an earlier request got through, and its answer got lost.
                return self.run(dag_id, run_id)
            except AirflowMissingError:
                pass
            raise self._taken(dag_id, logical_date) from None
        return self._run(answer)

    def run(self, dag_id: str, run_id: str) -> DagRun:
        """Return a run as it is now."""
        run = self._run(
            self._ask(self._runs.get_dag_run_without_preload_content, dag_id, run_id, dag_id=dag_id)
        )
        return self._with_stops(dag_id, (run,))[0]

    def runs(self, dag_id: str, limit: int = 20) -> tuple[DagRun, ...]:
        """Return the runs that were made last, the newest first."""
        return self.runs_and_total(dag_id, limit)[0]

    def runs_and_total(self, dag_id: str, limit: int) -> tuple[tuple[DagRun, ...], int]:
        """Return the runs that were made last, the newest first, and how many there are in all."""
        answer = self._ask_for_runs(dag_id, limit=limit, order_by=[NEWEST_FIRST])
        runs, total = self._read_runs(dag_id, answer), answer.get("total_entries")
        return runs, total if isinstance(total, int) else len(runs)

    def active_runs(self, dag_id: str) -> tuple[DagRun, ...]:
        """Return the runs that are queued or running, oldest first."""
        return self._all_runs(dag_id, state=ACTIVE_STATES, order_by=["run_after"])

    def runs_between(self, dag_id: str, since: datetime, until: datetime) -> tuple[DagRun, ...]:
        """Return all runs whose logical date is neither before `since` nor after `until`, oldest first."""
        return self._all_runs(
            dag_id, logical_date_gte=since, logical_date_lte=until, order_by=["logical_date"]
        )

    def backfill_slots(
        self, dag_id: str, since: datetime, until: datetime, reprocess: str = "none"
    ) -> tuple[datetime, ...]:
        """Return the logical dates of the schedule that have no run, by `reprocess` those with one too.

        With "failed" those whose run failed, with "completed" those whose run has ended.
        """
        body = self._backfill_body(dag_id, since, until, reprocess)
        request = self._backfills.create_backfill_dry_run_without_preload_content
        answer = self._ask(request, body, dag_id=dag_id)
        slots = (read_time(slot.get("logical_date")) for slot in objects(answer.get("backfills")))
        return tuple(slot for slot in slots if slot)

    def backfill(
        self, dag_id: str, since: datetime, until: datetime, max_active_runs: int, reprocess: str = "none"
    ) -> None:
        """Make a run for each of the `backfill_slots`, or start the one again that it has.

        AirflowConflictError if a backfill of the DAG is active.
        """
        body = self._backfill_body(dag_id, since, until, reprocess, max_active_runs)
        self._ask(self._backfills.create_backfill_without_preload_content, body, dag_id=dag_id)

    def active_backfill(self, dag_id: str) -> Backfill | None:
        """Return the backfill of a DAG that Airflow has not closed, some seconds after its last run."""
        request = self._backfills.list_backfills_without_preload_content
        answer = self._ask(request, dag_id, order_by=["-id"], dag_id=dag_id)
        found = (read_backfill(backfill) for backfill in objects(answer.get("backfills")))
        return next((backfill for backfill in found if backfill), None)

    def cancel_backfill(self, backfill: Backfill) -> None:
        """Fail the runs of a backfill that are queued, and close it; those that run go on."""
        self._ask(
            self._backfills.cancel_backfill_without_preload_content, backfill.id, dag_id=backfill.dag_id
        )

    def tasks(self, dag_id: str, run_id: str) -> tuple[TaskState, ...]:
        """Return the latest try of every task of a run, in order of start."""
        answers = self._ask_for_all(
            "task_instances",
            self._tasks.get_task_instances_without_preload_content,
            dag_id,
            run_id,
            dag_id=dag_id,
        )
        return read_tasks(answers)

    def tries(self, dag_id: str, run_id: str, task: TaskState) -> tuple[TaskTry, ...]:
        """Return every try of a task of a run, the first one first."""
        place = (dag_id, run_id, task.id)
        mapped = self._tasks.get_mapped_task_instance_tries_without_preload_content
        plain = self._tasks.get_task_instance_tries_without_preload_content
        answer = (
            self._ask(plain, *place, dag_id=dag_id)
            if task.map_index < 0
            else self._ask(mapped, *place, task.map_index, dag_id=dag_id)
        )
        tries = (read_try(found) for found in objects(answer.get("task_instances")))
        return tuple(sorted(tries, key=lambda found: found.number))

    def log(self, dag_id: str, run_id: str, task: TaskState, number: int = 0) -> tuple[str, ...]:
        """Return the lines of a task's try as its author wrote them; of the latest try without a number."""
        return tuple(log_lines(error_last(self._log_entries(dag_id, run_id, task, number))))

    def last_error(self, dag_id: str, run_id: str, task: TaskState) -> str:
        """Return the last failure in the log of a task's try, in one line, empty if there is none."""
        return last_error(self._log_entries(dag_id, run_id, task))

    def rows_written(self, dag_id: str, asset: str, run_ids: Collection[str], since: datetime | None) -> int:
        """Return how many rows runs of a DAG say that they wrote to an asset, since a time."""
        choice: dict[str, Any] = {"source_run_id": next(iter(run_ids))} if len(run_ids) == 1 else {}
        events = self._ask_for_all(
            "asset_events",
            self._assets.get_asset_events_without_preload_content,
            source_dag_id=dag_id,
            timestamp_gte=since,
            **choice,
        )
        rows = (
            read_rows(event)
            for event in events
            if event.get("name") == asset
            and event.get("source_run_id") in run_ids
            and is_since(read_time(event.get("timestamp")), since)
        )
        return sum(rows)

    def retry_delay(self, dag_id: str, task_id: str) -> timedelta | None:
        """Return the shortest time from a failed try of a task to the next, None if Airflow does not say."""
        request = self._definitions.get_task_without_preload_content
        return read_duration(self._ask(request, dag_id, task_id, dag_id=dag_id).get("retry_delay"))

    def _log_entries(self, dag_id: str, run_id: str, task: TaskState, number: int = 0) -> list[Any]:
        answer = self._ask(
            self._tasks.get_log_without_preload_content,
            dag_id,
            run_id,
            task.id,
            max(1, number or task.tries),
            full_content=True,
            map_index=task.map_index,
            accept="application/json",
            dag_id=dag_id,
        )
        content = answer.get("content") or []
        return content if isinstance(content, list) else [content]

    def clear(
        self,
        dag_id: str,
        run_id: str,
        *,
        tasks: tuple[tuple[str, int], ...] = (),
        only_failed: bool = False,
        downstream: bool = False,
        dry_run: bool = False,
    ) -> tuple[TaskState, ...]:
        """Let tasks of a run start again, as they come; return them as they are after it.

        `tasks` are ids and map indexes, -1 for all instances of a task; without any all tasks are meant.
        """
        chosen = [task_id if index < 0 else [task_id, index] for task_id, index in tasks]
        kind = part("ClearTaskInstancesBodyTaskIdsInner")
        body = part("ClearTaskInstancesBody")(
            dag_run_id=run_id,
            task_ids=[kind(task) for task in chosen] or None,
            only_failed=only_failed,
            include_downstream=downstream,
            dry_run=dry_run,
            prevent_running_task=None,  # Airflow 3.0 refuses a field that it does not know
        )
        answer = self._ask(
            self._tasks.post_clear_task_instances_without_preload_content, dag_id, body, dag_id=dag_id
        )
        return read_tasks(objects(answer.get("task_instances")))

    def fail(self, dag_id: str, run_id: str) -> DagRun:
        """End a run: what runs of it is stopped and failed, what has not begun is skipped."""
        body = part("DAGRunPatchBody")(state=part("DagRunMutableStates").FAILED)
        return self._run(
            self._ask(self._runs.patch_dag_run_without_preload_content, dag_id, run_id, body, dag_id=dag_id)
        )

    def _backfill_body(
        self, dag_id: str, since: datetime, until: datetime, reprocess: str, max_active_runs: int = 1
    ) -> Any:  # noqa: ANN401  a class of the client
        return part("BackfillPostBody")(
            dag_id=dag_id,
            from_date=since,
            to_date=until,
            max_active_runs=max_active_runs,
            reprocess_behavior=part("ReprocessBehavior")(reprocess),
        )

    def _dag(self, dag_id: str) -> dict[str, Any] | None:
        """Return what Airflow says of a DAG, None if it has none of that id, or no longer finds its file."""
        try:
            dag = self._ask(self._dags.get_dag_without_preload_content, dag_id)
        except AirflowMissingError:
            return None
        return None if dag.get("is_stale") is True else dag

    def _taken(self, dag_id: str, logical_date: datetime | None) -> AirflowConflictError:
        answer = self._ask_for_runs(
            dag_id, logical_date_gte=logical_date, logical_date_lte=logical_date, limit=1
        )
        runs = self._read_runs(dag_id, answer)
        name = f" {runs[0].run_id}" if runs else ""
        again = f"To run it again: {command('clear', dag_id, runs[0].run_id)}" if runs else ""
        date = logical_date.isoformat() if logical_date else "none"
        return AirflowConflictError(
            f"{dag_id} has a run{name} with the logical date {date} already, and can have no second one.",
            hint=again,
        )

    def _all_runs(self, dag_id: str, **choice: Any) -> tuple[DagRun, ...]:  # noqa: ANN401  passed on
        request = self._runs.get_dag_runs_without_preload_content
        answers = self._ask_for_all("dag_runs", request, dag_id, dag_id=dag_id, **choice)
        return self._with_stops(dag_id, tuple(self._run(run) for run in answers))

    def _ask_for_runs(self, dag_id: str, **choice: Any) -> dict[str, Any]:  # noqa: ANN401  passed on
        return self._ask(self._runs.get_dag_runs_without_preload_content, dag_id, dag_id=dag_id, **choice)

    def _read_runs(self, dag_id: str, answer: dict[str, Any]) -> tuple[DagRun, ...]:
        return self._with_stops(dag_id, tuple(self._run(run) for run in objects(answer.get("dag_runs"))))

    def _with_stops(self, dag_id: str, runs: tuple[DagRun, ...]) -> tuple[DagRun, ...]:
        """Return runs with the time at which somebody stopped them, as far as Airflow tells that."""
        if not any(may_be_stopped(run) for run in runs):
            return runs
        with contextlib.suppress(AirflowError):  # what is only told fails no command
            request = self._events.get_event_logs_without_preload_content
            answer = self._ask(request, PAGE, 0, ["-when"], dag_id, event=RUN_CHANGED)
            stops = read_stops(objects(answer.get("event_logs")))
            return tuple(with_stop(run, stops) for run in runs)
        return runs

    def _ask_for_all(
        self,
        name: str,
        request: Callable[..., Any],
        *arguments: Any,  # noqa: ANN401  passed on
        dag_id: str = "",
        **choice: Any,  # noqa: ANN401  passed on
    ) -> list[dict[str, Any]]:
        """Return all objects of the list `name`, which comes in pages."""
        return all_pages(
            lambda offset: self._ask(request, *arguments, limit=PAGE, offset=offset, dag_id=dag_id, **choice),
            name,
        )

    def _run(self, answer: dict[str, Any]) -> DagRun:
        run = read_run(answer)
        if run is None:
            raise self._unusable("a run has no dag_run_id")
        return run

    def _ask(
        self,
        request: Callable[..., Any],
        *arguments: Any,  # noqa: ANN401  passed on
        dag_id: str = "",
        **options: Any,  # noqa: ANN401  passed on
    ) -> dict[str, Any]:
        """Make a request of the client and return the answer as it is."""
        with self._explained():
            response = request(*arguments, _request_timeout=REQUEST_SECONDS, **options)
            text = response.read()
        try:
            answer = json_text.parse(text)
        except ValueError:
            answer = None
        if response.status >= http.client.BAD_REQUEST:
            detail = refusal(answer) or response.reason or f"HTTP {response.status}"
            if response.status == http.client.NOT_FOUND and dag_id and self._dag(dag_id) is None:
                raise self.missing_dag(dag_id)
            kind = KINDS.get(response.status, AirflowError)
            if response.status >= http.client.INTERNAL_SERVER_ERROR:
                kind = AirflowSilentError
            raise kind(f"Airflow at {self.address.url} refused the request: {detail}.")
        if not isinstance(answer, dict):
            raise self._unusable("it is no JSON object")
        return answer

    def _unusable(self, reason: str) -> AirflowError:
        return unusable_answer(self.address, server_version(self.address), reason)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        import urllib3  # noqa: PLC0415  imported by airflow_client already

        try:
            yield
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise no_answer(self.address, error) from error


def _proven_pool(address: AirflowAddress, report: Callable[[str], None]) -> Any:  # noqa: ANN401  a class of urllib3
    """Return a class of connection pools, on whose connections the server at `address` proves itself.

    What it works on for long is waited for, and `report` is told.
    """
    import urllib3  # noqa: PLC0415  imported by airflow_client already

    class Connection(ProvenConnection, urllib3.connection.HTTPConnection):
        def getresponse(self) -> Any:  # noqa: ANN401  a class of urllib3
            """Wait for the answer as long as Airflow gives others meanwhile."""
            deadline = time.monotonic() + LONGEST_ANSWER_SECONDS
            told = False
            while not urllib3.util.wait.wait_for_read(self.sock, REQUEST_SECONDS):
                AirflowHealth(address).check()
                if time.monotonic() > deadline:
                    raise AirflowError(
                        f"Airflow at {address.url} works, and has not answered a request in"
                        f" {LONGEST_ANSWER_SECONDS:g} s.",
                        hint="What it does: pipectl logs webserver",
                    )
                if not told:
                    report(f"Airflow works on a request for {REQUEST_SECONDS:g} s now. Waiting")
                    told = True
            return super().getresponse()

    class Pool(urllib3.HTTPConnectionPool):
        ConnectionCls = Connection

    Connection.address = address
    return Pool
