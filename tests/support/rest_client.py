"""Just enough of Airflow's REST API, asked without pipectl; the real client takes a second to import."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

HEALTH = ("metadatabase", "scheduler", "dag_processor")


@dataclass
class RestClient:
    """Airflow at a URL; it logs in with the first request that needs it."""

    url: str
    password: Callable[[], str] = lambda: "admin"
    user: str = "admin"
    token: str = field(default="", repr=False)

    def call(self, path: str, body: object = None, method: str | None = None) -> Any:
        """Return the answer to a request of the API."""
        if not self.token:
            self.token = str(self._request("/auth/token", self._login())["access_token"])
        return self._request(path, body, method)

    def answers(self) -> bool:
        """Whether the API tells its health, whatever that is."""
        try:
            return bool(self._request("/api/v2/monitor/health"))
        except (OSError, ValueError):
            return False

    def healthy(self) -> bool:
        """Whether API, scheduler and DAG processor are healthy."""
        try:
            health = self._request("/api/v2/monitor/health")
        except (OSError, ValueError):
            return False
        return all(health[part]["status"] == "healthy" for part in HEALTH)

    def sees(self, dag_id: str) -> bool:
        """Whether the DAG is parsed."""
        try:
            return bool(self.call(f"/api/v2/dags/{dag_id}")["dag_id"] == dag_id)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return False
            raise

    def pause(self, dag_id: str, *, paused: bool = True) -> None:
        """Set the DAG's switch."""
        self.call(f"/api/v2/dags/{dag_id}", {"is_paused": paused}, "PATCH")

    def trigger(self, dag_id: str, **parameters: object) -> str:
        """Unpause the DAG and return the id of a new run."""
        self.pause(dag_id, paused=False)
        body = {"logical_date": None, "conf": parameters}
        return str(self.call(f"/api/v2/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def state(self, dag_id: str, run_id: str) -> str:
        """Return the state of a run."""
        return str(self.call(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def end_of(self, dag_id: str, run_id: str) -> str:
        """Wait until a run has ended, and return its state."""

        def ended() -> str:
            state = self.state(dag_id, run_id)
            return state if state in {"success", "failed"} else ""

        return until(ended, f"the end of {run_id}")

    def run(self, dag_id: str) -> str:
        """Trigger a run and return its final state."""
        return self.end_of(dag_id, self.trigger(dag_id))

    def end_other_runs(self, dag_id: str) -> None:
        """End what a test that failed has left of other DAGs: their tasks would hold every place."""
        active = "/api/v2/dags/~/dagRuns?state=running&state=queued&limit=100"
        for run in self.call(active)["dag_runs"]:
            if run["dag_id"] != dag_id:
                path = f"/api/v2/dags/{run['dag_id']}/dagRuns/{quote(run['dag_run_id'])}"
                self.call(path, {"state": "failed"}, "PATCH")

    def settle(self, dag_id: str) -> None:
        """Leave a DAG paused with none of its runs under way, so that nothing writes any more."""

        def active() -> bool:
            runs = f"/api/v2/dags/{dag_id}/dagRuns?state=running&state=queued&limit=1"
            return bool(self.call(runs)["dag_runs"])

        def at_rest() -> bool:
            self.pause(dag_id)
            if not active():
                return True
            self.pause(dag_id, paused=False)  # the runs of a paused DAG would never end
            until(lambda: not active(), f"the end of every run of {dag_id}")
            return False

        until(at_rest, f"{dag_id} to be at rest")

    def _login(self) -> dict[str, str]:
        return {"username": self.user, "password": self.password()}

    def _request(self, path: str, body: object = None, method: str | None = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)  # noqa: S310  http
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310  http
            text = answer.read()
        return json.loads(text) if text else None
