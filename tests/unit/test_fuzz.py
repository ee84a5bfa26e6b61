"""Whatever is typed, written into files or answered: one sentence and the right code, no traceback, no bug.

2,000 inputs, every night 20,000 (`--hypothesis-profile=nightly`). Commands run in this process, with fakes
for what they would ask; the last test runs real processes.
"""

from __future__ import annotations

import json
import os
import re
import string
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pipectl import cli, services
from pipectl.airflow_health import AirflowHealth
from pipectl.commands import COMMANDS
from pipectl.databases import Databases
from pipectl.engines.local.engine import LocalEngine
from pipectl.errors import AirflowError, ExitCode
from pipectl.models import LogLine
from pipectl.names import is_dag_id
from pipectl.pipeline import loading, run_conf
from pipectl.pipeline.bundling import Bundle
from pipectl.pipeline.doctor.checks import Finding
from pipectl.pipeline.initialising import NewProject
from support.fake_engine import FakeEngine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import psutil

    from pipectl.observer import Observer

SHARE = 1 if settings.get_current_profile_name() == "nightly" else 0.1
CODES = {int(code) for code in ExitCode} - {ExitCode.BUG, ExitCode.INTERRUPTED}
# What a terminal obeys.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
SECRET = "sesame-0pen"
pytestmark = pytest.mark.timeout(1200)


def inputs(count: int) -> settings:
    """So many inputs every night."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=int(count * SHARE), deadline=None, suppress_health_check=checks, database=None
    )


KNOWN = (
    "",
    "-",
    "--",
    "-1",
    "0",
    "0x10",
    "1_000",
    "1e999",
    "nan",
    "NaN",
    "inf",
    "²",
    "9" * 30,
    "1" * 5000,
    "[" * 100_000,
    "{" * 500,
    "x" * 300,
    "x/" * 3000,
    "..",
    "../..",
    "a..b",
    "a b",
    "%s %(x)s {} ${x} $(x) `x`",
    "\x1b[31mred\x07\x9b2J",
    "\u202eright to left",
    "\udcff\udc80",
    "line\nline\r\n",
    "tcp://10.0.0.1:8080",
    "💥" * 50,
    "[bold]markup[/]",
    '{"a": 1}',
    "null",
)
TEXT = st.one_of(
    st.text(max_size=40), st.sampled_from(KNOWN), st.text(string.ascii_letters + "._-/ =", max_size=20)
)
# A process gets neither from its caller.
ARGUMENT = TEXT.filter(lambda text: "\0" not in text)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=12,
)


class HealthyEngine(FakeEngine):
    """All services are healthy, and their logs say what a test chooses."""

    health = "healthy"

    def logs(self, services: tuple[str, ...], *, tail: int, follow: bool) -> Iterator[LogLine]:
        del tail, follow
        for name in services:
            yield LogLine(name, LINES["log"])


# What the fakes answer; a test may change it.
LINES = {"log": "a line"}
BODY: dict[str, Any] = {}
ROWS: dict[str, Any] = {}


def airflow_answer(_: Any, method: str, path: str, content: Any = None) -> tuple[int, Any]:
    del method, content
    if "token" in path:
        return 201, {"access_token": "x"}
    if path in BODY:
        return 200, BODY[path]
    parsed = {"is_paused": False, "has_import_errors": False, "relative_fileloc": "x.py"}
    healthy = {name: {"status": "healthy"} for name in services.components()}
    return 200, parsed | healthy | {"dag_runs": [], "import_errors": []}


class FakeResponse:
    """An answer as airflow_client has it from urllib3."""

    def __init__(self, status: int, data: bytes) -> None:
        self.status, self.data, self.reason = status, data, ""
        self.headers: dict[str, str] = {}
        self.response = self

    def read(self) -> bytes:
        return self.data

    def getheaders(self) -> dict[str, str]:
        return {"content-type": "application/json"}

    def getheader(self, name: str, default: str | None = None) -> str | None:
        return self.getheaders().get(name.lower(), default)


ANSWERS: dict[str, Any] = {}


def client_answer(_: Any, method: str, url: str, *__: Any, **___: Any) -> FakeResponse:
    del method
    if "/auth/token" in url:
        return FakeResponse(201, b'{"access_token": "x"}')
    if "client" in ANSWERS:
        return FakeResponse(*ANSWERS["client"])
    if url.endswith(("/importErrors?limit=100&offset=0", "/dags?limit=100&offset=0")):
        return FakeResponse(200, b'{"import_errors": [], "dags": [], "total_entries": 0}')
    return FakeResponse(404, b'{"detail": "nothing"}')


# Parts of the statements of `published`, and what an empty database answers.
EMPTY: dict[str, Any] = {
    "to_regclass": [(False,)],
    "COALESCE(SUM(is_fraud), 0)": [(0, 0)],
    "SELECT COUNT(*) FROM": [(0,)],
    "SELECT count(*) FROM": [(0,)],
    "clock_timestamp()": [(1.0,)],
    "UNIX_TIMESTAMP(NOW(6))": [(1.0,)],
    "COALESCE(MIN(transaction_id), 0)": [(0, 0)],
    "coalesce((SELECT max(customer_id)": [(0,)],
}


class FakeCursor:
    """A cursor of any driver, whose rows are what ROWS says."""

    description = True

    def execute(self, statement: str, values: Any = None) -> None:
        self.statement = " ".join(statement.split())
        del values

    def fetchall(self) -> list[tuple[Any, ...]]:
        for words, rows in (ROWS | EMPTY).items():
            if words in self.statement:
                return list(rows)
        return []


@contextmanager
def fake_cursor(*_: Any) -> Iterator[FakeCursor]:
    yield FakeCursor()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("dags", "stack/airflow"):
        (folder / name).mkdir(parents=True)
    (folder / "stack" / "airflow" / "airflow.env").write_text("", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PIPECTL_CACHE_DIR", str(folder / "cache"))
        patch.setattr("pipectl.engines.choice.choose", HealthyEngine)
        patch.setattr(AirflowHealth, "_request", airflow_answer)
        patch.setattr("airflow_client.client.rest.RESTClientObject.request", client_answer)
        patch.setattr(Databases, "_postgres_cursor", fake_cursor)
        patch.setattr(Databases, "_mysql_cursor", fake_cursor)
        patch.setattr(loading, "HistoryLoader", FakeLoader)
        # Each of the checks takes its time, and looks at the machine.
        patch.setattr("pipectl.pipeline.doctor.examine", lambda *_: FOUND)
        # What is drawn is a name, and may be any folder's of this machine.
        for name in ("initialising.initialise", "upgrading.write_file"):
            patch.setattr(f"pipectl.pipeline.{name}", lambda folder, *_: NewProject(folder, "1.0.0", 1, 1))
        patch.setattr("pipectl.pipeline.bundling.bundle", lambda _, file, __: Bundle(file, "", 1, (), 1))
        patch.setattr("webbrowser.open", lambda _: False)
        # `down --all` would stop what this machine runs.
        patch.setattr("pipectl.pipeline.projects.find", lambda _: ([], ()))
        patch.setattr("pipectl.pipeline.triggering.UNMENTIONED_SECONDS", 0)
        patch.setattr("pipectl.pipeline.triggering.PARSE_SECONDS", 0)
        patch.setattr("pipectl.pipeline.triggering.SILENCE_POLL_SECONDS", 0.001, raising=False)
        patch.setattr("pipectl.wait.POLL_SECONDS", 0.001)
        yield folder


FOUND = (Finding("disk", ok=True, found="room"),)


class FakeLoader:
    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def load(self, *, transactions: int, days: int, shards: int, **_: Any) -> loading.LoadResult:
        return loading.LoadResult(f"load {days}", transactions, 0, 0, 0, shards, 0.1, 0.1, 0.2)


@pytest.fixture(autouse=True)
def _as_usual(project: Path) -> Iterator[None]:
    yield
    for answers in (BODY, ANSWERS, ROWS):
        answers.clear()
    LINES["log"] = "a line"
    (project / "stack" / ".env").unlink(missing_ok=True)


def run(*arguments: str) -> tuple[int, str, str]:
    """Run a command; check what holds for all of them."""
    done = CliRunner().invoke(cli.app, arguments)
    note = f"{arguments}: {done.exit_code}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert done.exception is None or isinstance(done.exception, SystemExit), f"{note}\n{done.exception!r}"
    assert done.exit_code in CODES, note
    assert "Traceback" not in done.stderr, note
    return done.exit_code, done.stdout, done.stderr


def assert_tame(*texts: str) -> None:
    for text in texts:
        assert CONTROL.search(text) is None, repr(text)


LEFT_OUT = {"--bundle", "--html", "--watch", "-w"}


def options_of(command: str) -> list[str]:
    """Return the options of a command, without those that write files, change the shell or never end."""
    found = cli.import_command(command)
    names = [name for parameter in found.params for name in parameter.opts if name.startswith("-")]
    return [name for name in names if "completion" not in name and name not in LEFT_OUT]


OPTIONS = {command: [*options_of(command), *cli.GLOBAL_OPTIONS] for command in COMMANDS}


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    command = draw(st.sampled_from(sorted(COMMANDS)))
    words = draw(
        st.lists(st.one_of(st.sampled_from(OPTIONS[command]), ARGUMENT, st.just("--json")), max_size=6)
    )
    # A number that is waited for, and services that are not healthy, would be waited for.
    return [command, *words]


@inputs(4500)
@given(command_lines())
@example(words=["status", "--project", "x" * 300])
@example(words=["logs", "--tail", "1" * 5000])
@example(words=["runs", "--limit", "²"])
@example(words=["load", "--transactions", "\udcff\udc80"])
def test_command_lines(project: Path, words: list[str]) -> None:
    del project
    run(*words)


@inputs(300)
@given(ARGUMENT.filter(lambda text: ".." not in text))
def test_pages(project: Path, name: str) -> None:
    """Of `report --html`, all below one folder."""
    code, _, err = run("report", f"--html={project}/pages/{name}")
    assert code in {0, 2, 3}
    assert_tame(err)


def is_object(text: str) -> bool:
    """Whether a text is a JSON object by the standard, and one that PostgreSQL stores."""

    def refuse(_: str) -> None:
        raise ValueError

    def finite(number: str) -> float:
        if abs(float(number)) == float("inf"):
            raise ValueError
        return float(number)

    try:
        value = json.loads(text, parse_constant=refuse, parse_float=finite)
        return (
            isinstance(value, dict)
            and "\0" not in str(value).replace("\\x00", "\0")
            and bool(json.dumps(value, ensure_ascii=False).encode())
        )
    except (ValueError, RecursionError):
        return False


CONF = st.one_of(
    ARGUMENT,
    JSON.map(json.dumps),
    st.dictionaries(TEXT, JSON, max_size=3).map(json.dumps),
    st.integers(1, 3000).map(lambda depth: '{"a":' * depth + "1" + "}" * depth),
)


@inputs(3000)
@given(CONF)
@example(conf='{"a": NaN}')
@example(conf="1e999")
@example(conf="[" * 100_000)
@example(conf='{"a":' * 3000 + "1" + "}" * 3000)
@example(conf='{"a": "\\u0000"}')
def test_parameters_of_a_run(project: Path, conf: str) -> None:
    del project
    code, _, err = run("trigger", "--no-wait", f"--conf={conf}")
    if not is_object(conf) and not run_conf.ASSIGNMENT.fullmatch(conf):
        assert code == ExitCode.USAGE, conf[:200]
    assert_tame(err)


NAME = st.sampled_from(
    [
        "AIRFLOW_PORT",
        "AIRBYTE_MYSQL_HOST",
        "AIRBYTE_POSTGRES_HOST",
        "AIRBYTE_POSTGRES_SSLMODE",
        "AIRBYTE_POSTGRES_SSLROOTCERT",
        "AIRBYTE_MYSQL_PORT",
        "AIRBYTE_POSTGRES_PASSWORD",
        "PIPECTL_DAG_ID",
        "AIRFLOW_ADMIN_USER",
        "PIPECTL_SEED",
        "X",
    ]
)
LINE = st.one_of(
    st.tuples(NAME, TEXT).map("=".join),
    st.tuples(NAME, TEXT).map(lambda pair: f"{pair[0]}='{pair[1]}'"),
    st.tuples(NAME, TEXT).map(lambda pair: f'export {pair[0]} = "{pair[1]}"'),
    TEXT,
    st.just(f'"{SECRET}'),
    st.just(f"PASSWORD {SECRET}"),
    st.just(f"{SECRET}"),
)
FILE = st.one_of(
    st.lists(LINE, max_size=5).map(lambda lines: "\n".join(lines).encode(errors="surrogateescape")),
    st.binary(max_size=60),
)


def encoded(lines: list[str]) -> bytes:
    return "\n".join(lines).encode(errors="replace")


@inputs(3000)
@given(
    st.one_of(st.lists(LINE, max_size=5).map(encoded), st.binary(max_size=60)),
    st.sampled_from(["status", "connections", "runs", "open", "verify-db"]),
)
def test_stack_env(project: Path, content: bytes, command: str) -> None:
    (project / "stack" / ".env").write_bytes(content)
    code, out, err = run(command)
    assert code in {0, 2, 4, 5, 6, 9}
    assert SECRET not in err
    assert_tame(out, err)


@inputs(2500)
@given(st.one_of(st.lists(LINE, max_size=5).map(encoded), st.binary(max_size=60)))
def test_user_env(project: Path, content: bytes) -> None:
    path = project / "stack" / "airflow" / "user.env"
    path.write_bytes(content)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pipectl.engines.choice.choose", ReadingEngine)
            code, _, err = run("up")
    finally:
        path.unlink()
    assert code in {0, 2}
    assert SECRET not in err
    assert_tame(err)


class ReadingEngine(HealthyEngine):
    """Reads what the engines read before they start anything."""

    def install(self, observer: Observer) -> None:
        del observer
        from pipectl.engines import airflow_env

        airflow_env.read(self._settings.project, self._settings.variables)


STATE_FILES = (
    "engine",
    "settings.json",
    "run/supervisord.pid",
    "run/supervisor.sock",
    "run/webserver.json",
    "run/webserver.started",
    "run/supervisord.conf",
    "logs/webserver.log",
    "volumes/postgres/created",
    "volumes/airbyte-postgres/data/PG_VERSION",
    "airflow/created",
)


STATE_KEYS = st.sampled_from(
    [
        "pid",
        "command",
        "directory",
        "settings",
        "files",
        "port",
        "AIRFLOW_JWT_SECRET",
        "PIPECTL_PROJECT_FOLDER",
    ]
)


def end_nobody(process: psutil.Process, *_: int) -> None:
    pytest.fail(f"{process} was to be ended")


@inputs(1500)
@given(
    st.dictionaries(
        st.sampled_from(STATE_FILES),
        st.one_of(
            st.binary(max_size=40),
            TEXT.map(lambda text: text.encode(errors="replace")),
            st.sampled_from([b"0", b"-1", b"1", b"32000"]),
            st.dictionaries(STATE_KEYS, JSON, max_size=6).map(lambda state: json.dumps(state).encode()),
        ),
        max_size=4,
    ),
    st.sampled_from(
        [
            ("status",),
            ("logs",),
            ("down", "--dry-run"),
            ("reset", "--dry-run"),
            ("up", "--dry-run"),
            ("verify-db",),
            ("runs",),
            ("down",),
        ]
    ),
)
def test_state_files_of_the_local_engine(
    project: Path, files: dict[str, bytes], command: tuple[str, ...]
) -> None:
    state = project / ".pipectl"
    for name, content in files.items():
        path = state / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pipectl.engines.choice.choose", LocalEngine)
            # No process is this project's here, and a number in a file may be that of any other.
            patch.setattr("psutil.Process.kill", end_nobody)
            patch.setattr("psutil.Process.send_signal", end_nobody)
            code, out, err = run(*command)
    finally:
        for name in files:
            (state / name).unlink(missing_ok=True)
    assert code in {0, 3, 4, 5}
    assert_tame(out, err)


@inputs(2000)
@given(
    ARGUMENT.filter(bool),
    st.sampled_from(["runs", "cancel", "backfill --cancel", "pause", "unpause", "trigger"]),
)
def test_dag_ids(project: Path, dag_id: str, command: str) -> None:
    del project
    ANSWERS.clear()
    code, out, err = run(*command.split(), "--", dag_id)
    # What can be no DAG's id may be that of a run, which Airflow does not have.
    may_be_a_run = command in {"runs", "cancel"} and not is_dag_id(dag_id)
    assert code == (ExitCode.AIRFLOW if may_be_a_run else ExitCode.DAG)
    assert_tame(out, err)


@inputs(1000)
@given(
    ARGUMENT.filter(bool),
    ARGUMENT.filter(bool),
    st.sampled_from([("task-log",), ("clear",), ("clear", "--dry-run")]),
)
def test_ids_of_runs_and_tasks(project: Path, run_id: str, task: str, command: tuple[str, ...]) -> None:
    del project
    ANSWERS.clear()
    code, out, err = run(*command, "--", "generate_transaction_and_labels", run_id, task)
    assert code in {ExitCode.AIRFLOW, ExitCode.DAG}
    assert_tame(out, err)


@inputs(700)
@given(JSON, st.sampled_from(["/api/v2/monitor/health", "runs", "dag", "dags", "errors"]))
def test_answers_of_airflow_to_status(project: Path, answer: Any, which: str) -> None:
    del project
    dag = "/api/v2/dags/generate_transaction_and_labels"
    path = {
        "runs": f"{dag}/dagRuns?limit=1&order_by=-id",
        "dag": dag,
        "dags": "/api/v2/dags?limit=100&offset=0&order_by=dag_id",
        "errors": "/api/v2/importErrors?limit=100&offset=0",
    }.get(which, which)
    body = (
        answer
        if isinstance(answer, dict)
        else {"dag_runs": answer, "import_errors": answer, "dag_id": answer, "dags": answer}
    )
    BODY[path] = body | ({"has_import_errors": True} if which == "dag" else {})
    try:
        code, out, err = run("status")
        assert code == 0
        assert_tame(out, err)
        assert json.loads(run("status", "--json")[1])["engine"] == "fake"
        code, out, err = run("dags")
        assert code == 0
        assert_tame(out, err)
    finally:
        BODY.clear()


@inputs(2000)
@given(
    st.sampled_from([200, 201, 301, 401, 403, 404, 409, 422, 500, 502]),
    st.one_of(
        st.binary(max_size=60),
        JSON.map(lambda value: json.dumps(value).encode()),
        st.dictionaries(TEXT, JSON).map(
            lambda value: json.dumps(value | {"dag_id": "x", "timetable_periodic": True}).encode()
        ),
    ),
    st.sampled_from(
        [
            ("runs",),
            ("runs", "x", "latest"),
            ("task-log", "x", "latest", "task"),
            ("clear", "x", "latest", "--dry-run"),
            ("cancel",),
            ("backfill", "--from=2026-01-01", "--no-wait", "--timeout=0.1"),
            ("backfill", "--from=2026-01-01", "--dry-run", "--timeout=0.1"),
            ("backfill", "--cancel"),
            ("pause",),
            ("unpause",),
            ("trigger", "--no-wait", "--timeout=0.1"),
        ]
    ),
)
def test_answers_of_airflow_to_commands(
    project: Path, status: int, data: bytes, command: tuple[str, ...]
) -> None:
    del project
    ANSWERS["client"] = status, data
    code, out, err = run(*command)
    # A task that is named there is in no answer, and a DAG may have no slots.
    assert code in {0, 4, 8, 9, *({2} if command[0] in {"task-log", "backfill"} else ())}
    assert_tame(out, err)


@inputs(1500)
@given(st.one_of(JSON, st.fixed_dictionaries({"content": JSON})))
def test_task_logs(project: Path, answer: Any) -> None:
    from pipectl.airflow_api import AirflowApi
    from pipectl.console import visible
    from pipectl.models import AirflowAddress, TaskState

    del project
    ANSWERS["client"] = 200, json.dumps(answer).encode()
    api = AirflowApi(AirflowAddress("http://127.0.0.1:1", "admin", "admin"))
    try:
        lines = api.log("dag", "run", TaskState("task", "failed", 1, None))
    except AirflowError:
        assert not isinstance(answer, dict)
    else:
        assert_tame(*map(visible, lines))


CELL = st.one_of(TEXT, st.integers(0, 2**63))


@inputs(700)
@given(
    st.lists(st.tuples(TEXT, TEXT), max_size=3),
    st.integers(0, 2**63),
    TEXT,
    st.sampled_from(
        [
            ("verify-db",),
            ("verify-db", "--expect", "populated"),
            ("status",),
            ("reset", "--data-only", "--dry-run"),
            ("logs",),
            ("report",),
        ]
    ),
)
def test_contents_of_databases_and_logs(
    project: Path, tables: list[tuple[str, str]], rows: int, log: str, command: tuple[str, ...]
) -> None:
    del project
    LINES["log"] = log
    ROWS.update(
        {
            "to_regclass": [(True,)],
            "SHOW TABLES LIKE": [("fraud_labels",)],
            "COALESCE(SUM(is_fraud), 0)": [(rows, rows)],
            "COUNT(*), SUM(updated_at": [(name, 1, rows, 0) for name, _ in tables],
            "SELECT COUNT(*) FROM": [(rows,)],
            "SELECT count(*) FROM": [(rows,)],
            "GROUPING SETS": [
                ("", datetime(2026, 1, 1, tzinfo=UTC), None, rows),
                *((name, None, number + 1, rows) for number, (name, _) in enumerate(tables)),
            ],
            "EXPLAIN": [([{"Plan": {"Plan Rows": rows}}],)],
            "extract(epoch FROM max(created_at))": [(0, rows, 1.0, 0)],
            "UNIX_TIMESTAMP(MIN(created_at))": [(0, rows, 1.0, 0.0)],
            "table_rows": [(rows,)],
            "pg_tables": tables,
            "information_schema.tables": tables,
        }
    )
    code, out, err = run(*command)
    assert code in {0, 6}
    assert_tame(out, err)
    out = run(*command, "--json")[1]
    for document in out.splitlines() if command == ("logs",) else [out]:
        json.loads(document)
    assert_tame(out)


@inputs(100)
@given(
    st.lists(st.one_of(st.sampled_from(sorted(COMMANDS)), ARGUMENT), max_size=3),
    st.dictionaries(
        st.sampled_from(
            [
                "COLUMNS",
                "LINES",
                "TERM",
                "LC_ALL",
                "LANG",
                "TZ",
                "HOME",
                "TMPDIR",
                "PIPECTL_DAG_ID",
                "PIPECTL_ENGINE",
                "PIPECTL_JSON",
                "PIPECTL_PROJECT",
                "PIPECTL_CACHE_DIR",
                "AIRFLOW_PORT",
                "DOCKER_HOST",
                "TERMINAL_WIDTH",
                "NO_COLOR",
                "FORCE_COLOR",
                "PYTHONWARNINGS",
                "http_proxy",
                "PGHOST",
                "_PIPECTL_COMPLETE",
                "COMP_WORDS",
                "COMP_CWORD",
            ]
        ),
        ARGUMENT.filter(lambda text: len(text) < 10_000),
        max_size=3,
    ),
)
def test_real_processes(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], variables: dict[str, str]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed project"
    for name in ("dags", "stack"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    if not {"up", "reset", "scale", "open", "load"} & set(words):
        done = subprocess.run(
            [sys.executable, "-m", "pipectl", "--engine", "local", *words],
            cwd=folder,
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert done.returncode in CODES, (words, variables, done.stderr)
        assert b"Traceback" not in done.stderr, (words, variables, done.stderr)
