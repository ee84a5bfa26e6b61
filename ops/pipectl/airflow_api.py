"""Airflow's REST API: the only module that imports airflow_client."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from pipectl.airflow_login import ProvenConnection, api_token
from pipectl.errors import AirflowError, DagError
from pipectl.models import DagRun, ImportFailure, TaskState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from pipectl.models import AirflowAddress

REQUEST_SECONDS = 30.0
NOT_FOUND = 404
ACTIVE_STATES = ["queued", "running"]


class AirflowApi:
    """A logged-in client. Every method may raise AirflowError, and DagError for an unknown DAG.

    Whenever it opens a connection, the server proves that it is this project's: ForeignAirflowError if not.
    """

    def __init__(self, address: AirflowAddress) -> None:
        import airflow_client.client as airflow  # 1.1 s

        self._airflow = airflow
        self.address = address
        self._configuration = airflow.Configuration(host=address.url, retries=False)
        self._client = airflow.ApiClient(self._configuration)
        self._client.rest_client.pool_manager.pool_classes_by_scheme = {"http": _proven_pool(address)}
        self._dags = airflow.DAGApi(self._client)
        self._runs = airflow.DagRunApi(self._client)
        self._tasks = airflow.TaskInstanceApi(self._client)
        self._errors = airflow.ImportErrorApi(self._client)
        self._log_in()

    def _log_in(self) -> None:
        if self.address.takes_signed and self.address.secret:
            self._configuration.access_token = api_token(self.address)
            return
        login = self._airflow.LoginApi(self._client)
        # The client has no model for /auth/token, which belongs to the auth manager.
        with self._explained():
            response = login.api_client.call_api(
                "POST",
                f"{self.address.url}/auth/token",
                {"Content-Type": "application/json"},
                {"username": self.address.user, "password": self.address.password},
                _request_timeout=REQUEST_SECONDS,
            )
            response.read()
        token = json.loads(response.data or b"{}").get("access_token")
        if not token:
            raise AirflowError(
                f"Airflow at {self.address.url} refused the login of {self.address.user!r}.",
                hint="Check AIRFLOW_ADMIN_USER and AIRFLOW_ADMIN_PASSWORD in stack/.env.",
            )
        self._configuration.access_token = token

    def is_paused(self, dag_id: str) -> bool | None:
        """Whether the DAG is paused, None if Airflow has not parsed a DAG of that id."""
        try:
            with self._explained(dag_id):
                return bool(self._dags.get_dag(dag_id, _request_timeout=REQUEST_SECONDS).is_paused)
        except DagError:
            return None

    def dag_ids(self) -> tuple[str, ...]:
        """Ids of the DAGs that Airflow has parsed."""
        with self._explained():
            answer = self._dags.get_dags(limit=100, _request_timeout=REQUEST_SECONDS)
        return tuple(dag.dag_id for dag in answer.dags)

    def set_paused(self, dag_id: str, *, paused: bool) -> None:
        """Pause or unpause a DAG."""
        with self._explained(dag_id):
            self._dags.patch_dag(
                dag_id, self._airflow.DAGPatchBody(is_paused=paused), _request_timeout=REQUEST_SECONDS
            )

    def import_failures_of(self, dag_id: str) -> tuple[ImportFailure, ...]:
        """Files that Airflow cannot import and that may hold the DAG.

        The DAG's own file if Airflow has parsed the DAG before, every broken file if it never has.
        """
        with self._explained():
            errors = self._errors.get_import_errors(limit=100, _request_timeout=REQUEST_SECONDS).import_errors
        failures = tuple(ImportFailure(error.filename, error.stack_trace) for error in errors)
        if not failures:
            return ()
        try:
            with self._explained(dag_id):
                dag = self._dags.get_dag(dag_id, _request_timeout=REQUEST_SECONDS)
        except DagError:
            return failures
        own = dag.relative_fileloc or dag.fileloc
        return tuple(failure for failure in failures if failure.filename.endswith(own))

    def trigger(self, dag_id: str, run_id: str, conf: dict[str, Any] | None) -> DagRun:
        """Create a run of our own, without a logical date."""
        body = self._airflow.TriggerDAGRunPostBody(dag_run_id=run_id, logical_date=None, conf=conf or {})
        with self._explained(dag_id):
            return _dag_run(self._runs.trigger_dag_run(dag_id, body, _request_timeout=REQUEST_SECONDS))

    def run(self, dag_id: str, run_id: str) -> DagRun:
        """Return a run as it is now."""
        with self._explained(dag_id):
            return _dag_run(self._runs.get_dag_run(dag_id, run_id, _request_timeout=REQUEST_SECONDS))

    def runs(self, dag_id: str, limit: int = 20) -> tuple[DagRun, ...]:
        """Return the latest runs, newest first."""
        with self._explained(dag_id):
            answer = self._runs.get_dag_runs(
                dag_id, limit=limit, order_by=["-run_after"], _request_timeout=REQUEST_SECONDS
            )
        return tuple(_dag_run(run) for run in answer.dag_runs)

    def active_runs(self, dag_id: str) -> tuple[DagRun, ...]:
        """Return the runs that are queued or running, oldest first."""
        with self._explained(dag_id):
            answer = self._runs.get_dag_runs(
                dag_id,
                state=ACTIVE_STATES,
                limit=100,
                order_by=["run_after"],
                _request_timeout=REQUEST_SECONDS,
            )
        return tuple(_dag_run(run) for run in answer.dag_runs)

    def tasks(self, dag_id: str, run_id: str) -> tuple[TaskState, ...]:
        """Return the latest try of every task of a run, in order of start."""
        with self._explained(dag_id):
            answer = self._tasks.get_task_instances(
                dag_id, run_id, limit=1000, _request_timeout=REQUEST_SECONDS
            )
        tasks = sorted(
            answer.task_instances,
            key=lambda task: (task.start_date is None, str(task.start_date), task.task_id, task.map_index),
        )
        return tuple(
            TaskState(
                id=task.task_id,
                state=_value(task.state) or "none",
                tries=task.try_number,
                seconds=_seconds(task.start_date, task.end_date),
                map_index=task.map_index,
            )
            for task in tasks
        )

    def log(self, dag_id: str, run_id: str, task: TaskState) -> tuple[str, ...]:
        """Return the lines of a task's latest try as its author wrote them."""
        with self._explained(dag_id):
            # The generated model knows one of the two forms of a line, so the answer is read as it is.
            response = self._tasks.get_log_without_preload_content(
                dag_id,
                run_id,
                task.id,
                max(1, task.tries),
                full_content=True,
                map_index=task.map_index,
                accept="application/json",
                _request_timeout=REQUEST_SECONDS,
            )
            text = response.read()
        try:
            content = json.loads(text).get("content") or []
        except ValueError:
            return ()
        lines = (_log_line(line) for line in ([content] if isinstance(content, str) else content))
        return tuple(line for line in lines if line)

    @contextlib.contextmanager
    def _explained(self, dag_id: str = "") -> Iterator[None]:
        import urllib3  # noqa: PLC0415  imported by airflow_client already

        try:
            yield
        except self._airflow.ApiException as error:
            detail = _detail(error)
            if error.status == NOT_FOUND and dag_id:
                raise DagError(
                    f"Airflow knows no DAG {dag_id!r}: {detail}.", hint="What is there: pipectl status"
                ) from error
            raise AirflowError(f"Airflow at {self.address.url} refused the request: {detail}.") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise AirflowError(
                f"Airflow does not answer at {self.address.url}.",
                hint="Start the stack: pipectl up. What runs already: pipectl status",
                detail=str(error),
            ) from error


def _proven_pool(address: AirflowAddress) -> Any:  # noqa: ANN401  a class of urllib3
    """Return a class of connection pools, on whose connections the server at `address` proves itself."""
    import urllib3  # noqa: PLC0415  imported by airflow_client already

    class Connection(ProvenConnection, urllib3.connection.HTTPConnection):
        pass

    class Pool(urllib3.HTTPConnectionPool):
        ConnectionCls = Connection

    Connection.address = address
    return Pool


def _dag_run(run: Any) -> DagRun:  # noqa: ANN401  generated model
    return DagRun(
        dag_id=run.dag_id,
        run_id=run.dag_run_id,
        run_type=_value(run.run_type),
        state=_value(run.state),
        logical_date=run.logical_date,
        queued_at=run.queued_at,
        start=run.start_date,
        end=run.end_date,
    )


def _value(enumerated: Any) -> str:  # noqa: ANN401  generated enum or None
    return "" if enumerated is None else str(getattr(enumerated, "value", enumerated))


def _seconds(start: datetime | None, end: datetime | None) -> float | None:
    return (end - start).total_seconds() if start and end else None


def _detail(error: Any) -> str:  # noqa: ANN401  generated exception
    try:
        detail = json.loads(error.body)["detail"]
    except (TypeError, ValueError, KeyError):
        detail = error.reason or f"HTTP {error.status}"
    if isinstance(detail, list):
        detail = "; ".join(
            str(item.get("msg", item)) if isinstance(item, dict) else str(item) for item in detail
        )
    return str(detail).rstrip(".")


def _log_line(line: Any) -> str:  # noqa: ANN401  JSON
    if not isinstance(line, dict):
        return str(line)
    event = str(line.get("event", ""))
    if event.startswith("::"):  # the user interface's folding marks
        return ""
    failures = line.get("error_detail") or ()
    reasons = [f"{failure.get('exc_type')}: {failure.get('exc_value')}" for failure in failures]
    return "\n".join([event, *reasons])
