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
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from pipectl.airflow_api import AirflowApi
from pipectl.airflow_facts import AirflowFacts
from pipectl.airflow_health import AirflowHealth
from pipectl.engines import airflow_env
from pipectl.engines.local import uv
from pipectl.engines.local.airflow_install import AirflowRuntime
from pipectl.errors import AirflowConflictError, AirflowError, DagError, EngineError, UsageError
from pipectl.models import AirflowAddress
from pipectl.observer import Observer
from pipectl.pipeline import backfilling, inspecting, triggering
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
NONE_NAMED = "PIPECTL_TEST_AIRFLOW_VERSIONS names no versions or environments of Airflow"
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
DAGS = """
from datetime import datetime

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Param

CODE = Param(0, type="integer", minimum=0, maximum=255, description="How the second task ends.")

with DAG("two_tasks", params={"code": CODE}):
    first = BashOperator(task_id="first", bash_command="echo the words of the task of {{ ds }}")
    first >> BashOperator(
        task_id="second", bash_command="exit {{ params.code }}", retries=1, retry_delay=0
    )

with DAG("mapped", schedule="@yearly", start_date=datetime(2024, 1, 1)):
    BashOperator.partial(task_id="each").expand(bash_command=["echo none", "echo one"])

with DAG("daily", schedule="@daily", start_date=datetime(2024, 1, 1), catchup=False):
    BashOperator(task_id="says", bash_command="echo the day is {{ ds }}")

with DAG("slow", max_active_runs=1):
    BashOperator(task_id="sleeper", bash_command="echo begun; exec sleep 600")
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
        pytest.skip(NONE_NAMED)
    project = tmp_path_factory.mktemp("project")
    (project / "dags").mkdir()
    (project / "dags" / "two_tasks.py").write_text(DAGS, encoding="utf-8")
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


def trigger(
    api: AirflowApi, dag_id: str, conf: dict[str, Any] | None = None, *, wait: bool = True
) -> triggering.TriggerResult:
    dag = api.dag(dag_id)
    assert dag
    return triggering.trigger(
        api,
        dag,
        conf=conf,
        logical_date=datetime.now(UTC),
        batch=None,
        observer=Observer(),
        timeout=120,
        wait=wait,
    )


def test_a_run_is_triggered_followed_and_listed(address: AirflowAddress) -> None:
    api = AirflowApi(address)
    api.set_paused("two_tasks", paused=True)
    before = datetime.now(UTC)
    result = trigger(api, "two_tasks")
    assert (result.state, result.unpaused) == ("success", True)
    assert [(task.id, task.state, task.tries) for task in result.tasks] == [
        ("first", "success", 1),
        ("second", "success", 1),
    ]
    run = api.run("two_tasks", result.run_id)
    assert run.run_type == "manual"
    assert run.logical_date is not None
    assert before <= run.logical_date <= datetime.now(UTC)
    assert run.seconds is not None
    assert api.runs("two_tasks")[0].run_id == result.run_id
    assert api.active_runs("two_tasks") == ()
    log = api.log("two_tasks", result.run_id, result.tasks[0])
    assert f"the words of the task of {run.logical_date:%Y-%m-%d}" in "\n".join(log)
    assert not [line for line in log if line.startswith("::") or line.endswith("attempt=1.log")]
    [only] = api.tries("two_tasks", result.run_id, result.tasks[0])
    assert (only.number, only.state) == (1, "success")
    assert only.seconds is not None
    dag = api.dag("two_tasks")
    assert dag
    assert not dag.paused


def test_a_failed_run_names_its_task_and_log_and_can_be_cleared(address: AirflowAddress) -> None:
    api = AirflowApi(address)
    result = trigger(api, "two_tasks", {"code": 3})
    assert result.state == "failed"
    error = triggering.failed_run(api, "two_tasks", result.run_id, result.tasks)
    assert error.message.endswith("of two_tasks failed in task second.")
    assert "exit code 3" in error.detail
    task = next(task for task in result.tasks if task.id == "second")
    tries = api.tries("two_tasks", result.run_id, task)
    assert [(found.number, found.state) for found in tries] == [(1, "failed"), (2, "failed")]
    assert all("exit code 3" in "\n".join(api.log("two_tasks", result.run_id, task, n)) for n in (1, 2))
    run = inspecting.find_run(api, "two_tasks", result.run_id)
    shown = inspecting.details(api, run)
    assert [(each.name, len(each.tries)) for each in shown.tasks] == [("first", 1), ("second", 2)]
    lines = inspecting.task_log(api, run, "second", number=None, follow=True)
    assert {line.number for line in lines} == {2}
    would = api.clear("two_tasks", result.run_id, only_failed=True, dry_run=True)
    assert [found.id for found in would] == ["second"]
    assert api.run("two_tasks", result.run_id).state == "failed"
    api.clear("two_tasks", result.run_id, tasks=(("first", -1),), downstream=True)
    until(lambda: api.run("two_tasks", result.run_id).finished, "the end of the cleared run")
    assert {(found.id, found.tries) for found in api.tasks("two_tasks", result.run_id)} == {
        ("first", 2),
        ("second", 4),
    }


def test_a_mapped_task_has_tries_and_logs_by_index_and_is_cleared_by_it(address: AirflowAddress) -> None:
    api = AirflowApi(address)
    result = trigger(api, "mapped")
    assert {(task.id, task.map_index, task.state) for task in result.tasks} == {
        ("each", 0, "success"),
        ("each", 1, "success"),
    }
    one = next(task for task in result.tasks if task.map_index == 1)
    assert [found.number for found in api.tries("mapped", result.run_id, one)] == [1]
    assert "one" in "\n".join(api.log("mapped", result.run_id, one)).splitlines()
    would = api.clear("mapped", result.run_id, tasks=(("each", 1),), dry_run=True)
    assert [found.map_index for found in would] == [1]


def test_a_run_is_ended_before_its_time(address: AirflowAddress) -> None:
    api = AirflowApi(address)
    run_id = trigger(api, "slow", wait=False).run_id

    def states() -> list[str]:
        return [task.state for task in api.tasks("slow", run_id)]

    def log() -> str:
        [task] = api.tasks("slow", run_id)
        return "\n".join(api.log("slow", run_id, task)) if task.state == "running" else ""

    until(lambda: "begun" in log(), "the first words of a task that runs")
    facts = AirflowFacts(address)
    [instance] = facts.instances("slow", run_id)
    assert (instance.task.name, instance.state, instance.pool) == ("sleeper", "running", "default_pool")
    busy, number = facts.instances_in("running", "queued")
    assert (busy, number) == ((instance,), 1)
    assert [run.run_id for run in facts.runs_under_way("slow")] == [run_id]
    assert facts.definitions("two_tasks")["first"].downstream == ("second",)
    pool = facts.pool("default_pool")
    assert pool is not None
    assert pool.slots - pool.open == 1
    assert facts.pool("gone") is None
    assert facts.blockers(instance) == ()
    assert any("begun" in str(entry) for entry in facts.log(instance))
    assert facts.seconds_of_earlier(instance) == ()
    assert facts.backfill("slow") is None
    assert api.fail("slow", run_id).state == "failed"
    assert states() == ["failed"]
    for run in (api.run("slow", run_id), facts.run("slow", run_id), facts.runs("slow")[0]):
        assert (run.state, run.cancelled) == ("failed", True)
    assert [event.name for event in facts.events("slow", run_id)] == ["patch_dag_run"]


def test_a_logical_date_that_a_run_has_already_names_that_run(address: AirflowAddress) -> None:
    api = AirflowApi(address)
    date = datetime(2026, 2, 2, tzinfo=UTC)
    first = api.trigger("mapped", triggering.new_run_id(), None, date)
    assert first.logical_date == date
    with pytest.raises(AirflowConflictError, match="with the logical date 2026-02-02") as caught:
        api.trigger("mapped", triggering.new_run_id(), None, date)
    assert first.run_id in caught.value.message
    assert api.trigger("mapped", triggering.new_run_id(), None).logical_date is None


def test_slots_of_the_past_are_run_once(address: AirflowAddress) -> None:
    api = AirflowApi(address)
    first, last = datetime(2026, 1, 30, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)

    def backfilled(since: datetime, *, wait: bool = True) -> backfilling.BackfillResult:
        dag = api.dag("daily")
        assert dag
        return backfilling.backfill(
            api,
            dag,
            since,
            last,
            max_active_runs=2,
            patience=triggering.Patience(cast("Any", None), Observer(), 120),
            observer=Observer(),
            timeout=120,
            wait=wait,
        )

    made = backfilled(first)
    assert [(run.logical_date, run.state) for run in made.runs] == [
        (first + timedelta(days=day), "success") for day in range(3)
    ]
    again = backfilled(first)
    assert (again.runs, len(again.existing)) == ((), 3)
    assert len(backfilled(first - timedelta(days=40), wait=False).runs) == 40
    with pytest.raises(AirflowConflictError, match="has a backfill from 2025-12-21"):
        backfilled(first - timedelta(days=50))
    assert backfilling.cancel(api, "daily").failed >= 30
    until(lambda: not api.active_runs("daily"), "the end of what had begun")
    assert not backfilling.cancel(api, "daily").cancelled
    unscheduled = api.dag("slow")
    assert unscheduled
    with pytest.raises(UsageError, match="slow has no schedule"):
        backfilling.check_schedule(unscheduled)


def test_dags_and_import_errors_are_told(stack: AirflowStack, address: AirflowAddress) -> None:
    api, health = AirflowApi(address), AirflowHealth(address)
    assert api.dag_ids() == ("daily", "mapped", "slow", "two_tasks")
    assert api.dag("unknown") is None
    with pytest.raises(DagError):
        api.set_paused("unknown", paused=True)
    until(api.import_failures, "an import error")
    [failure] = health.import_failures()
    assert failure.filename.endswith("broken.py")
    assert "no_such_name" in failure.stack_trace
    assert health.version() == stack.runtime.version
    dags = {dag.dag_id: dag for dag in health.dags()}
    assert {name: dag.schedule for name, dag in dags.items()} == {
        "daily": "0 0 * * *",
        "mapped": "0 0 1 1 *",
        "slow": "",
        "two_tasks": "",
    }
    assert dags["slow"].max_active_runs == 1
    assert (dags["two_tasks"].file, dags["two_tasks"].has_import_errors) == ("two_tasks.py", False)
    assert health.dag("two_tasks") == dags["two_tasks"]


def test_params_are_told_and_checked_by_airflow_too(address: AirflowAddress) -> None:
    api = AirflowApi(address)
    dag = api.dag("two_tasks")
    assert dag
    code = dag.params["code"]
    assert (code.default, code.description) == (0, "How the second task ends.")
    assert code.schema == {"type": "integer", "minimum": 0, "maximum": 255}
    with pytest.raises(AirflowError, match="code"):
        api.trigger("two_tasks", triggering.new_run_id(), {"code": 300}, datetime.now(UTC))


def test_the_answers_are_recorded(stack: AirflowStack, address: AirflowAddress) -> None:
    """Write down what the server answers, for the unit tests; with shorter texts and no secret."""
    if not os.environ.get("PIPECTL_TEST_RECORD"):
        pytest.skip("PIPECTL_TEST_RECORD is not set")
    api, client = AirflowApi(address), RestClient(address.url)
    good, mapped = (trigger(api, name).run_id for name in ("two_tasks", "mapped"))
    bad = trigger(api, "two_tasks", {"code": 3}).run_id
    slow = trigger(api, "slow", wait=False).run_id
    until(lambda: [task.state for task in api.tasks("slow", slow)] == ["running"], "a task that runs")
    for dag_id in ("two_tasks", "mapped", "slow"):
        client.pause(dag_id)
    until(lambda: client.call("/api/v2/importErrors")["import_errors"], "an import error")
    dag = "/api/v2/dags/two_tasks"
    run, failed = f"{dag}/dagRuns/{good}", f"{dag}/dagRuns/{bad}"
    asked = [
        "/api/v2/version",
        "/api/v2/monitor/health",
        "/api/v2/dags?order_by=dag_id",
        "/api/v2/dags/~/dagRuns?limit=100&order_by=-run_after",
        "/api/v2/importErrors",
        dag,
        f"{dag}/details",
        f"{run}/taskInstances",
        f"{run}/taskInstances/first/logs/1?full_content=true",
        f"{failed}/taskInstances/second/tries",
        f"/api/v2/dags/mapped/dagRuns/{mapped}/taskInstances/each/1/tries",
    ]
    answers = {f"GET {path}": client.call(path) for path in asked}
    answers[f"GET {run}"] = client.call(run)
    # Of the DAG's runs the one that all these answers are about.
    listed = client.call(f"{dag}/dagRuns")
    listed["dag_runs"] = [found for found in listed["dag_runs"] if found["dag_run_id"] == good]
    answers[f"GET {dag}/dagRuns"] = {**listed, "total_entries": 1}
    answers[f"PATCH {dag}"] = client.call(dag, {"is_paused": True}, "PATCH")
    answers[f"POST {dag}/clearTaskInstances"] = client.call(
        f"{dag}/clearTaskInstances", {"dag_run_id": bad, "only_failed": True, "dry_run": True}
    )
    slow_run = f"/api/v2/dags/slow/dagRuns/{slow}"
    answers[f"GET {slow_run}"] = client.call(slow_run)
    answers[f"PATCH {slow_run}"] = client.call(slow_run, {"state": "failed"}, "PATCH")
    answers[f"GET {slow_run}/taskInstances"] = client.call(f"{slow_run}/taskInstances")
    body: dict[str, Any] = {"logical_date": "2026-01-01T00:00:00Z", "conf": {}, "dag_run_id": "recorded"}
    answers[f"POST {dag}/dagRuns"] = client.call(f"{dag}/dagRuns", body)
    text = json.dumps({path.split("?")[0]: [200, answer] for path, answer in answers.items()})
    # Nothing of the machine that recorded.
    for long, short in (
        *((each, "run") for each in (good, mapped, slow, "recorded")),
        (bad, "failed"),
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


@pytest.mark.parametrize("name", WANTED or ["none"])
def test_check_parses_with_the_processor_of_each_version(name: str, tmp_path: Path) -> None:
    if not WANTED:
        pytest.skip(NONE_NAMED)
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "two_tasks.py").write_text(DAGS, encoding="utf-8")
    (dags / "broken.py").write_text(BROKEN, encoding="utf-8")
    (dags / "ends.py").write_text("import airflow, os  # a DAG file\nos._exit(3)\n", encoding="utf-8")
    venv = environment(name)
    told = subprocess.run(
        [venv / "bin" / "python", "-P", ROOT / "stack" / "airflow" / "check_dags.py"],
        env=airflow_env.without_stack(
            {
                "PATH": os.environ["PATH"],
                "AIRFLOW_HOME": str(tmp_path),
                "AIRFLOW_CONFIG": os.devnull,
                "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            }
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    broken, ends, fine = json.loads(told.stdout)["files"]
    assert "no_such_name" in broken["errors"][0]
    assert ends["exit"] == 3
    assert {"two_tasks", "mapped", "slow"} <= set(fine["dags"])
