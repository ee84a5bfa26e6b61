"""The few plain requests that `up` and `status` poll, without airflow_client, whose import takes 1.1 s."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from pipectl import json_text
from pipectl.airflow_answers import (
    NEWEST_FIRST,
    PAGE,
    RUN_CHANGED,
    all_pages,
    may_be_stopped,
    objects,
    read_dag,
    read_dags,
    read_import_failures,
    read_run,
    read_stops,
    read_time,
    with_stop,
)
from pipectl.airflow_login import ProvenConnection, api_token
from pipectl.errors import AirflowError, AirflowLoginError, AirflowSilentError, DagError
from pipectl.overload import is_merely_late
from pipectl.services import HEALTHY, UNHEALTHY, components

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from pipectl.models import AirflowAddress, DagRun, ImportFailure, ParsedDag

REQUEST_SECONDS = 20
NAMED_DAGS = 10
EVERY_DAG = "~"  # in the place of a DAG's id
# The health of a component that is well, and has given no heartbeat in time on an overloaded machine.
LATE = "late"
REFUSALS = {http.client.UNAUTHORIZED, http.client.FORBIDDEN}
# The versions of Airflow that tests run: tests/integration/test_airflow_versions.py.
OLDEST_AIRFLOW, NEWEST_AIRFLOW = "3.0", "3.4"


class AirflowHealth:
    """One keep-alive connection to Airflow's API server. Every method may raise AirflowError.

    Each time it is opened, the server proves that it is this project's: ForeignAirflowError if it is not.
    """

    def __init__(self, address: AirflowAddress) -> None:
        self.address = address
        self._token = ""
        self._signs = address.takes_signed and bool(address.secret)
        parts = urlsplit(address.url)
        self._path = parts.path.rstrip("/")
        self._connection = ProvenConnection(
            parts.hostname or "127.0.0.1", parts.port or 80, timeout=REQUEST_SECONDS
        )
        self._connection.address = address

    def components(self, started: Mapping[str, datetime]) -> dict[str, str]:
        """Health of each of Airflow's components that is a service: healthy, unhealthy or unknown.

        A component whose process is one of `started` is unhealthy until that process has given a heartbeat:
        Airflow still calls it healthy by that of the process before. One is healthy too that is merely late
        on a machine with too much to do.
        """
        states = self.components_and_heartbeats(started)[0]
        return {name: HEALTHY if state == LATE else state for name, state in states.items()}

    def components_and_heartbeats(
        self, started: Mapping[str, datetime]
    ) -> tuple[dict[str, str], dict[str, datetime | None]]:
        """Return `components`, and when each that gives heartbeats gave its latest; None if it never has.

        What is healthy there although it is late is `late` here.
        """
        _, body = self._request("GET", "/api/v2/monitor/health")
        health, heartbeats = {}, {}
        for name in components():
            answer, field = body.get(name), f"latest_{name}_heartbeat"
            part = answer if isinstance(answer, dict) else {}
            health[name] = str(part.get("status") or "unknown")
            heartbeat = read_time(part.get(field))
            if heartbeat and name in started and heartbeat < started[name]:
                health[name] = UNHEALTHY
            elif heartbeat and health[name] == UNHEALTHY and is_merely_late(heartbeat):
                health[name] = LATE
            if field in part:
                heartbeats[name] = heartbeat
        return health, heartbeats

    def read(self, path: str) -> dict[str, Any]:
        """Return the answer to a request for which one must be logged in; AirflowError for a refusal."""
        status, body = self._get(path)
        if status != http.client.OK:
            raise AirflowError(f"Airflow at {self.address.url} refused a request ({path}): HTTP {status}.")
        return body

    def check(self) -> None:
        """Raise AirflowSilentError if Airflow does not answer, or says that it cannot."""
        if self.components({})["metadatabase"] == "unhealthy":
            reason = http.client.HTTPException("its metadata database is unhealthy")
            raise no_answer(self.address, reason)

    def version(self) -> str:
        """Airflow's version."""
        return str(self._request("GET", "/api/v2/version")[1].get("version") or "")

    def dag(self, dag_id: str) -> ParsedDag | None:
        """The DAG, None if Airflow has not parsed a DAG of that id (yet)."""
        status, body = self._get(f"/api/v2/dags/{quote(dag_id, safe='')}")
        return read_dag(body) if status == http.client.OK else None

    def dags(self) -> tuple[ParsedDag, ...]:
        """All DAGs that Airflow has parsed and that are not stale, by id."""

        def page(offset: int) -> dict[str, Any]:
            status, body = self._get(f"/api/v2/dags?limit={PAGE}&offset={offset}&order_by=dag_id")
            if status != http.client.OK:
                raise AirflowError(f"Airflow at {self.address.url} does not list its DAGs: HTTP {status}.")
            return body

        return read_dags(all_pages(page, "dags"))

    def last_run(self, dag_id: str) -> DagRun | None:
        """The latest run of the DAG, None if it never ran."""
        runs = self._runs(dag_id, f"limit=1&order_by={NEWEST_FIRST}")
        return runs[0] if runs else None

    def latest_runs(self, limit: int) -> tuple[DagRun, ...]:
        """The latest runs of all DAGs, newest first."""
        return tuple(self._runs(EVERY_DAG, f"limit={limit}&order_by={NEWEST_FIRST}"))

    def last_runs(self, dag_ids: Iterable[str]) -> dict[str, DagRun]:
        """The latest run of each of these DAGs that ever ran."""
        runs = self._runs(EVERY_DAG, f"limit={PAGE}&order_by={NEWEST_FIRST}")
        latest = {run.dag_id: run for run in reversed(runs)}
        others = [dag_id for dag_id in dag_ids if dag_id not in latest] if len(runs) == PAGE else []
        return latest | {dag_id: run for dag_id in others if (run := self.last_run(dag_id))}

    def active_runs(self, dag_id: str) -> tuple[str, ...]:
        """Ids of the runs that are queued or running, oldest first; empty for an unknown DAG."""
        runs = self._runs(dag_id, "state=running&state=queued&order_by=run_after")
        return tuple(run.run_id for run in runs)

    def running(self) -> tuple[DagRun, ...]:
        """The runs of all DAGs that are running, oldest first; those that are queued have done nothing."""
        return tuple(self._runs(EVERY_DAG, f"state=running&limit={PAGE}&order_by=run_after"))

    def import_failures(self, since: datetime | None = None) -> tuple[ImportFailure, ...]:
        """The DAG files that Airflow could not import, of those that it has tried `since` then."""
        answers = all_pages(
            lambda offset: self._get(f"/api/v2/importErrors?limit={PAGE}&offset={offset}")[1], "import_errors"
        )
        return read_import_failures(answers, since, self.address.mask)

    def ask(self, path: str) -> dict[str, Any]:
        """Return the answer to a request for which one need not be logged in."""
        return self._request("GET", path)[1]

    def token(self) -> str:
        """Return what later requests show: a signed token, or that of a login. Raises AirflowLoginError."""
        if not self._token:
            self._token = api_token(self.address) if self._signs else self._log_in()
        return self._token

    def _log_in(self) -> str:
        login = {"username": self.address.user, "password": self.address.password}
        status, body = self._request("POST", "/auth/token", login)
        token = body.get("access_token")
        if status in REFUSALS:
            raise AirflowLoginError(
                f"Airflow at {self.address.url} refused the login of {self.address.user!r}.",
                hint="If AIRFLOW_ADMIN_USER or AIRFLOW_ADMIN_PASSWORD changed in stack/.env since Airflow"
                " started, apply it: pipectl up",
            )
        if status >= http.client.INTERNAL_SERVER_ERROR:
            raise AirflowSilentError(f"Airflow at {self.address.url} cannot log in: HTTP {status}.")
        if not token:
            reason = f"it gave no access_token (HTTP {status})"
            raise unusable_answer(self.address, server_version(self.address), reason)
        return str(token)

    def _runs(self, dag_id: str, query: str) -> list[DagRun]:
        status, body = self._get(f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns?{query}")
        answers = objects(body.get("dag_runs")) if status == http.client.OK else []
        runs = [run for answer in answers if (run := read_run(answer))]
        stops = self._stops(dag_id) if any(may_be_stopped(run) for run in runs) else {}
        return [with_stop(run, stops) for run in runs]

    def _stops(self, dag_id: str) -> dict[tuple[str, str], datetime]:
        """When somebody stopped runs of a DAG, or of all; empty if Airflow does not tell."""
        query = urlencode({"event": RUN_CHANGED, "order_by": "-when", "limit": PAGE})
        of_dag = "" if dag_id == EVERY_DAG else f"&dag_id={quote(dag_id, safe='')}"
        return read_stops(objects(self._get(f"/api/v2/eventLogs?{query}{of_dag}")[1].get("event_logs")))

    def _get(self, path: str) -> tuple[int, dict[str, Any]]:
        """Make a request for which one must be logged in."""
        self.token()
        status, body = self._request("GET", path)
        if status in REFUSALS and self._signs:
            # It was started with another secret.
            self._signs, self._token = False, ""
            self.token()
            return self._request("GET", path)
        return status, body

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
            raise no_answer(self.address, error) from error
        try:
            body = json_text.parse(text)
        except ValueError:
            body = {}
        return response.status, body if isinstance(body, dict) else {}


def server_version(address: AirflowAddress) -> str:
    """Return the version of the Airflow that answers there, empty if it does not tell.

    Airflow 2 tells it elsewhere.
    """
    health = AirflowHealth(address)
    try:
        return health.version() or str(health.ask("/api/v1/version").get("version") or "")
    except AirflowError:
        return ""


def no_answer(address: AirflowAddress, error: Exception) -> AirflowSilentError:
    """Return the error for a request that got no answer, with the system's or the client's reason."""
    reason = str((error.strerror if isinstance(error, OSError) else "") or error or type(error).__name__)
    late = isinstance(error, TimeoutError) and error.errno is None
    return AirflowSilentError(
        f"Airflow at {address.url} has not answered in {REQUEST_SECONDS} s."
        if late
        else f"Airflow does not answer at {address.url}.",
        hint="What runs: pipectl status\nIts log: pipectl logs webserver",
        detail=f"The request to the web server failed: {reason}.",
    )


def unusable_answer(address: AirflowAddress, version: str, reason: str) -> AirflowError:
    """Return the error for an answer of which pipectl cannot read what it needs."""
    return AirflowError(
        f"Airflow {version or 'of an unknown version'} at {address.url} gave an answer that pipectl, which"
        f" works with Airflow {OLDEST_AIRFLOW} to {NEWEST_AIRFLOW}, cannot use: {reason}.",
        hint=f"Run Airflow {OLDEST_AIRFLOW} to {NEWEST_AIRFLOW}, or update pipectl.",
    )


def unknown_dag(dag_id: str, dag_ids: tuple[str, ...], failures: tuple[ImportFailure, ...] = ()) -> DagError:
    """Return the error for a DAG that is not one of `dag_ids`, those that Airflow has parsed.

    `failures` are files that Airflow cannot import, of which nothing says that they hold this DAG.
    """
    meant = did_you_mean(dag_id, dag_ids)
    known = f"There are: {', '.join(sorted(dag_ids)[:NAMED_DAGS])}" if dag_ids else "There is none yet"
    more = f" and {len(dag_ids) - NAMED_DAGS} more (pipectl dags)" if len(dag_ids) > NAMED_DAGS else ""
    broken = f"\nNot imported: {', '.join(failure.filename for failure in failures)}; why: pipectl dags"
    return DagError(
        f"Airflow knows no DAG {dag_id!r}.", hint=f"{meant}{known}{more}.{broken if failures else ''}"
    )


def broken_dag(dag_id: str, failures: tuple[ImportFailure, ...]) -> DagError:
    """Return the error that shows the import errors, file by file."""
    files = ", ".join(failure.filename for failure in failures)
    return DagError(
        f"The DAG {dag_id!r} cannot run: Airflow cannot import {files}.",
        hint="Mend the file; pipectl check shows what is wrong with all of them. Airflow reads it anew within"
        " seconds: then run the command again.",
        detail="\n".join(failure.stack_trace.strip() for failure in failures),
    )


def did_you_mean(name: str, names: Iterable[str], likeness: float = 0.6) -> str:
    """Return a question with the name that is most like a mistyped one, and a space; empty if none is."""
    from difflib import get_close_matches  # noqa: PLC0415  5 ms, for an error alone

    close = get_close_matches(name, list(names), n=1, cutoff=likeness)
    return f"Did you mean {close[0]}? " if close else ""
