"""The few plain requests that `up` and `status` poll, without airflow_client, whose import takes 1.1 s."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from pipectl.errors import AirflowError

if TYPE_CHECKING:
    from pipectl.models import AirflowAddress

REQUEST_SECONDS = 20
COMPONENTS = ("metadatabase", "scheduler", "dag_processor")


class AirflowHealth:
    """One keep-alive connection to Airflow's API server. Every method may raise AirflowError."""

    def __init__(self, address: AirflowAddress) -> None:
        self.address = address
        self._token = ""
        parts = urlsplit(address.url)
        self._path = parts.path.rstrip("/")
        self._connection = http.client.HTTPConnection(
            parts.hostname or "127.0.0.1", parts.port or 80, timeout=REQUEST_SECONDS
        )

    def components(self) -> dict[str, str]:
        """Health of each of COMPONENTS: healthy, unhealthy or unknown."""
        _, body = self._request("GET", "/api/v2/monitor/health")
        return {name: (body.get(name) or {}).get("status") or "unknown" for name in COMPONENTS}

    def version(self) -> str:
        """Airflow's version."""
        return str(self._request("GET", "/api/v2/version")[1].get("version", ""))

    def dag(self, dag_id: str) -> dict[str, Any] | None:
        """The DAG as the API gives it, None where it is not known (yet)."""
        status, body = self._authorised("GET", f"/api/v2/dags/{quote(dag_id, safe='')}")
        return body if status == http.client.OK else None

    def last_run(self, dag_id: str) -> dict[str, Any] | None:
        """The latest run of the DAG as the API gives it, None where it never ran."""
        status, body = self._authorised(
            "GET", f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns?limit=1&order_by=-run_after"
        )
        runs = body.get("dag_runs") if status == http.client.OK else None
        return runs[0] if runs else None

    def active_runs(self, dag_id: str) -> tuple[str, ...]:
        """Ids of the runs that are queued or running, oldest first; empty for an unknown DAG."""
        status, body = self._authorised(
            "GET",
            f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns?state=running&state=queued&order_by=run_after",
        )
        runs = body.get("dag_runs") if status == http.client.OK else None
        return tuple(str(run["dag_run_id"]) for run in runs or ())

    def import_errors(self) -> dict[str, str]:
        """Stack trace per DAG file that could not be imported."""
        _, body = self._authorised("GET", "/api/v2/importErrors?limit=100")
        return {
            str(error.get("filename")): str(error.get("stack_trace"))
            for error in body.get("import_errors") or ()
        }

    def _authorised(
        self, method: str, path: str, content: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
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
        return self._request(method, path, content)

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
