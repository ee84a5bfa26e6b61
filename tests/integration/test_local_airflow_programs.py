"""Airflow's programs on a real PostgreSQL, started as the supervisor starts them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pipectl.engines.local import airflow, airflow_metadata
from support import own_settings
from support.airflow_stack import TWO_TASKS, AirflowStack, members, signal_group
from support.server_process import listening_addresses
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.rest_client import RestClient

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

# These come with any settings: of FastAPI's test client, of the answer that holds a task's log, and of the
# library that reads .airflowignore.
WARNINGS_OF_AIRFLOW = r"install `httpx2` instead|Pydantic serializer warnings:|GitWildMatchPattern"
SLOW = """\
from datetime import datetime

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("slow", schedule=None, start_date=datetime(2024, 1, 1)):
    BashOperator(task_id="wait", bash_command="until [ -e '{flag}' ]; do sleep 0.1; done")
"""
LISTED_SETTINGS = """\
import json
from airflow.configuration import conf
known = conf.configuration_description
print(json.dumps({section: list(known[section]["options"]) for section in known}))
"""

# What both of Airflow's APIs offer, built as the launcher builds them.
DESCRIBE_APIS = """\
import asyncio, gc, importlib, json, runpy, sys
launcher = runpy.run_path(sys.argv[1], run_name="launcher")
if sys.argv[2] == "shortcuts":
    launcher["import_modules"]("api-server", with_shortcuts=True)
    launcher["shortcuts"].build_apis_quickly()
app = importlib.import_module("airflow.api_fastapi.main").app
[tasks_api] = [route.app for route in app.routes if route.path == "/execution"]
asyncio.run(launcher["request_nothing"](tasks_api))
newest, router = max(tasks_api.router.versioned_routers.items())
late = [route for route in app.routes if "late_arguments" in vars(route)]
base = importlib.import_module("pydantic").BaseModel
models = [each for each in gc.get_objects() if isinstance(each, type) and base in each.__mro__[1:]]
later = [model for model in models if not model.__pydantic_complete__]
openapi = importlib.import_module("fastapi.openapi.utils").get_openapi
offered = [app.openapi(), openapi(title="tasks", version=str(newest), routes=router.routes)]
wrong = sorted(str(model) for model in later if model.model_rebuild(raise_errors=False) is False)
print(json.dumps([len(late), len(later), wrong, *offered], sort_keys=True))
"""
# A task's source, as those that run in an environment of their own have it rewritten.
REWRITE = """import importlib, runpy, sys
launcher = runpy.run_path(sys.argv[1], run_name="launcher")
launcher["import_modules"]("scheduler", with_shortcuts=True)
before = "libcst" in sys.modules
decorators = importlib.import_module("airflow.sdk.bases.decorator")
source = "@task.virtualenv()\\n@kept\\ndef f(): pass\\n"
for _ in range(2):
    print(repr(decorators.remove_task_decorator(source, "@task.virtualenv")))
print(before, importlib.import_module("libcst").parse_expression("1 + 1").deep_equals(None))
"""
# What a DAG file's assets become, and what was imported for those of one scheme.
ASSETS = """import json, runpy, sys
launcher = runpy.run_path(sys.argv[1], run_name="launcher")
launcher["import_modules"]("scheduler", with_shortcuts=len(sys.argv) > 2)
from airflow.sdk import Asset
from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime
def outcome(uri):
    try:
        return Asset(uri).uri
    except ValueError as error:
        return str(error)
uris = ["postgres://h/d/s/t", "postgres://h", "file:///a/../b", "unknown://x/y/", "a name"]
read = {uri: outcome(uri) for uri in uris}
imported = sorted(name for name in sys.modules if name.endswith(("assets.mysql", "assets.postgres")))
manager = ProvidersManagerTaskRuntime()
kinds = (manager.asset_uri_handlers, manager.asset_factories, manager.asset_to_openlineage_converters)
found = [{scheme: f"{value.__module__}.{value.__name__}" for scheme, value in kind.items()} for kind in kinds]
print(json.dumps([imported, read | {"mysql://h/d/t": outcome("mysql://h/d/t")}, found]))
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowStack]:
    project = tmp_path_factory.mktemp("my project")
    (project / "dags").mkdir()
    (project / "dags" / "two_tasks.py").write_text(TWO_TASKS, encoding="utf-8")
    (project / "stack" / "airflow").mkdir(parents=True)
    own_settings.add(project)
    started = AirflowStack(project)
    started.prepare()
    # The database last: the programs must wait for it.
    started.start(*airflow.COMMANDS)
    started.start("postgres")
    try:
        until(started.client.healthy, "a healthy Airflow")
        yield started
    finally:
        started.stop()


@pytest.fixture
def client(stack: AirflowStack) -> RestClient:
    ready = stack.client
    until(ready.healthy, "a healthy Airflow")
    until(lambda: ready.sees("nothing_to_do"), "the DAG")
    return ready


def test_a_run_started_by_rest_succeeds_and_its_log_is_read_back(client: RestClient) -> None:
    run_id = client.trigger("nothing_to_do")
    assert client.end_of("nothing_to_do", run_id) == "success"
    log = client.call(f"/api/v2/dags/nothing_to_do/dagRuns/{run_id}/taskInstances/first/logs/1")
    assert "Command exited with return code 0" in json.dumps(log)


def test_a_task_sees_the_users_settings_and_no_other_secret(stack: AirflowStack, client: RestClient) -> None:
    until(lambda: client.sees("own_settings"), "a parsed DAG")
    run_id = client.trigger("own_settings")
    until(lambda: client.state("own_settings", run_id) == "success", "the end of the run")
    assert client.call(own_settings.XCOM.format(run_id=run_id))["value"] == own_settings.expected()
    assert stack.site.settings["AIRFLOW_ADMIN_PASSWORD"] == "admin"


def test_dags_of_one_file_are_both_there_and_ignored_files_are_not_read(client: RestClient) -> None:
    until(lambda: client.sees("own_second"), "the second DAG of the file")
    assert client.call("/api/v2/importErrors")["import_errors"] == []


def test_a_plugin_is_loaded(client: RestClient) -> None:
    assert "own_plugin" in {each["name"] for each in client.call("/api/v2/plugins")["plugins"]}


def test_old_logs_and_runs_are_deleted_and_new_ones_stay(stack: AirflowStack, client: RestClient) -> None:
    old, new = (client.trigger("nothing_to_do") for _ in range(2))
    states = partial(map, partial(client.state, "nothing_to_do"), (old, new))
    until(lambda: set(states()) == {"success"}, "the end of both runs")
    with stack.metadata() as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE dag_run SET start_date = now() - interval '31 days' WHERE run_id = %s", (old,))
    logs = {run_id: list(stack.site.home.glob(f"logs/*/run_id={run_id}/*/*.log")) for run_id in (old, new)}
    assert [len(found) for found in logs.values()] == [2, 2]
    for path in logs[old]:
        os.utime(path, (time.time() - 31 * 86400,) * 2)
    program = stack.project / airflow.LAUNCHER.with_name("cleanup.py")
    subprocess.run(
        [stack.runtime.python, program],
        env=airflow.environment(stack.site, stack.runtime),
        cwd=stack.site.home,
        capture_output=True,
        check=True,
    )
    assert not any(path.exists() for path in logs[old])
    assert all(path.exists() for path in logs[new])
    runs = {run["dag_run_id"] for run in client.call("/api/v2/dags/nothing_to_do/dagRuns")["dag_runs"]}
    assert old not in runs
    assert new in runs


def test_connections_are_listed(client: RestClient) -> None:
    listed = {each["connection_id"]: each for each in client.call("/api/v2/connections")["connections"]}
    assert listed["airbyte_postgres"]["schema"] == "airbyte"
    assert listed["airbyte_mysql"]["port"] == 3306


def test_a_new_file_is_a_dag_within_seconds(stack: AirflowStack, client: RestClient) -> None:
    (stack.project / "dags" / "added.py").write_text(
        TWO_TASKS.replace("nothing_to_do", "added"), encoding="utf-8"
    )
    until(lambda: client.sees("added"), "the new DAG")


def test_logs_hold_no_warning_of_our_settings(stack: AirflowStack, client: RestClient) -> None:
    assert client.run("nothing_to_do") == "success"
    warnings = [
        line
        for name in airflow.COMMANDS
        for line in stack.log(name).splitlines()
        if re.search(r"\[(warning|error) |pipectl launcher", line)
        and not re.search(WARNINGS_OF_AIRFLOW, line)
    ]
    assert warnings == []


def test_shortcuts_change_nothing_that_the_apis_offer(stack: AirflowStack) -> None:
    variables = airflow.environment(stack.site, stack.runtime)
    found = []
    for how in ("plainly", "shortcuts"):
        done = subprocess.run(
            [stack.runtime.python, "-c", DESCRIBE_APIS, stack.project / airflow.LAUNCHER, how],
            env=variables,
            cwd=stack.site.home,
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
    (late_routes, late_models, *plain), (later_routes, later_models, *short) = found
    assert late_routes == 0
    assert later_routes > 100
    assert later_models > late_models + 100
    assert short == plain


def test_a_tasks_source_is_rewritten_though_libcst_is_imported_when_it_is_used(stack: AirflowStack) -> None:
    done = subprocess.run(
        [stack.runtime.python, "-c", REWRITE, stack.project / airflow.LAUNCHER],
        env=airflow.environment(stack.site, stack.runtime),
        cwd=stack.site.home,
        capture_output=True,
        text=True,
        check=True,
    )
    rewritten = repr("@kept\ndef f(): pass\n")
    assert done.stdout.splitlines()[-3:] == [rewritten, rewritten, "False False"]


def test_assets_are_the_same_though_what_reads_their_addresses_is_imported_when_it_is_used(
    stack: AirflowStack,
) -> None:
    (imported, *plain), (imported_when_used, *when_used) = (
        json.loads(
            subprocess.run(
                [stack.runtime.python, "-c", ASSETS, stack.project / airflow.LAUNCHER, *more],
                env=airflow.environment(stack.site, stack.runtime),
                cwd=stack.site.home,
                capture_output=True,
                text=True,
                check=True,
            ).stdout.splitlines()[-1]
        )
        for more in ((), ("with shortcuts",))
    )
    assert when_used == plain
    assert imported == [
        "airflow.providers.mysql.assets.mysql",
        "airflow.providers.postgres.assets.postgres",
    ]
    assert imported_when_used == ["airflow.providers.postgres.assets.postgres"]


def test_every_setting_is_known_to_airflow(stack: AirflowStack) -> None:
    variables = airflow.environment(stack.site, stack.runtime)
    listed = subprocess.run(
        [stack.runtime.python, "-c", LISTED_SETTINGS],
        env=variables,
        cwd=stack.site.home,
        capture_output=True,
        text=True,
        check=True,
    )
    known = {section: set(options) for section, options in json.loads(listed.stdout.splitlines()[-1]).items()}
    settings = [name.split("__")[1:] for name in variables if name.startswith("AIRFLOW__")]
    unknown = [(section, name) for section, name in settings if name.lower() not in known[section.lower()]]
    assert unknown == []


def test_an_up_to_date_database_is_not_migrated(stack: AirflowStack, client: RestClient) -> None:
    assert client.healthy()
    assert not airflow_metadata.migrate_metadata(stack.site, stack.runtime, print)


def test_only_this_machine_is_listened_to_and_on_one_port(stack: AirflowStack, client: RestClient) -> None:
    assert client.healthy()
    pids = [pid for name in airflow.COMMANDS for pid in members(stack.processes[name].pid)]
    listening = listening_addresses(pids)
    assert listening == {("127.0.0.1", stack.site.port)}


def test_a_killed_scheduler_leaves_its_task_at_work_and_the_next_one_sees_its_end(
    stack: AirflowStack, client: RestClient
) -> None:
    flag = stack.project / "flag"
    (stack.project / "dags" / "slow.py").write_text(SLOW.format(flag=flag.as_posix()), encoding="utf-8")
    until(lambda: client.sees("slow"), "the slow DAG")
    run_id = client.trigger("slow")
    task = f"/api/v2/dags/slow/dagRuns/{run_id}/taskInstances/wait"
    until(lambda: client.call(task)["state"] == "running", "the task at work")
    scheduler = stack.processes["scheduler"]
    group = scheduler.pid
    before = members(group)
    assert len(before) > 1
    scheduler.send_signal(signal.SIGKILL)
    scheduler.wait()
    try:
        assert members(group) == [pid for pid in before if pid != group]
        stack.start("scheduler")
        flag.touch()
        assert client.end_of("slow", run_id) == "success"
        until(lambda: not members(group), "the busy worker's end after its task")
    finally:
        signal_group(group, signal.SIGKILL)


def test_sigterm_ends_every_process(stack: AirflowStack, client: RestClient) -> None:
    assert client.run("nothing_to_do") == "success"
    leaders = {name: stack.processes[name] for name in airflow.COMMANDS}
    stack.stop()
    try:
        assert [name for name, leader in leaders.items() if leader.returncode == -signal.SIGKILL] == []
        assert [pid for leader in leaders.values() for pid in members(leader.pid)] == []
    finally:
        stack.start()
