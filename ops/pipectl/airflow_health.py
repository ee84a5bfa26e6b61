"""The few plain requests that `up` and `status` poll, without airflow_client, whose import takes 1.1 s.

Here too is how Airflow's answers are read: what pipectl needs of them, whatever a version of Airflow adds,
leaves out or sets to null.
"""

from __future__ import annotations

import http.client
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from pipectl import json_text
from pipectl.airflow_login import ProvenConnection, api_token
from pipectl.errors import AirflowError, AirflowLoginError, AirflowSilentError, DagError
from pipectl.models import DagParam, DagRun, ImportFailure, ParsedDag
from pipectl.services import components

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pipectl.models import AirflowAddress

REQUEST_SECONDS = 20
LONGEST_LINE, MOST_LINES = 1_000, 200  # characters, and lines, of a trace
PAGE = 100  # objects in an answer: Airflow's default maximum
MOST_PAGES = 1000
NAMED_DAGS = 10
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
        Airflow still calls it healthy by that of the process before.
        """
        _, body = self._request("GET", "/api/v2/monitor/health")
        health = {}
        for name in components():
            answer = body.get(name)
            part = answer if isinstance(answer, dict) else {}
            health[name] = str(part.get("status") or "unknown")
            heartbeat = read_time(part.get(f"latest_{name}_heartbeat"))
            if heartbeat and name in started and heartbeat < started[name]:
                health[name] = "unhealthy"
        return health

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

        return tuple(read_dag(answer) for answer in all_pages(page, "dags") if answer.get("dag_id"))

    def last_run(self, dag_id: str) -> DagRun | None:
        """The latest run of the DAG, None if it never ran."""
        runs = self._runs(dag_id, "limit=1&order_by=-run_after")
        return runs[0] if runs else None

    def last_runs(self, dag_ids: Iterable[str]) -> dict[str, DagRun]:
        """The latest run of each of these DAGs that ever ran."""
        runs = self._runs("~", f"limit={PAGE}&order_by=-run_after")  # of all DAGs
        latest = {run.dag_id: run for run in reversed(runs)}
        others = [dag_id for dag_id in dag_ids if dag_id not in latest] if len(runs) == PAGE else []
        return latest | {dag_id: run for dag_id in others if (run := self.last_run(dag_id))}

    def active_runs(self, dag_id: str) -> tuple[str, ...]:
        """Ids of the runs that are queued or running, oldest first; empty for an unknown DAG."""
        runs = self._runs(dag_id, "state=running&state=queued&order_by=run_after")
        return tuple(run.run_id for run in runs)

    def import_failures(self, since: datetime | None = None) -> tuple[ImportFailure, ...]:
        """The DAG files that Airflow could not import, of those that it has tried `since` then."""
        answers = all_pages(
            lambda offset: self._get(f"/api/v2/importErrors?limit={PAGE}&offset={offset}")[1], "import_errors"
        )
        return read_import_failures(answers, since)

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
        runs = objects(body.get("dag_runs")) if status == http.client.OK else []
        return [run for answer in runs if (run := read_run(answer))]

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
    return AirflowSilentError(
        f"Airflow does not answer at {address.url}.",
        hint="What runs: pipectl status. Its log: pipectl logs webserver",
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
    broken = f" Not imported: {', '.join(failure.filename for failure in failures)}; why: pipectl dags"
    return DagError(
        f"Airflow knows no DAG {dag_id!r}.", hint=f"{meant}{known}{more}.{broken if failures else ''}"
    )


def did_you_mean(name: str, names: Iterable[str], likeness: float = 0.6) -> str:
    """Return a question with the name that is most like a mistyped one, and a space; empty if none is."""
    from difflib import get_close_matches  # noqa: PLC0415  5 ms, for an error alone

    close = get_close_matches(name, list(names), n=1, cutoff=likeness)
    return f"Did you mean {close[0]}? " if close else ""


def all_pages(page: Callable[[int], dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Return the objects in the list `name` of all pages; `page` gives the one that begins at an offset."""
    found: list[dict[str, Any]] = []
    for _ in range(MOST_PAGES):
        answer = page(len(found))
        entries = objects(answer.get(name))
        found += entries
        total = answer.get("total_entries")
        if not entries or not isinstance(total, int) or len(found) >= total:
            break
    return found


def objects(value: object) -> list[dict[str, Any]]:
    """Return the objects of a list in an answer; nothing if it is missing or no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def read_run(answer: dict[str, Any]) -> DagRun | None:
    """Read a DAG run, None if it has no id."""
    if not answer.get("dag_run_id"):
        return None
    return DagRun(
        dag_id=str(answer.get("dag_id") or ""),
        run_id=str(answer["dag_run_id"]),
        run_type=str(answer.get("run_type") or ""),
        state=str(answer.get("state") or ""),
        logical_date=read_time(answer.get("logical_date")),
        queued_at=read_time(answer.get("queued_at")),
        start=read_time(answer.get("start_date")),
        end=read_time(answer.get("end_date")),
    )


def read_time(text: object) -> datetime | None:
    """Read a time, in UTC if it has no time zone; None if it is missing or no time."""
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def is_since(time: datetime | None, earliest: datetime | None) -> bool:
    """Whether `time` is not before `earliest`; True if either is unknown."""
    return time is None or earliest is None or time >= earliest


def in_file(failures: tuple[ImportFailure, ...], file: str) -> tuple[ImportFailure, ...]:
    """Return the failures of a file, of which `file` is the path in the folder of DAGs.

    Airflow 3.0 calls it by its whole path.
    """
    return tuple(
        failure
        for failure in failures
        if file and (failure.filename == file or failure.filename.endswith(f"/{file}"))
    )


def read_import_failures(
    answers: list[dict[str, Any]], since: datetime | None = None
) -> tuple[ImportFailure, ...]:
    """Read the DAG files that could not be imported, of those that were tried `since` then."""
    return tuple(
        ImportFailure(str(error.get("filename") or ""), _shortened(str(error.get("stack_trace") or "")))
        for error in answers
        if is_since(read_time(error.get("timestamp")), since)
    )


def _shortened(trace: str) -> str:
    """Return the end of a trace without the middle of long lines: an exception may quote megabytes."""
    lines = (
        f"{line[: LONGEST_LINE // 2]} … {line[-LONGEST_LINE // 2 :]}" if len(line) > LONGEST_LINE else line
        for line in trace.splitlines()[-MOST_LINES:]
    )
    return "\n".join(lines)


def read_dag(answer: dict[str, Any]) -> ParsedDag:
    """Read a DAG, as it is listed or with its details."""
    schedule, limit, params = (
        answer.get(name) for name in ("timetable_summary", "max_active_runs", "params")
    )
    return ParsedDag(
        paused=bool(answer.get("is_paused")),
        has_import_errors=bool(answer.get("has_import_errors")),
        file=str(answer.get("relative_fileloc") or ""),
        next_run=str(answer.get("next_dagrun_run_after") or ""),
        parsed=read_time(answer.get("last_parsed_time")),
        dag_id=str(answer.get("dag_id") or ""),
        schedule=str(schedule) if schedule and schedule != "None" else "",
        stale=answer.get("is_stale") is True,
        max_active_runs=limit if isinstance(limit, int) else None,
        catchup=answer.get("catchup") is True,
        params={
            name: DagParam(
                param.get("value"), _object(param.get("schema")), str(param.get("description") or "")
            )
            for name, param in _object(params).items()
            if isinstance(param, dict)
        },
    )


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
