"""What pipectl reads of the answers of Airflow 3.0 to 3.4, and of answers that lack or change a field."""

from __future__ import annotations

import contextlib
import copy
import errno
import functools
import http.client
import json
import os
import re
import sys
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import urllib3
from typer.testing import CliRunner

from pipectl import cli
from pipectl.airflow_answers import read_dag, read_task
from pipectl.airflow_api import AirflowApi
from pipectl.airflow_client_parts import part
from pipectl.airflow_health import NEWEST_AIRFLOW, OLDEST_AIRFLOW, AirflowHealth
from pipectl.errors import (
    AirflowConflictError,
    AirflowError,
    AirflowLoginError,
    AirflowSilentError,
    DagError,
    ExitCode,
)
from pipectl.models import AirflowAddress, Backfill, TaskState
from pipectl.task_logs import fold_frames
from support.json_schemas import check_output
from support.waiting import WAIT_SECONDS
from support.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
# What real API servers answered, as tests/integration/test_airflow_versions.py has written it.
RECORDED = ROOT / "tests" / "fixtures" / "airflow-answers.json"
ANSWERS: dict[str, dict[str, Any]] = json.loads(RECORDED.read_text(encoding="utf-8"))
DATE = datetime(2026, 1, 1, tzinfo=UTC)
NEEDED = {"dag_id", "dag_run_id", "task_id"}


class FakeAirflow(ThreadingHTTPServer):
    """A server that gives recorded answers, by method and path."""

    def __init__(self, answers: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = answers
        self.bodies: list[Any] = []
        self.asked: list[str] = []
        self.requests: list[tuple[str, str, str]] = []
        self.slow: dict[str, threading.Event] = {}

    def handle_error(self, *_: object) -> None:
        """Who asks may have gone."""

    @property
    def address(self) -> AirflowAddress:
        return AirflowAddress(f"http://127.0.0.1:{self.server_port}", "admin", "admin", witness=Witness())


class Handler(BaseHTTPRequestHandler):
    server: FakeAirflow
    protocol_version = "HTTP/1.1"  # as Airflow: a connection lasts

    def answer(self) -> None:
        if sent := self.rfile.read(int(self.headers.get("Content-Length") or 0)):
            self.server.bodies.append(json.loads(sent))
        self.server.requests.append((self.command, self.path, sent.decode()))
        path = self.path.split("?", 1)[0]
        self.server.asked.append(path)
        if path in self.server.slow:
            self.server.slow[path].wait(WAIT_SECONDS)
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
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask_everything(server: FakeAirflow) -> None:
    """Use each method, and check what it makes of the answer."""
    ask_about_runs(AirflowApi(server.address))
    ask_about_dags(AirflowApi(server.address), AirflowHealth(server.address))


def ask_about_dags(api: AirflowApi, health: AirflowHealth) -> None:
    details = api.dag("two_tasks")
    assert details
    assert (details.dag_id, details.paused, details.stale) == ("two_tasks", True, False)
    assert (details.file, details.schedule, details.max_active_runs) == ("two_tasks.py", "", 16)
    code = details.params["code"]
    assert (code.default, code.description) == (0, "How the second task ends.")
    assert code.schema.items() >= {"type": "integer", "minimum": 0, "maximum": 255}.items()
    assert api.dag("unknown") is None
    assert api.dag_ids() == ("mapped", "slow", "two_tasks")
    [failure] = api.import_failures()
    assert failure.filename.endswith("broken.py")  # of Airflow 3.0 the whole path
    assert "no_such_name" in failure.stack_trace
    components = health.components({})
    assert components.pop("triggerer") in {"healthy", "unhealthy", "unknown"}
    assert components == dict.fromkeys(("metadatabase", "scheduler", "dag_processor"), "healthy")
    assert health.version().startswith("3.")
    dag = health.dag("two_tasks")
    assert dag is not None
    assert (dag.paused, dag.has_import_errors, dag.file) == (True, False, "two_tasks.py")
    listed = {each.dag_id: each for each in health.dags()}
    assert listed["two_tasks"] == dag
    assert {name: each.schedule for name, each in listed.items()} == {
        "mapped": "0 0 1 1 *",
        "slow": "",
        "two_tasks": "",
    }
    assert set(health.last_runs(listed)) == set(listed)
    assert health.last_run("two_tasks") == api.run("two_tasks", "run")
    assert health.active_runs("two_tasks") == ("run",)
    assert health.import_failures() == (failure,)


def ask_about_runs(api: AirflowApi) -> None:
    api.set_paused("two_tasks", paused=False)
    triggered = api.trigger("two_tasks", "run", {"code": 0}, DATE)
    assert (triggered.dag_id, triggered.run_id, triggered.state) == ("two_tasks", "run", "queued")
    assert triggered.logical_date == DATE
    run = api.run("two_tasks", "run")
    assert (run.state, run.run_type) == ("success", "manual")
    assert run.logical_date is not None
    assert run.seconds is not None
    assert [each.run_id for each in api.runs("two_tasks")] == ["run"]
    assert [each.run_id for each in api.active_runs("two_tasks")] == ["run"]
    tasks = api.tasks("two_tasks", "run")
    assert [(task.id, task.state, task.tries, task.map_index) for task in tasks] == [
        ("first", "success", 1, -1),
        ("second", "success", 1, -1),
    ]
    assert all(task.seconds is not None for task in tasks)
    log = api.log("two_tasks", "run", tasks[0])
    assert f"the words of the task of {run.logical_date:%Y-%m-%d}" in "\n".join(log)
    assert not [line for line in log if line.startswith("::") or line.endswith(".log")]
    assert not [line for line in log if not line]
    tries = api.tries("two_tasks", "failed", tasks[1])
    assert [(each.number, each.state) for each in tries] == [(1, "failed"), (2, "failed")]
    assert all(each.seconds is not None for each in tries)
    assert [each.number for each in api.tries("mapped", "run", TaskState("each", "", 1, None, 1))] == [1]
    [cleared] = api.clear("two_tasks", "failed", only_failed=True, dry_run=True)
    assert (cleared.id, cleared.state) == ("second", "failed")
    assert api.fail("slow", "run").state == "failed"


def objects_in(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects_in(child)


def test_the_answers_of_each_version_are_read(airflow: FakeAirflow) -> None:
    ask_everything(airflow)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ("dags", ("two_tasks", "0 0 1 1 *", "broken.py: ImportError: ", "no_such_name")),
        ("runs two_tasks", ("run", "manual", "success")),
        ("runs two_tasks run", ("two_tasks run: success", "first", "second")),
        ("runs two_tasks latest", ("two_tasks run: success", "first", "second")),
        ("task-log two_tasks run first", ("the words of the task of",)),
        ("clear two_tasks run first --dry-run", ("would start again", "second", "failed")),
        ("cancel slow run", ("run: running before, cancelled now. Failed: sleeper.",)),
        ("cancel two_tasks run", ("run had ended already: success.",)),
    ],
)
def test_commands_show_what_each_version_answers(
    airflow: FakeAirflow,
    arguments: str,
    shown: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("dags", "stack"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    for module in ("access", "listing"):
        monkeypatch.setattr(f"pipectl.pipeline.{module}.airflow_address", lambda _: airflow.address)
    words = arguments.split()
    done = CliRunner().invoke(cli.app, ["--engine", "local", *words])
    assert done.exit_code == 0, done.output
    assert [text for text in shown if text not in done.stdout] == []
    done = CliRunner().invoke(cli.app, ["--engine", "local", "--json", *words])
    assert done.exit_code == 0, done.output
    check_output(words, done.stdout, done.stderr)


def requests_of(server: FakeAirflow) -> list[tuple[str, str, str]]:
    """Use each method, also those for which nothing is recorded, and return what was sent."""
    ask_everything(server)
    api = AirflowApi(server.address)
    task = TaskState("first", "success", 1, None)
    questions: tuple[Callable[[], object], ...] = (
        lambda: api.runs_between("two_tasks", DATE, DATE),
        lambda: api.backfill_slots("two_tasks", DATE, DATE, "failed"),
        lambda: api.backfill("two_tasks", DATE, DATE, 3, "completed"),
        lambda: api.active_backfill("two_tasks"),
        lambda: api.cancel_backfill(Backfill(7, "two_tasks", DATE, DATE, DATE)),
        lambda: api.rows_written("two_tasks", "labels", ("run",), DATE),
        lambda: api.retry_delay("two_tasks", "first"),
        lambda: api.clear("two_tasks", "run", tasks=(("first", -1), ("second", 2)), downstream=True),
        lambda: api.log("two_tasks", "run", task, 2),
    )
    for ask in questions:
        with contextlib.suppress(AirflowError):
            ask()
    return server.requests


@pytest.fixture
def no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has not imported airflow_client."""
    for name in [name for name in sys.modules if f"{name}.".startswith("airflow_client.")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("no_client")
def test_parts_of_the_client_ask_as_the_whole_does(monkeypatch: pytest.MonkeyPatch) -> None:
    [by_parts] = [requests_of(server) for server in serve(copy.deepcopy(ANSWERS[max(ANSWERS)]))]
    loaded = {name for name in sys.modules if name.startswith("airflow_client.client.models.")}
    assert 0 < len(loaded) < 20  # of 170

    whole = import_module("airflow_client.client")
    assert whole.DAGRunResponse is import_module(whole.DAGRunResponse.__module__).DAGRunResponse
    for name in [name for name in sys.modules if f"{name}.".startswith("airflow_client.")]:
        monkeypatch.delitem(sys.modules, name)
    whole = import_module("airflow_client.client")
    monkeypatch.setattr("pipectl.airflow_api.part", functools.partial(getattr, whole))
    [by_the_whole] = [requests_of(server) for server in serve(copy.deepcopy(ANSWERS[max(ANSWERS)]))]
    assert by_parts == by_the_whole
    assert len({path for _, path, _ in by_parts}) > 20


@pytest.mark.usefixtures("no_client")
@pytest.mark.parametrize("function", ["_install", "_module_of"])
def test_a_client_of_another_layout_is_imported_as_a_whole(
    newest: FakeAirflow, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    def fail(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(f"pipectl.airflow_client_parts.{function}", fail)
    ask_everything(newest)
    assert len(sys.modules["airflow_client.client.models"].__dict__) > 150


@pytest.mark.usefixtures("no_client")
def test_a_name_without_a_file_comes_from_the_whole_client() -> None:
    part("DagRunApi")
    assert part("ApiTypeError") is import_module("airflow_client.client").ApiTypeError
    with pytest.raises(AttributeError, match="NoSuchClass"):
        part("NoSuchClass")


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
    dag = api.dag("two_tasks")
    assert dag
    assert dag.paused is (change == "another type")
    assert (dag.stale, dag.catchup, dag.max_active_runs) == (False, False, None)
    assert api.run("two_tasks", "run").seconds is None
    assert api.trigger("two_tasks", "run", None).run_id == "run"
    assert {each.state for each in api.tries("two_tasks", "failed", TaskState("second", "", 2, None))} <= {
        "none",
        str({"new": "kind"}),
    }
    assert api.fail("slow", "run").run_id == "run"
    assert [task.id for task in api.clear("two_tasks", "failed")] == ["second"]
    assert {task.id for task in api.tasks("two_tasks", "run")} == {"first", "second"}
    assert [run.run_id for run in api.runs("two_tasks")] == ["run"]
    assert "two_tasks" in api.dag_ids()
    assert isinstance(api.log("two_tasks", "run", TaskState("first", "success", 1, None)), tuple)
    assert len(api.import_failures()) == 1
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
    assert api.import_failures() == ()
    dag = api.dag("two_tasks")
    assert dag
    assert dag.params == {}


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


def test_a_dag_whose_details_fail_is_known_without_them(newest: FakeAirflow) -> None:
    newest.answers["GET /api/v2/dags/two_tasks/details"] = (500, {"detail": "cannot deserialise"})
    dag = AirflowApi(newest.address).dag("two_tasks")
    assert dag
    assert (dag.dag_id, dag.paused, dag.params) == ("two_tasks", True, {})


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
    long = "Invalid input for param code: 300 is greater than 255\n\nFailed validating 'maximum' in schema"
    newest.answers["POST /api/v2/dags/two_tasks/dagRuns"] = (400, {"detail": long})
    api = AirflowApi(newest.address)
    with pytest.raises(AirflowError, match=r"Invalid input for param code: 300 is greater than 255\.$"):
        api.trigger("two_tasks", "run", {"code": 300}, DATE)
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
        [broken] = api.import_failures()
        assert caught.value.hint == (
            f"Did you mean two_tasks? There are: {', '.join(sorted(api.dag_ids()))}."
            f"\nNot imported: {broken.filename}; why: pipectl dags"
        )
    with pytest.raises(AirflowError, match="refused the request: Not Found") as missing:
        api.run("two_tasks", "no_such_run")
    assert not isinstance(missing.value, DagError)


@pytest.mark.parametrize(
    "arguments",
    [
        "runs broken",
        "runs broken latest",
        "cancel broken",
        "cancel broken run",
        "pause broken",
        "unpause broken",
        "clear broken latest",
        "task-log broken latest first",
        "backfill broken --cancel",
        "backfill broken --from 2026-01-01",
        "trigger broken",
    ],
)
def test_every_command_says_that_a_dags_file_cannot_be_imported(
    newest: FakeAirflow, arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("dags", "stack"):
        (tmp_path / name).mkdir()
    (tmp_path / "dags" / "broken.py").write_text("no_such_name\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipectl.pipeline.access.airflow_address", lambda _: newest.address)
    done = CliRunner().invoke(cli.app, ["--engine", "local", *arguments.split()])
    assert done.exit_code == ExitCode.DAG
    assert "no_such_name" in done.stderr
    assert (
        "Error: The DAG 'broken' cannot run: Airflow cannot import broken.py.\nMend the file" in done.stderr
    )


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


RUNS = "/api/v2/dags/two_tasks/dagRuns"
HEALTH = "/api/v2/monitor/health"


def test_what_takes_long_is_waited_for_while_airflow_answers_other_questions(
    newest: FakeAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipectl.airflow_api.REQUEST_SECONDS", 1.0)
    newest.slow[RUNS] = done = threading.Event()
    told: list[str] = []

    def tell(sentence: str) -> None:
        told.append(sentence)
        assert HEALTH in newest.asked
        done.set()

    assert [run.run_id for run in AirflowApi(newest.address, tell).runs("two_tasks")] == ["run"]
    assert told == ["Airflow works on a request for 1 s now. Waiting"]


def test_what_never_ends_is_not_said_to_be_no_answer(
    newest: FakeAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipectl.airflow_api.REQUEST_SECONDS", 1.0)
    monkeypatch.setattr("pipectl.airflow_api.LONGEST_ANSWER_SECONDS", 0)
    newest.slow[RUNS] = done = threading.Event()
    with pytest.raises(AirflowError, match="works, and has not answered a request in 0 s") as caught:
        AirflowApi(newest.address).runs("two_tasks")
    done.set()
    assert not isinstance(caught.value, AirflowSilentError)


@pytest.mark.parametrize("health", ["slow", "no database"])
def test_an_airflow_that_answers_nothing_is_silent(
    newest: FakeAirflow, monkeypatch: pytest.MonkeyPatch, health: str
) -> None:
    for module in ("airflow_api", "airflow_health"):
        monkeypatch.setattr(f"pipectl.{module}.REQUEST_SECONDS", 0.05)
    done = threading.Event()
    newest.slow[RUNS] = done
    if health == "slow":
        newest.slow[HEALTH] = done
    else:
        newest.answers[f"GET {HEALTH}"] = 200, {"metadatabase": {"status": "unhealthy"}}
    with pytest.raises(AirflowSilentError) as caught:
        AirflowApi(newest.address).runs("two_tasks")
    done.set()
    slow = f"Airflow at {newest.address.url} has not answered in 0.05 s."
    assert caught.value.message == (
        slow if health == "slow" else f"Airflow does not answer at {newest.address.url}."
    )


def test_instances_of_a_mapped_task_come_by_their_index(newest: FakeAirflow) -> None:
    def instance(name: str, index: int, second: int | None) -> dict[str, Any]:
        start = None if second is None else f"2026-01-01T00:00:{second:02}Z"
        return {"task_id": name, "map_index": index, "start_date": start}

    mapped = [instance("each", index, 30 - index) for index in range(12)] + [instance("each", 12, None)]
    others = [instance("last", -1, None), instance("first", -1, 1), instance("beside", -1, 20)]
    newest.answers[f"GET {RUNS}/run/taskInstances"] = 200, {"task_instances": mapped + others}
    assert [task.name for task in AirflowApi(newest.address).tasks("two_tasks", "run")] == [
        "first",
        *(f"each[{index}]" for index in range(13)),
        "beside",
        "last",
    ]


def test_frames_of_airflow_in_a_traceback_are_one_line() -> None:
    own = '  File "/dags/mine.py", line 7, in load\n'
    airflows = [
        f'  File "/opt/lib/python3.13/site-packages/airflow/{name}.py", line 1, in run\n'
        for name in ("sdk/task", "sdk/context", "providers/standard/python")
    ]
    end = "KeyError: 'missing'\nand a line that names site-packages/airflow/sdk/task.py\n"
    trace = "".join(("Traceback:\n", *airflows, own, airflows[0], own, *airflows[:2], end))
    assert fold_frames(trace) == "".join(
        (
            "Traceback:\n",
            "  … 3 frames of Airflow …\n",
            own,
            airflows[0],
            own,
            "  … 2 frames of Airflow …\n",
            end,
        )
    )


@pytest.mark.parametrize(
    ("answer", "periodic"),
    [
        ({"timetable_summary": "0 0 * * *"}, True),
        ({"timetable_summary": "Asset or 0 0 * * *"}, True),
        ({"timetable_summary": "@once"}, False),
        ({"timetable_summary": "Asset"}, False),
        ({"timetable_summary": None}, False),
        ({"timetable_summary": "Every full moon", "timetable_periodic": False}, False),
    ],
)
def test_a_schedule_has_slots_or_not(answer: dict[str, Any], *, periodic: bool) -> None:
    assert read_dag(answer).periodic is periodic


def test_a_second_run_of_a_logical_date_names_the_first(newest: FakeAirflow) -> None:
    newest.answers["POST /api/v2/dags/two_tasks/dagRuns"] = (409, {"detail": {"reason": "Unique"}})
    with pytest.raises(AirflowConflictError) as caught:
        AirflowApi(newest.address).trigger("two_tasks", "another", None, DATE)
    assert caught.value.message == (
        "two_tasks has a run run with the logical date 2026-01-01T00:00:00+00:00 already, and can have no"
        " second one."
    )
    assert caught.value.hint == "To run it again: pipectl clear two_tasks run"


def test_the_latest_runs_come_with_the_number_of_all(newest: FakeAirflow) -> None:
    _, answer = newest.answers["GET /api/v2/dags/two_tasks/dagRuns"]
    api = AirflowApi(newest.address)
    for told, total in ((25, 25), (None, 1), ("many", 1)):
        answer["total_entries"] = told
        assert api.runs_and_total("two_tasks", 1) == (api.runs("two_tasks"), total)


def test_lists_are_read_to_their_end(newest: FakeAirflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many task instances a run has: an answer has at most 100."""
    _, answer = newest.answers["GET /api/v2/dags/two_tasks/dagRuns/run/taskInstances"]
    answer["total_entries"] = 6
    asked = []
    paths = Handler.answer

    def note(handler: Handler) -> None:
        asked.append(handler.path)
        paths(handler)

    monkeypatch.setattr(Handler, "do_GET", note)
    assert len(AirflowApi(newest.address).tasks("two_tasks", "run")) == 6
    pages = [path.split("?")[1] for path in asked if "taskInstances" in path]
    assert pages == ["limit=100&offset=0", "limit=100&offset=2", "limit=100&offset=4"]


def test_tasks_to_clear_are_named_by_id_and_map_index(newest: FakeAirflow) -> None:
    api = AirflowApi(newest.address)
    api.clear("two_tasks", "failed", tasks=(("first", -1), ("each", 2)), downstream=True)
    body = newest.bodies[-1]
    assert body["task_ids"] == ["first", ["each", 2]]
    assert (body["dag_run_id"], body["include_downstream"], body["dry_run"]) == ("failed", True, False)
    assert (body["only_failed"], body["reset_dag_runs"]) == (False, True)
    # Airflow 3.0 refuses any other field.
    assert body.keys() <= {
        "dry_run",
        "start_date",
        "end_date",
        "only_failed",
        "only_running",
        "reset_dag_runs",
        "task_ids",
        "dag_run_id",
        "include_upstream",
        "include_downstream",
        "include_future",
        "include_past",
    }


def test_the_guide_names_the_versions_that_are_tested() -> None:
    guide = (ROOT / "docs" / "how-to" / "upgrade.md").read_text(encoding="utf-8")
    assert re.search(rf"\bAirflow {OLDEST_AIRFLOW} to {NEWEST_AIRFLOW}\b", guide)
    recorded = sorted(".".join(version.split(".")[:2]) for version in ANSWERS)
    assert (recorded[0], recorded[-1]) == (OLDEST_AIRFLOW, NEWEST_AIRFLOW)


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [
        ({"__type": "TimeDelta", "days": 1, "seconds": 30, "microseconds": 0}, 86430),
        (None, None),
        (30, None),
        ("PT30S", 30),
        ("P1Y2DT3H4M5.5S", 367 * 86400 + 3 * 3600 + 4 * 60 + 5.5),
        ("-PT1H", None),
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


def test_what_a_task_printed_stands_before_its_error(newest: FakeAirflow) -> None:
    """Airflow reads both from pipes of their own, notes what was printed later, and sorts by time."""
    path = "GET /api/v2/dags/two_tasks/dagRuns/run/taskInstances/first/logs/1"
    caught, error = (
        {"event": event, "error_detail": [{"exc_type": "OSError", "exc_value": "no"}]}
        for event in ("Caught", "Task failed with exception")
    )
    printed = [{"event": text, "logger": "task.stdout"} for text in ("a", "b", "b")]
    content = [caught, printed[0], error, printed[1], {"event": "c", "logger": "mine"}, printed[2], "text"]
    newest.answers[path] = 200, {"content": content}
    api, task = AirflowApi(newest.address), TaskState("first", "failed", 1, None)

    def log() -> tuple[str, ...]:
        return api.log("two_tasks", "run", task)

    failed = "Task failed with exception\nOSError: no"
    assert log() == ("Caught\nOSError: no", "a", "b", "b", failed, "c", "text")
    newest.answers[path] = 200, {"content": [caught, *printed]}
    assert log() == ("Caught\nOSError: no", "a", "b", "b")
    newest.answers[path] = 200, {"content": [{"event": "Task exited"}, *printed]}
    assert log() == ("a", "b", "b", "Task exited")


def test_the_rows_that_runs_wrote_are_those_of_their_events(newest: FakeAirflow) -> None:
    def event(run: str, name: str = "labels", rows: object = 2, time: str = "2026-01-02") -> dict[str, Any]:
        return {"name": name, "source_run_id": run, "extra": {"rows": rows}, "timestamp": time}

    events = [event("a"), event("b"), event("c"), event("a", "other"), event("a", rows=None)]
    events += [event("a", time="2025-12-31"), {"name": "labels", "source_run_id": "a", "extra": None}]
    newest.answers["GET /api/v2/assets/events"] = 200, {"asset_events": events, "total_entries": len(events)}
    since = datetime(2026, 1, 1, tzinfo=UTC)
    api = AirflowApi(newest.address)
    assert api.rows_written("two_tasks", "labels", {"a", "b"}, since) == 4
    assert api.rows_written("two_tasks", "labels", {"b"}, None) == 2


def test_a_task_without_a_log_is_said_to_have_none(
    newest: FakeAirflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("dags", "stack"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipectl.pipeline.access.airflow_address", lambda _: newest.address)
    path = "GET /api/v2/dags/two_tasks/dagRuns/run/taskInstances/first/logs/1"
    newest.answers[path] = 200, {"content": []}
    done = CliRunner().invoke(cli.app, ["--engine", "local", "task-log", "two_tasks", "run", "first"])
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "Airflow has no log of the task first of run.\n"


@pytest.mark.parametrize(
    ("answer", "waits_for"),
    [
        ({"state": "running", "trigger": None}, ""),
        ({"state": "deferred"}, ""),
        ({"state": "deferred", "trigger": {"classpath": "a.b.Wait"}}, "the triggerer, to run Wait"),
        (
            {"state": "deferred", "trigger": {"classpath": "a.b.Wait", "triggerer_id": 3}},
            "Wait in the triggerer",
        ),
        ({"state": "success", "trigger": {"classpath": "a.b.Wait", "triggerer_id": 3}}, ""),
        ({"state": "awaiting_input"}, "an answer in Airflow's user interface"),
    ],
)
def test_a_task_that_waits_says_what_for(answer: dict[str, Any], waits_for: str) -> None:
    assert read_task({"task_id": "any", **answer}).waits_for == waits_for


@pytest.mark.parametrize(
    ("is_cause", "link"),
    [
        (True, "The above exception was the direct cause of the following exception:"),
        (False, "During handling of the above exception, another exception occurred:"),
    ],
)
def test_an_exception_in_a_log_has_its_places_and_what_led_to_it(
    newest: FakeAirflow, *, is_cause: bool, link: str
) -> None:
    raised = {
        "exc_type": "RuntimeError",
        "exc_value": "outer",
        "frames": [{"filename": "/dags/mine.py", "lineno": 7, "name": "load"}],
    }
    before = {
        "exc_type": "KeyError",
        "exc_value": "'missing'",
        "is_cause": is_cause,
        "frames": [{"filename": "/dags/mine.py", "lineno": 5, "name": "load"}],
    }
    path = "GET /api/v2/dags/two_tasks/dagRuns/run/taskInstances/first/logs/1"
    newest.answers[path] = 200, {"content": [{"event": "Task failed", "error_detail": [raised, before]}]}
    [line] = AirflowApi(newest.address).log("two_tasks", "run", TaskState("first", "failed", 1, None))
    assert line.splitlines() == [
        "Task failed",
        "Traceback (most recent call last):",
        '  File "/dags/mine.py", line 5, in load',
        "KeyError: 'missing'",
        "",
        link,
        "",
        "Traceback (most recent call last):",
        '  File "/dags/mine.py", line 7, in load',
        "RuntimeError: outer",
    ]
