"""Airflow's REST API: the only module that imports airflow_client.

The client makes the requests; its models are not used for the answers. They know those of one version of
Airflow, and refuse another's for a field that is missing or null.
"""

from __future__ import annotations

import contextlib
import http.client
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pipectl import json_text
from pipectl.airflow_health import (
    PAGE,
    AirflowHealth,
    all_pages,
    no_answer,
    objects,
    read_dag,
    read_import_failures,
    read_run,
    read_time,
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
from pipectl.models import Backfill, DagRun, ImportFailure, TaskState, TaskTry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from pipectl.models import AirflowAddress, ParsedDag

REQUEST_SECONDS = 30.0
LONGEST_REASON = 300
ACTIVE_STATES = ["queued", "running"]
# Around the places in which Airflow found a log: other ones while the task runs.
SOURCES, SOURCES_END = "::group::Log message source details", "::endgroup::"
# As Python links two exceptions.
CAUSED = "The above exception was the direct cause of the following exception:"
FOLLOWED = "During handling of the above exception, another exception occurred:"
KINDS = {http.client.CONFLICT: AirflowConflictError, http.client.NOT_FOUND: AirflowMissingError}


class AirflowApi:
    """A logged-in client. Every method may raise AirflowError, and DagError for an unknown DAG.

    Whenever it opens a connection, the server proves that it is this project's: ForeignAirflowError if not.
    """

    def __init__(self, address: AirflowAddress) -> None:
        import airflow_client.client as airflow  # 1.1 s

        self._airflow = airflow
        self.address = address
        token = AirflowHealth(address).token()
        configuration = airflow.Configuration(host=address.url, retries=False, access_token=token)
        # It is on this machine, and else the client takes the proxy of the environment.
        configuration.proxy = None
        client = airflow.ApiClient(configuration)
        client.rest_client.pool_manager.pool_classes_by_scheme = {"http": _proven_pool(address)}
        self._dags = airflow.DAGApi(client)
        self._runs = airflow.DagRunApi(client)
        self._tasks = airflow.TaskInstanceApi(client)
        self._definitions = airflow.TaskApi(client)
        self._errors = airflow.ImportErrorApi(client)
        self._backfills = airflow.BackfillApi(client)

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
        answers = self._ask_for_all("dags", self._dags.get_dags_without_preload_content)
        return tuple(read_dag(dag) for dag in answers if dag.get("dag_id"))

    def dag_ids(self) -> tuple[str, ...]:
        """Ids of the DAGs that Airflow has parsed."""
        return tuple(dag.dag_id for dag in self.dags())

    def set_paused(self, dag_id: str, *, paused: bool) -> None:
        """Pause or unpause a DAG."""
        body = self._airflow.DAGPatchBody(is_paused=paused)
        self._ask(self._dags.patch_dag_without_preload_content, dag_id, body, dag_id=dag_id)

    def import_failures(self) -> tuple[ImportFailure, ...]:
        """The DAG files that Airflow could not import."""
        return read_import_failures(
            self._ask_for_all("import_errors", self._errors.get_import_errors_without_preload_content)
        )

    def trigger(
        self, dag_id: str, run_id: str, conf: dict[str, Any] | None, logical_date: datetime | None = None
    ) -> DagRun:
        """Create a run of our own. AirflowConflictError if the DAG has one with that logical date."""
        body = self._airflow.TriggerDAGRunPostBody(
            dag_run_id=run_id, logical_date=logical_date, conf=conf or {}
        )
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
        return self._run(
            self._ask(self._runs.get_dag_run_without_preload_content, dag_id, run_id, dag_id=dag_id)
        )

    def runs(self, dag_id: str, limit: int = 20) -> tuple[DagRun, ...]:
        """Return the latest runs, newest first."""
        return self._list_runs(dag_id, limit=limit, order_by=["-run_after"])

    def active_runs(self, dag_id: str) -> tuple[DagRun, ...]:
        """Return the runs that are queued or running, oldest first."""
        return self._list_runs(dag_id, state=ACTIVE_STATES, limit=100, order_by=["run_after"])

    def runs_between(self, dag_id: str, since: datetime, until: datetime) -> tuple[DagRun, ...]:
        """Return all runs whose logical date is neither before `since` nor after `until`, oldest first."""
        answers = self._ask_for_all(
            "dag_runs",
            self._runs.get_dag_runs_without_preload_content,
            dag_id,
            dag_id=dag_id,
            logical_date_gte=since,
            logical_date_lte=until,
            order_by=["logical_date"],
        )
        return tuple(self._run(run) for run in answers)

    def backfill_slots(
        self, dag_id: str, since: datetime, until: datetime, *, failed: bool = False
    ) -> tuple[datetime, ...]:
        """Return the logical dates for which `backfill` would make runs, or start failed ones again."""
        body = self._backfill_body(dag_id, since, until, failed=failed)
        request = self._backfills.create_backfill_dry_run_without_preload_content
        answer = self._ask(request, body, dag_id=dag_id)
        slots = (read_time(slot.get("logical_date")) for slot in objects(answer.get("backfills")))
        return tuple(slot for slot in slots if slot)

    def backfill(
        self, dag_id: str, since: datetime, until: datetime, max_active_runs: int, *, failed: bool = False
    ) -> None:
        """Make a run for each logical date that has none, and with `failed` start failed ones again.

        AirflowConflictError if a backfill of the DAG is active.
        """
        body = self._backfill_body(dag_id, since, until, failed=failed, max_active_runs=max_active_runs)
        self._ask(self._backfills.create_backfill_without_preload_content, body, dag_id=dag_id)

    def active_backfill(self, dag_id: str) -> Backfill | None:
        """Return the backfill of a DAG that Airflow has not closed, some seconds after its last run."""
        request = self._backfills.list_backfills_without_preload_content
        answer = self._ask(request, dag_id, order_by=["-id"], dag_id=dag_id)
        found = (_read_backfill(backfill) for backfill in objects(answer.get("backfills")))
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
        return _read_tasks(answers)

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
        tries = (_read_try(found) for found in objects(answer.get("task_instances")))
        return tuple(sorted(tries, key=lambda found: found.number))

    def log(self, dag_id: str, run_id: str, task: TaskState, number: int = 0) -> tuple[str, ...]:
        """Return the lines of a task's try as its author wrote them; of the latest try without a number."""
        return tuple(_log_lines(self._log_entries(dag_id, run_id, task, number)))

    def last_error(self, dag_id: str, run_id: str, task: TaskState) -> str:
        """Return the last failure in the log of a task's try, in one line, empty if there is none."""
        entries = [entry for entry in self._log_entries(dag_id, run_id, task) if isinstance(entry, dict)]
        for entry in reversed(entries):
            if entry.get("error_detail") or entry.get("level") in {"error", "critical"}:
                reason = (_reasons(entry) or [str(entry.get("event") or "")])[-1]
                return " ".join(reason.split())[:LONGEST_REASON]
        return ""

    def retry_delay(self, dag_id: str, task_id: str) -> timedelta | None:
        """Return the shortest time from a failed try of a task to the next, None if Airflow does not say."""
        request = self._definitions.get_task_without_preload_content
        delay: Any = self._ask(request, dag_id, task_id, dag_id=dag_id).get("retry_delay")
        try:
            return timedelta(**{name: delay[name] for name in ("days", "seconds", "microseconds")})
        except (TypeError, KeyError, OverflowError):
            return None

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
        kind = self._airflow.ClearTaskInstancesBodyTaskIdsInner
        body = self._airflow.ClearTaskInstancesBody(
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
        return _read_tasks(objects(answer.get("task_instances")))

    def fail(self, dag_id: str, run_id: str) -> DagRun:
        """End a run: what runs of it is stopped and failed, what has not begun is skipped."""
        body = self._airflow.DAGRunPatchBody(state=self._airflow.DagRunMutableStates.FAILED)
        return self._run(
            self._ask(self._runs.patch_dag_run_without_preload_content, dag_id, run_id, body, dag_id=dag_id)
        )

    def _backfill_body(
        self, dag_id: str, since: datetime, until: datetime, *, failed: bool, max_active_runs: int = 1
    ) -> Any:  # noqa: ANN401  a class of the client
        behavior = self._airflow.ReprocessBehavior
        return self._airflow.BackfillPostBody(
            dag_id=dag_id,
            from_date=since,
            to_date=until,
            max_active_runs=max_active_runs,
            reprocess_behavior=behavior.FAILED if failed else behavior.NONE,
        )

    def _dag(self, dag_id: str) -> dict[str, Any] | None:
        """Return what Airflow says of a DAG, None if it has none of that id, or no longer finds its file."""
        try:
            dag = self._ask(self._dags.get_dag_without_preload_content, dag_id)
        except AirflowMissingError:
            return None
        return None if dag.get("is_stale") is True else dag

    def _taken(self, dag_id: str, logical_date: datetime | None) -> AirflowConflictError:
        runs = self._list_runs(dag_id, logical_date_gte=logical_date, logical_date_lte=logical_date, limit=1)
        name = f" {runs[0].run_id}" if runs else ""
        date = logical_date.isoformat() if logical_date else "none"
        return AirflowConflictError(
            f"{dag_id} has a run{name} with the logical date {date} already, and can have no second one.",
            hint=f"To run it again: pipectl clear {dag_id}{name}" if name else "",
        )

    def _list_runs(self, dag_id: str, **choice: Any) -> tuple[DagRun, ...]:  # noqa: ANN401  passed on
        answer = self._ask(self._runs.get_dag_runs_without_preload_content, dag_id, dag_id=dag_id, **choice)
        return tuple(self._run(run) for run in objects(answer.get("dag_runs")))

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
            detail = _detail(answer) or response.reason or f"HTTP {response.status}"
            if response.status == http.client.NOT_FOUND and dag_id and self._dag(dag_id) is None:
                raise unknown_dag(dag_id, self.dag_ids())
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


def _proven_pool(address: AirflowAddress) -> Any:  # noqa: ANN401  a class of urllib3
    """Return a class of connection pools, on whose connections the server at `address` proves itself."""
    import urllib3  # noqa: PLC0415  imported by airflow_client already

    class Connection(ProvenConnection, urllib3.connection.HTTPConnection):
        pass

    class Pool(urllib3.HTTPConnectionPool):
        ConnectionCls = Connection

    Connection.address = address
    return Pool


def _read_backfill(answer: dict[str, Any]) -> Backfill | None:
    """Read a backfill, None for one that is closed or of which Airflow does not say which it is."""
    number = answer.get("id")
    times = [read_time(answer.get(name)) for name in ("from_date", "to_date", "created_at")]
    since, until, created = times
    if answer.get("completed_at") or not isinstance(number, int) or not since or not until or not created:
        return None
    return Backfill(number, str(answer.get("dag_id") or ""), since, until, created)


def read_task(task: dict[str, Any]) -> TaskState:
    """Read a task instance, which has a task_id; all else may be missing or null."""
    start, end = read_time(task.get("start_date")), read_time(task.get("end_date"))
    number, index = task.get("try_number"), task.get("map_index")
    return TaskState(
        id=str(task["task_id"]),
        state=str(task.get("state") or "none"),
        tries=number if isinstance(number, int) else 0,
        seconds=(end - start).total_seconds() if start and end else None,
        map_index=index if isinstance(index, int) else -1,
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


def _read_tasks(answers: list[dict[str, Any]]) -> tuple[TaskState, ...]:
    """Read task instances, in order of start."""
    tasks = [task for task in answers if task.get("task_id")]
    return tuple(read_task(task) for task in sorted(tasks, key=_start))


def _read_try(answer: dict[str, Any]) -> TaskTry:
    number = answer.get("try_number")
    return TaskTry(
        number=number if isinstance(number, int) else 0,
        state=str(answer.get("state") or "none"),
        start=read_time(answer.get("start_date")),
        end=read_time(answer.get("end_date")),
    )


def _start(task: dict[str, Any]) -> tuple[bool, str, str, str]:
    start = str(task.get("start_date") or "")
    return not start, start, str(task["task_id"]), f"{task.get('map_index')!s:>9}"


def _detail(answer: object) -> str:
    """Return what Airflow says of a request that it refused: the first paragraph, empty if nothing."""
    detail = answer.get("detail") if isinstance(answer, dict) else None
    if isinstance(detail, list):
        detail = "; ".join(
            str(item.get("msg", item)) if isinstance(item, dict) else str(item) for item in detail
        )
    return str(detail or "").split("\n\n", 1)[0].rstrip(".")


def _log_lines(content: list[Any]) -> Iterator[str]:
    """Yield the lines of a log without Airflow's marks for folding, and without where the log was found."""
    hidden = False
    for line in content:
        event = str(line.get("event") or "") if isinstance(line, dict) else str(line)
        hidden = event == SOURCES or (hidden and event != SOURCES_END)
        if hidden or event.startswith("::"):
            continue
        trace = _trace(line) if isinstance(line, dict) else []
        if text := "\n".join([event, *trace]).strip("\n"):
            yield text


def _trace(line: dict[str, Any]) -> list[str]:
    """Return the exceptions of a line of a log as Python shows them: the last one is what the task raised."""
    told: list[str] = []
    failures = list(reversed(objects(line.get("error_detail"))))
    for failure, reason in zip(failures, reversed(_reasons(line)), strict=True):
        frames = objects(failure.get("frames"))
        told += ["Traceback (most recent call last):"] if frames else []
        told += [
            f'  File "{frame.get("filename")}", line {frame.get("lineno")}, in {frame.get("name")}'
            for frame in frames
        ]
        told.append(reason)
        if failure is not failures[-1]:
            is_cause = failure.get("is_cause") is True
            told += ["", CAUSED if is_cause else FOLLOWED, ""]
    return told


def _reasons(line: dict[str, Any]) -> list[str]:
    """Return the exceptions of a line of a log."""
    failures = objects(line.get("error_detail"))
    return [f"{failure.get('exc_type')}: {failure.get('exc_value')}" for failure in failures]
