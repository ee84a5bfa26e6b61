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
    AirflowHealth,
    in_file,
    no_answer,
    objects,
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
from pipectl.models import DagRun, ImportFailure, TaskState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipectl.models import AirflowAddress

REQUEST_SECONDS = 30.0
LONGEST_REASON = 300
ACTIVE_STATES = ["queued", "running"]
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

    def is_paused(self, dag_id: str) -> bool | None:
        """Whether the DAG is paused, None if Airflow has not parsed a DAG of that id."""
        dag = self._dag(dag_id)
        return None if dag is None else bool(dag.get("is_paused"))

    def dag_ids(self) -> tuple[str, ...]:
        """Ids of the DAGs that Airflow has parsed."""
        answer = self._ask(self._dags.get_dags_without_preload_content, limit=100)
        return tuple(str(dag["dag_id"]) for dag in objects(answer.get("dags")) if dag.get("dag_id"))

    def set_paused(self, dag_id: str, *, paused: bool) -> None:
        """Pause or unpause a DAG."""
        body = self._airflow.DAGPatchBody(is_paused=paused)
        self._ask(self._dags.patch_dag_without_preload_content, dag_id, body, dag_id=dag_id)

    def import_failures_of(self, dag_id: str) -> tuple[ImportFailure, ...]:
        """Files that Airflow cannot import and that may hold the DAG.

        The DAG's own file if Airflow has parsed the DAG before, every broken file if it never has.
        """
        failures = read_import_failures(
            self._ask(self._errors.get_import_errors_without_preload_content, limit=100)
        )
        dag = self._dag(dag_id) if failures else None
        own = str((dag or {}).get("relative_fileloc") or (dag or {}).get("fileloc") or "")
        return in_file(failures, own)

    def trigger(self, dag_id: str, run_id: str, conf: dict[str, Any] | None) -> DagRun:
        """Create a run of our own, without a logical date."""
        body = self._airflow.TriggerDAGRunPostBody(dag_run_id=run_id, logical_date=None, conf=conf or {})
        try:
            answer = self._ask(
                self._runs.trigger_dag_run_without_preload_content, dag_id, body, dag_id=dag_id
            )
        except AirflowConflictError:
            # The id is ours: an earlier request got through, and its answer got lost.
            return self.run(dag_id, run_id)
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

    def tasks(self, dag_id: str, run_id: str) -> tuple[TaskState, ...]:
        """Return the latest try of every task of a run, in order of start."""
        answer = self._ask(
            self._tasks.get_task_instances_without_preload_content, dag_id, run_id, limit=1000, dag_id=dag_id
        )
        tasks = [task for task in objects(answer.get("task_instances")) if task.get("task_id")]
        return tuple(read_task(task) for task in sorted(tasks, key=_start))

    def log(self, dag_id: str, run_id: str, task: TaskState) -> tuple[str, ...]:
        """Return the lines of a task's latest try as its author wrote them."""
        return tuple(filter(None, map(_log_line, self._log_entries(dag_id, run_id, task))))

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

    def _log_entries(self, dag_id: str, run_id: str, task: TaskState) -> list[Any]:
        answer = self._ask(
            self._tasks.get_log_without_preload_content,
            dag_id,
            run_id,
            task.id,
            max(1, task.tries),
            full_content=True,
            map_index=task.map_index,
            accept="application/json",
            dag_id=dag_id,
        )
        content = answer.get("content") or []
        return content if isinstance(content, list) else [content]

    def _dag(self, dag_id: str) -> dict[str, Any] | None:
        """Return what Airflow says of a DAG, None if it has none of that id, or no longer finds its file."""
        try:
            dag = self._ask(self._dags.get_dag_without_preload_content, dag_id)
        except AirflowMissingError:
            return None
        return None if dag.get("is_stale") is True else dag

    def _list_runs(self, dag_id: str, **choice: Any) -> tuple[DagRun, ...]:  # noqa: ANN401  passed on
        answer = self._ask(self._runs.get_dag_runs_without_preload_content, dag_id, dag_id=dag_id, **choice)
        return tuple(self._run(run) for run in objects(answer.get("dag_runs")))

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
        end=end,
    )


def _start(task: dict[str, Any]) -> tuple[bool, str, str, str]:
    start = str(task.get("start_date") or "")
    return not start, start, str(task["task_id"]), f"{task.get('map_index')!s:>9}"


def _detail(answer: object) -> str:
    """Return what Airflow says of a request that it refused, empty if nothing."""
    detail = answer.get("detail") if isinstance(answer, dict) else None
    if isinstance(detail, list):
        detail = "; ".join(
            str(item.get("msg", item)) if isinstance(item, dict) else str(item) for item in detail
        )
    return str(detail or "").rstrip(".")


def _log_line(line: Any) -> str:  # noqa: ANN401  JSON
    if not isinstance(line, dict):
        return str(line)
    event = str(line.get("event") or "")
    if event.startswith("::"):  # the user interface's folding marks
        return ""
    return "\n".join([event, *_reasons(line)])


def _reasons(line: dict[str, Any]) -> list[str]:
    """Return the exceptions of a line of a log."""
    failures = objects(line.get("error_detail"))
    return [f"{failure.get('exc_type')}: {failure.get('exc_value')}" for failure in failures]
