"""What pipectl reads of the answers of Airflow 3.0 to 3.4, and of answers that lack or change a field."""

from __future__ import annotations

import copy
import errno
import http.client
import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import urllib3

from pipectl.airflow_api import AirflowApi
from pipectl.airflow_health import NEWEST_AIRFLOW, OLDEST_AIRFLOW, AirflowHealth
from pipectl.errors import AirflowError, AirflowLoginError, AirflowSilentError, DagError, ExitCode
from pipectl.models import AirflowAddress, ImportFailure, TaskState
from support.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
# What real API servers answered, as tests/integration/test_airflow_versions.py has written it.
RECORDED = ROOT / "tests" / "fixtures" / "airflow-answers.json"
ANSWERS: dict[str, dict[str, Any]] = json.loads(RECORDED.read_text(encoding="utf-8"))
NEEDED = {"dag_id", "dag_run_id", "task_id"}


class FakeAirflow(ThreadingHTTPServer):
    """A server that gives recorded answers, by method and path."""

    def __init__(self, answers: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = answers

    @property
    def address(self) -> AirflowAddress:
        return AirflowAddress(f"http://127.0.0.1:{self.server_port}", "admin", "admin", witness=Witness())


class Handler(BaseHTTPRequestHandler):
    server: FakeAirflow
    protocol_version = "HTTP/1.1"  # as Airflow: a connection lasts

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.split("?", 1)[0]
        status, body = self.server.answers.get(f"{self.command} {path}", (404, {"detail": "Not Found"}))
        text = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PATCH = answer  # noqa: N815  the base class's names

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(params=sorted(ANSWERS))
def airflow(request: pytest.FixtureRequest) -> Iterator[FakeAirflow]:
    yield from serve(copy.deepcopy(ANSWERS[request.param]))


@pytest.fixture
def newest() -> Iterator[FakeAirflow]:
    yield from serve(copy.deepcopy(ANSWERS[max(ANSWERS)]))


def serve(answers: dict[str, Any]) -> Iterator[FakeAirflow]:
    with FakeAirflow(answers) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask_everything(server: FakeAirflow) -> None:
    """Use each method, and check what it makes of the answer."""
    api = AirflowApi(server.address)
    assert api.is_paused("two_tasks") is True
    assert api.is_paused("unknown") is None
    assert "two_tasks" in api.dag_ids()
    api.set_paused("two_tasks", paused=False)
    triggered = api.trigger("two_tasks", "run", {"day": "2026-01-01"})
    assert (triggered.dag_id, triggered.run_id, triggered.state) == ("two_tasks", "run", "queued")
    run = api.run("two_tasks", "run")
    assert (run.state, run.run_type, run.logical_date) == ("success", "manual", None)
    assert run.seconds is not None
    assert [each.run_id for each in api.runs("two_tasks")] == ["run"]
    assert [each.run_id for each in api.active_runs("two_tasks")] == ["run"]
    tasks = api.tasks("two_tasks", "run")
    assert [(task.id, task.state, task.tries, task.map_index) for task in tasks] == [
        ("first", "success", 1, -1),
        ("second", "success", 1, -1),
    ]
    assert all(task.seconds is not None for task in tasks)
    assert "the words of the task" in "\n".join(api.log("two_tasks", "run", tasks[0]))
    [failure] = api.import_failures_of("never_parsed")
    assert failure.filename.endswith("broken.py")  # of Airflow 3.0 the whole path
    assert "no_such_name" in failure.stack_trace
    assert api.import_failures_of("two_tasks") == ()

    health = AirflowHealth(server.address)
    assert health.components({}) == dict.fromkeys(("metadatabase", "scheduler", "dag_processor"), "healthy")
    assert health.version().startswith("3.")
    dag = health.dag("two_tasks")
    assert dag is not None
    assert (dag.paused, dag.has_import_errors, dag.file) == (True, False, "two_tasks.py")
    last = health.last_run("two_tasks")
    assert last == run
    assert health.active_runs("two_tasks") == ("run",)
    assert health.import_failures() == (failure,)


def objects_in(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects_in(child)


def test_the_answers_of_each_version_are_read(airflow: FakeAirflow) -> None:
    ask_everything(airflow)


def test_fields_that_pipectl_does_not_know_change_nothing(newest: FakeAirflow) -> None:
    for _, body in newest.answers.values():
        for each in list(objects_in(body)):
            each["something_new"] = {"of": ["any", None]}
    ask_everything(newest)


@pytest.mark.parametrize("change", ["missing", "null", "another type"])
def test_no_field_but_ids_is_needed(newest: FakeAirflow, change: str) -> None:
    """Whatever a version leaves out, sets to null or changes: never a bug of pipectl."""
    replaced = {"null": None, "another type": {"new": "kind"}}
    for path, (_, body) in newest.answers.items():
        for each in list(objects_in(body)) if path != "POST /auth/token" else ():
            for name in list(each):
                if name in NEEDED:
                    continue
                if change == "missing" and not isinstance(each[name], dict | list):
                    del each[name]
                elif change != "missing" and not isinstance(each[name], list):
                    each[name] = replaced[change]
    api = AirflowApi(newest.address)
    assert api.is_paused("two_tasks") is (change == "another type")
    assert api.run("two_tasks", "run").seconds is None
    assert api.trigger("two_tasks", "run", None).run_id == "run"
    assert {task.id for task in api.tasks("two_tasks", "run")} == {"first", "second"}
    assert [run.run_id for run in api.runs("two_tasks")] == ["run"]
    assert "two_tasks" in api.dag_ids()
    assert isinstance(api.log("two_tasks", "run", TaskState("first", "success", 1, None)), tuple)
    assert len(api.import_failures_of("never_parsed")) == 1
    health = AirflowHealth(newest.address)
    assert set(health.components({}).values()) <= {"unknown", str({"new": "kind"})}
    assert health.dag("two_tasks") is not None
    assert health.active_runs("two_tasks") == ("run",)


def test_lists_that_are_missing_are_empty(newest: FakeAirflow) -> None:
    for path in newest.answers:
        if path.startswith("GET"):
            newest.answers[path] = (200, {})
    api = AirflowApi(newest.address)
    assert (api.dag_ids(), api.runs("two_tasks"), api.tasks("two_tasks", "run")) == ((), (), ())
    assert api.log("two_tasks", "run", TaskState("first", "success", 1, None)) == ()
    assert api.import_failures_of("two_tasks") == ()


def test_an_answer_without_what_is_needed_names_both_versions(newest: FakeAirflow) -> None:
    path = "GET /api/v2/dags/two_tasks/dagRuns/run"
    newest.answers[path] = (200, {"state": "success"})
    newest.answers["GET /api/v2/version"] = (200, {"version": "9.1.0"})
    with pytest.raises(AirflowError) as caught:
        AirflowApi(newest.address).run("two_tasks", "run")
    message = caught.value.message
    assert "Airflow 9.1.0" in message
    assert f"{OLDEST_AIRFLOW} to {NEWEST_AIRFLOW}" in message
    assert "no dag_run_id" in message
    assert caught.value.code == ExitCode.AIRFLOW
    newest.answers[path] = (200, "<html>a proxy's page</html>")
    with pytest.raises(AirflowError, match="cannot use: it is no JSON object"):
        AirflowApi(newest.address).run("two_tasks", "run")


def test_a_server_whose_database_restarts_is_silent_and_may_be_asked_again(newest: FakeAirflow) -> None:
    api = AirflowApi(newest.address)
    for path in ("POST /auth/token", "GET /api/v2/dags/two_tasks/dagRuns/run"):
        newest.answers[path] = (503, {"detail": "the database does not answer"})
    with pytest.raises(AirflowSilentError, match="the database does not answer"):
        api.run("two_tasks", "run")
    with pytest.raises(AirflowSilentError, match="cannot log in: HTTP 503"):
        AirflowApi(newest.address)


def test_a_run_whose_first_request_got_through_unseen_is_not_triggered_again(newest: FakeAirflow) -> None:
    newest.answers["POST /api/v2/dags/two_tasks/dagRuns"] = (409, {"detail": "It is there"})
    api = AirflowApi(newest.address)
    assert api.trigger("two_tasks", "run", None) == api.run("two_tasks", "run")


def test_airflow_2_is_named_with_the_versions_that_pipectl_works_with() -> None:
    answers = {"GET /api/v1/version": (200, {"version": "2.11.0"})}
    for server in serve(answers):
        with pytest.raises(AirflowError, match=r"Airflow 2\.11\.0 .* 3\.0 to 3\.4, cannot use"):
            AirflowApi(server.address)


def test_a_refused_login_says_what_applies_another_password(newest: FakeAirflow) -> None:
    newest.answers["POST /auth/token"] = (401, {"detail": "Invalid credentials"})
    with pytest.raises(AirflowLoginError, match="refused the login of 'admin'") as caught:
        AirflowApi(newest.address)
    assert caught.value.hint.endswith("apply it: pipectl up")


def test_refusals_are_told_in_airflows_words(newest: FakeAirflow) -> None:
    newest.answers["PATCH /api/v2/dags/two_tasks"] = (422, {"detail": [{"msg": "Field required"}, "odd"]})
    newest.answers["GET /api/v2/dags/two_tasks/dagRuns"] = (500, "no JSON")
    api = AirflowApi(newest.address)
    with pytest.raises(AirflowError, match="refused the request: Field required; odd"):
        api.set_paused("two_tasks", paused=True)
    with pytest.raises(AirflowError, match="refused the request: Internal Server Error"):
        api.runs("two_tasks")


def test_an_unknown_dag_is_answered_with_those_that_there_are(newest: FakeAirflow) -> None:
    api = AirflowApi(newest.address)
    for ask in (api.runs, lambda dag_id: api.set_paused(dag_id, paused=True)):
        with pytest.raises(DagError) as caught:
            ask("two_task")
        assert caught.value.message == "Airflow knows no DAG 'two_task'."
        assert caught.value.hint == f"Did you mean two_tasks? There are: {', '.join(sorted(api.dag_ids()))}."
    with pytest.raises(AirflowError, match="refused the request: Not Found") as missing:
        api.run("two_tasks", "no_such_run")
    assert not isinstance(missing.value, DagError)


def test_a_server_that_is_gone_is_told_in_a_sentence(
    newest: FakeAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, health = AirflowApi(newest.address), AirflowHealth(newest.address)

    def gone(*_: object, **__: object) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    monkeypatch.setattr(http.client.HTTPConnection, "request", gone)
    monkeypatch.setattr(urllib3.PoolManager, "request", gone)
    for ask in (lambda: api.runs("two_tasks"), health.version):
        with pytest.raises(AirflowSilentError) as caught:
            ask()
        assert caught.value.detail == "The request to the web server failed: Broken pipe."


def test_a_failure_of_a_dag_that_was_parsed_before_is_that_of_its_own_file(newest: FakeAirflow) -> None:
    errors = {"import_errors": [{"filename": "two_tasks.py", "stack_trace": "No."}, {"filename": "b.py"}]}
    newest.answers["GET /api/v2/importErrors"] = (200, errors)
    found = AirflowApi(newest.address).import_failures_of("two_tasks")
    assert found == (ImportFailure("two_tasks.py", "No."),)


def test_the_readme_names_the_versions_that_are_tested() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"\bAirflow {OLDEST_AIRFLOW} to {NEWEST_AIRFLOW}\b", readme)
    recorded = sorted(".".join(version.split(".")[:2]) for version in ANSWERS)
    assert (recorded[0], recorded[-1]) == (OLDEST_AIRFLOW, NEWEST_AIRFLOW)


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [
        ({"__type": "TimeDelta", "days": 1, "seconds": 30, "microseconds": 0}, 86430),
        (None, None),
        (30, None),
        ("PT30S", None),
        ({"days": "x", "seconds": 1, "microseconds": 1}, None),
        ({"days": 10**12, "seconds": 0, "microseconds": 0}, None),
        ({"days": 1}, None),
    ],
)
def test_the_delay_of_a_retry_is_read_or_not_known(
    newest: FakeAirflow, delay: object, seconds: float | None
) -> None:
    newest.answers["GET /api/v2/dags/two_tasks/tasks/first"] = 200, {"retry_delay": delay}
    found = AirflowApi(newest.address).retry_delay("two_tasks", "first")
    assert (found and found.total_seconds()) == seconds


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([{"event": "a", "level": "error"}, {"event": "b", "level": "info"}], "a"),
        (
            [
                {"event": "a", "level": "error"},
                {"event": "Failed", "error_detail": [{"exc_type": "OSError", "exc_value": "no\n table"}]},
            ],
            "OSError: no table",
        ),
        ([{"event": "a", "level": "info"}, "text", None], ""),
        ("text", ""),
        (None, ""),
    ],
)
def test_the_last_error_of_a_log_is_one_line(newest: FakeAirflow, content: object, reason: str) -> None:
    path = "GET /api/v2/dags/two_tasks/dagRuns/run/taskInstances/first/logs/1"
    newest.answers[path] = 200, {"content": content}
    task = TaskState("first", "failed", 1, None)
    assert AirflowApi(newest.address).last_error("two_tasks", "run", task) == reason
