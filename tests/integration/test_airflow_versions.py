"""pipectl's client against real API servers of other versions of Airflow.

    PIPECTL_TEST_AIRFLOW_VERSIONS=3.0.6,3.1.8,/path/to/an/environment pytest -m versions

A version is installed by uv into pipectl's cache folder, once. PIPECTL_TEST_RECORD=1 also writes what each
server answered to tests/fixtures/airflow-answers.json.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipectl.airflow_api import AirflowApi
from pipectl.airflow_health import AirflowHealth
from pipectl.engines.local import uv
from pipectl.engines.local.airflow_install import AirflowRuntime
from pipectl.errors import DagError, EngineError
from pipectl.models import AirflowAddress
from pipectl.observer import Observer
from pipectl.pipeline import triggering
from pipectl.settings import cache_dir
from support import ROOT
from support.airflow_stack import AirflowStack
from support.rest_client import RestClient
from support.waiting import until
from support.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.versions, pytest.mark.integration, pytest.mark.timeout(600)]
WANTED = [name for name in os.environ.get("PIPECTL_TEST_AIRFLOW_VERSIONS", "").split(",") if name]
RECORDED = ROOT / "tests" / "fixtures" / "airflow-answers.json"
PACKAGES = ("apache-airflow-providers-standard", "asyncpg", "psycopg2-binary")
# When a version was new: later releases of what it needs may not fit. Airflow 3.2.2 with FastAPI 0.165, for
# example, which drops a union's discriminator otherwise, cannot import its own API for tasks.
CUTOFFS = {
    "3.0.6": "2025-09-10",
    "3.1.8": "2026-04-15",
    "3.2.2": "2026-06-15",
    "3.4.0b2": "2026-11-20",
}
TWO_TASKS = """
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("two_tasks"):
    first = BashOperator(task_id="first", bash_command="echo the words of the task")
    first >> BashOperator(task_id="second", bash_command="exit {{ dag_run.conf.get('code', 0) }}")
"""
BROKEN = "from airflow.sdk import no_such_name  # a DAG file\n"


def environment(name: str) -> Path:
    """The environment of a path, or of a version that is installed first."""
    if "/" in name:
        return Path(name)
    folder = cache_dir() / f"airflow-test-{name}-{sys.version_info.major}.{sys.version_info.minor}"
    if not (folder / "installed").exists():
        failure = EngineError(f"Airflow {name} could not be installed.")
        cutoff = ("--exclude-newer", CUTOFFS[name]) if name in CUTOFFS else ()
        # Of a test version its task SDK is one too.
        sdk = (f"apache-airflow-task-sdk>=1.{name.split('.')[1]}.0b0",) if name[-2:-1].isalpha() else ()
        python = str(folder / "bin" / "python")
        uv.run(("venv", "--clear", "--python", sys.executable, str(folder)), failure)
        install = ("pip", "install", "--compile-bytecode", "--python", python, *cutoff)
        uv.run((*install, f"apache-airflow-core=={name}", *PACKAGES, *sdk), failure)
        (folder / "installed").touch()
    return folder


def runtime(venv: Path) -> AirflowRuntime:
    python = venv / "bin" / "python"
    version = "import importlib.metadata as m; print(m.version('apache-airflow-core'))"
    head = str(ROOT / "stack" / "airflow" / "metadata_database.py")
    told = [
        subprocess.run([str(python), "-I", *words], capture_output=True, text=True, check=True).stdout.strip()
        for words in (["-c", version], [head, "head"])
    ]
    key = hashlib.sha256(str(venv).encode()).hexdigest()[:16]
    return AirflowRuntime(venv, python, told[0], key, told[1])


@pytest.fixture(scope="module", params=WANTED or ["none"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowStack]:
    if not WANTED:
        pytest.skip("PIPECTL_TEST_AIRFLOW_VERSIONS names no versions or environments of Airflow")
    project = tmp_path_factory.mktemp("project")
    (project / "dags").mkdir()
    (project / "dags" / "two_tasks.py").write_text(TWO_TASKS, encoding="utf-8")
    (project / "dags" / "broken.py").write_text(BROKEN, encoding="utf-8")
    (project / "stack" / "airflow").mkdir(parents=True)
    started = AirflowStack(project, runtime(environment(request.param)), project / "cache")
    started.prepare()
    started.start()
    try:
        until(started.client.healthy, "a healthy Airflow")
        until(lambda: started.client.sees("two_tasks"), "the DAG")
        yield started
    finally:
        started.stop()


@pytest.fixture
def address(stack: AirflowStack) -> AirflowAddress:
    return AirflowAddress(stack.site.url, "admin", "admin", witness=Witness())


def trigger(api: AirflowApi, conf: dict[str, Any] | None = None) -> triggering.TriggerResult:
    return triggering.trigger(
        api,
        "two_tasks",
        paused=bool(api.is_paused("two_tasks")),
        conf=conf,
        batch=None,
        observer=Observer(),
        timeout=120,
    )


def test_a_run_is_triggered_followed_and_listed(stack: AirflowStack, address: AirflowAddress) -> None:
    api = AirflowApi(address)
    api.set_paused("two_tasks", paused=True)
    result = trigger(api)
    assert (result.state, result.unpaused) == ("success", True)
    assert [(task.id, task.state, task.tries) for task in result.tasks] == [
        ("first", "success", 1),
        ("second", "success", 1),
    ]
    run = api.run("two_tasks", result.run_id)
    assert (run.run_type, run.logical_date) == ("manual", None)
    assert run.seconds is not None
    assert api.runs("two_tasks")[0].run_id == result.run_id
    assert api.active_runs("two_tasks") == ()
    assert "the words of the task" in "\n".join(api.log("two_tasks", result.run_id, result.tasks[0]))
    assert api.is_paused("two_tasks") is False
    record(stack, address, result.run_id)


def test_a_failed_run_names_its_task_and_log(address: AirflowAddress) -> None:
    api = AirflowApi(address)
    result = trigger(api, {"code": 3})
    assert result.state == "failed"
    task, log = triggering.failing_task_log(api, result)
    assert task is not None
    assert task.id == "second"
    assert "exit code 3" in log


def test_dags_and_import_errors_are_told(stack: AirflowStack, address: AirflowAddress) -> None:
    api, health = AirflowApi(address), AirflowHealth(address)
    assert api.dag_ids() == ("two_tasks",)
    assert api.is_paused("unknown") is None
    with pytest.raises(DagError):
        api.set_paused("unknown", paused=True)
    until(lambda: api.import_failures_of("unknown"), "an import error")
    [failure] = health.import_failures()
    assert failure.filename.endswith("broken.py")
    assert "no_such_name" in failure.stack_trace
    assert api.import_failures_of("two_tasks") == ()
    assert health.version() == stack.runtime.version
    dag = health.dag("two_tasks")
    assert dag is not None
    assert (dag.file, dag.has_import_errors) == ("two_tasks.py", False)


def record(stack: AirflowStack, address: AirflowAddress, run_id: str) -> None:
    """Write down what the server answers, for the unit tests; with shorter texts and no secret."""
    if not os.environ.get("PIPECTL_TEST_RECORD"):
        return
    client = RestClient(address.url)
    client.pause("two_tasks")
    until(lambda: client.call("/api/v2/importErrors")["import_errors"], "an import error")
    dag, run = "/api/v2/dags/two_tasks", f"/api/v2/dags/two_tasks/dagRuns/{run_id}"
    paths = [
        "/api/v2/version",
        "/api/v2/monitor/health",
        "/api/v2/dags",
        dag,
        f"{dag}/dagRuns?limit=1&order_by=-run_after",
    ]
    paths += [run, f"{run}/taskInstances", f"{run}/taskInstances/first/logs/1?full_content=true"]
    answers = {f"GET {path}": client.call(path) for path in [*paths, "/api/v2/importErrors"]}
    answers[f"PATCH {dag}"] = client.call(dag, {"is_paused": True}, "PATCH")
    body: dict[str, Any] = {"logical_date": None, "conf": {}, "dag_run_id": "recorded"}
    answers[f"POST {dag}/dagRuns"] = client.call(f"{dag}/dagRuns", body)
    text = json.dumps({path.split("?")[0]: [200, answer] for path, answer in answers.items()})
    # Nothing of the machine that recorded.
    for long, short in (
        (run_id, "run"),
        ("recorded", "run"),
        (str(stack.project), "/project"),
        (str(Path.home()), "/home/user"),
        (f'"{socket.gethostname()}"', '"host"'),
        (f"hostname='{socket.gethostname()}'", "hostname='host'"),
        (f'"{getpass.getuser()}"', '"user"'),
    ):
        text = text.replace(long, short)
    recorded = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
    recorded[stack.runtime.version] = {
        "POST /auth/token": [201, {"access_token": "token"}],
        **json.loads(text),
    }
    shown = json.dumps(recorded, indent=1, sort_keys=True)
    RECORDED.write_text(shown + "\n", encoding="utf-8")
