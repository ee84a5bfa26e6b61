"""The few plain requests that `up` and `status` poll, without airflow_client, whose import takes 1.1 s."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from pipectl.airflow_login import ProvenConnection, api_token
from pipectl.errors import AirflowError
from pipectl.models import DagRun, ImportFailure
from pipectl.services import components

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipectl.models import AirflowAddress

REQUEST_SECONDS = 20
REFUSALS = {http.client.UNAUTHORIZED, http.client.FORBIDDEN}


@dataclass(frozen=True)
class ParsedDag:
    """A DAG that Airflow has parsed, from `file` in the folder of DAGs.

    `next_run` is a time in ISO 8601, empty if no run is planned; `parsed` is when the file was read last.
    """

    paused: bool
    has_import_errors: bool
    file: str
    next_run: str
    parsed: datetime | None = None


class AirflowHealth:
    """One keep-alive connection to Airflow's API server. Every method may raise AirflowError.

    Each time it is opened, the server proves that it is this project's: ForeignAirflowError if it is not.
    """

    def __init__(self, address: AirflowAddress) -> None:
        self.address = address
        self._token = ""
        parts = urlsplit(address.url)
        self._path = parts.path.rstrip("/")
        self._connection = ProvenConnection(
            parts.hostname or "127.0.0.1", parts.port or 80, timeout=REQUEST_SECONDS
        )
        self._connection.address = address

    def components(self, started: Mapping[str, datetime]) -> dict[str, str]:
        """Health of each of Airflow's components that is a service: healthy, unhealthy or unknown.

        A component whose process is one of `started` is unhealthy until that process has given a heartbeat:
        Airflow still calls it healthy by that of the process before.
        """
        _, body = self._request("GET", "/api/v2/monitor/health")
        health = {}
        for name in components():
            answer = body.get(name) or {}
            health[name] = answer.get("status") or "unknown"
            heartbeat = _time(answer.get(f"latest_{name}_heartbeat"))
            if heartbeat and name in started and heartbeat < started[name]:
                health[name] = "unhealthy"
        return health

    def version(self) -> str:
        """Airflow's version."""
        return str(self._request("GET", "/api/v2/version")[1].get("version", ""))

    def dag(self, dag_id: str) -> ParsedDag | None:
        """The DAG, None if Airflow has not parsed a DAG of that id (yet)."""
        status, body = self._get(f"/api/v2/dags/{quote(dag_id, safe='')}")
        if status != http.client.OK:
            return None
        return ParsedDag(
            paused=bool(body.get("is_paused")),
            has_import_errors=bool(body.get("has_import_errors")),
            file=str(body.get("relative_fileloc") or ""),
            next_run=str(body.get("next_dagrun_run_after") or ""),
            parsed=_time(body.get("last_parsed_time")),
        )

    def last_run(self, dag_id: str) -> DagRun | None:
        """The latest run of the DAG, None if it never ran."""
        runs = self._runs(dag_id, "limit=1&order_by=-run_after")
        return _dag_run(runs[0]) if runs else None

    def active_runs(self, dag_id: str) -> tuple[str, ...]:
        """Ids of the runs that are queued or running, oldest first; empty for an unknown DAG."""
        runs = self._runs(dag_id, "state=running&state=queued&order_by=run_after")
        return tuple(str(run["dag_run_id"]) for run in runs)

    def import_failures(self, since: datetime | None = None) -> tuple[ImportFailure, ...]:
        """The DAG files that Airflow could not import, of those that it has tried `since` then."""
        _, body = self._get("/api/v2/importErrors?limit=100")
        return tuple(
            ImportFailure(str(error.get("filename")), str(error.get("stack_trace")))
            for error in body.get("import_errors") or ()
            if is_since(_time(error.get("timestamp")), since)
        )

    def _runs(self, dag_id: str, query: str) -> list[dict[str, Any]]:
        status, body = self._get(f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns?{query}")
        return list(body.get("dag_runs") or ()) if status == http.client.OK else []

    def _get(self, path: str) -> tuple[int, dict[str, Any]]:
        """Make a request for which one must be logged in."""
        if not self._token and self.address.takes_signed and self.address.secret:
            self._token = api_token(self.address)
            status, body = self._request("GET", path)
            if status not in REFUSALS:
                return status, body
            self._token = ""
        if not self._token:
            login = {"username": self.address.user, "password": self.address.password}
            status, body = self._request("POST", "/auth/token", login)
            if "access_token" not in body:
                raise AirflowError(
                    f"Airflow at {self.address.url} refused the login of "
                    f"{self.address.user!r} (HTTP {status}).",
                    hint="Check AIRFLOW_ADMIN_USER and AIRFLOW_ADMIN_PASSWORD in stack/.env.",
                )
            self._token = str(body["access_token"])
        return self._request("GET", path)

    def _request(
        self, method: str, path: str, content: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            self._connection.request(
                method, self._path + path, None if content is None else json.dumps(content), headers
            )
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise AirflowError(
                f"Airflow does not answer at {self.address.url}.",
                hint="Start the stack: pipectl up. What runs already: pipectl status",
                detail=str(error),
            ) from error
        try:
            body = json.loads(text)
        except ValueError:
            body = {}
        return response.status, body if isinstance(body, dict) else {}


def is_since(time: datetime | None, earliest: datetime | None) -> bool:
    """Whether `time` is not before `earliest`; True if either is unknown."""
    return time is None or earliest is None or time >= earliest


def _time(text: object) -> datetime | None:
    return datetime.fromisoformat(str(text)) if text else None


def _dag_run(run: dict[str, Any]) -> DagRun:
    return DagRun(
        dag_id=str(run["dag_id"]),
        run_id=str(run["dag_run_id"]),
        run_type=str(run["run_type"]),
        state=str(run["state"]),
        logical_date=_time(run.get("logical_date")),
        queued_at=_time(run.get("queued_at")),
        start=_time(run.get("start_date")),
        end=_time(run.get("end_date")),
    )
