"""The whole pipeline on the local engine: real servers, real Airflow, the databases asked directly."""

from __future__ import annotations

import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psutil
import psycopg2
import pytest

from pipectl.services import of_executor
from support import asset_events, broken_dags
from support.command_lines import command_lines
from support.damages import restart_in_vain
from support.deferral import check_triggerer
from support.example_dags import check_sample
from support.explained import Explained
from support.looks import check_watch
from support.project_copy import COMMAND_SECONDS, DAG_ID, Project, new_local_project
from support.server_process import listening_addresses
from support.snapshot_checks import check_killing, check_moving, check_saving_and_restoring
from support.stacks import LocalStack, check_rest
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.e2e
SERVICES = tuple(service.name for service in of_executor("LocalExecutor"))
PORTS = {
    "webserver": "AIRFLOW_PORT",
    "airbyte-postgres": "AIRBYTE_POSTGRES_PORT",
    "airbyte-mysql": "AIRBYTE_MYSQL_PORT",
}
CLIENTS_AT_ONCE = 50
FAILING_DAG = """
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("failing"):
    BashOperator(task_id="breaks", bash_command="echo the last words; exit 3")
"""
SLOW_DAG = """
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("slow"):
    BashOperator(
        task_id="waits", bash_command="echo waiting; until [ -e '{flag}' ]; do sleep 0.1; done"
    )
"""
DATED_DAG = """
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("dated"):
    BashOperator(task_id="says", bash_command="echo the day is {{ ds }}")
"""
COUNTED_DAG = """
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Param

with DAG("counted", params={"days": Param(7, type="integer", minimum=1)}):
    BashOperator(task_id="says", bash_command="echo {{ params.days }} days")
"""
CAUGHT_UP_DAG = """
from datetime import datetime, timezone

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

with DAG(
    "caught_up",
    schedule="*/20 * * * *",
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    end_date=datetime(2026, 1, 1, 1, tzinfo=timezone.utc),
    catchup=True,
):
    EmptyOperator(task_id="nothing")
"""
TRIED_DAG = """
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("tried"):
    BashOperator(task_id="begins", bash_command="true") >> BashOperator(
        task_id="tries",
        bash_command="echo this is try {{{{ ti.try_number }}}}; [ -e '{flag}' ]",
        retries=1,
        retry_delay=0,
    )
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with new_local_project(tmp_path_factory.mktemp("a project")) as made:
        yield made


def processes_with(text: str) -> list[int]:
    """Processes in whose command line a text stands."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(text in argument for argument in process.info["cmdline"] or ())
    ]


def service(project: Project, name: str) -> dict[str, Any]:
    return next(found for found in project.json("status")["services"] if found["name"] == name)


def kill(project: Project, name: str) -> None:
    """Kill a service, and wait until another process of it is healthy."""
    before = service(project, name)["pid"]
    os.kill(before, signal.SIGKILL)

    def is_back() -> bool:
        found = service(project, name)
        return found["health"] == "healthy" and found["pid"] not in {None, before}

    until(is_back, f"{name} to be back")


def test_up_ends_with_everything_healthy(project: Project, first_up: Any) -> None:
    assert first_up["engine"] == "local"
    assert set(first_up["started"]) == set(SERVICES)
    assert [phase["name"] for phase in first_up["phases"]] == ["install", "start", "healthy", "dag parsed"]
    status = project.json("status")
    assert {found["name"] for found in status["services"]} == set(SERVICES)
    assert {found["health"] for found in status["services"]} <= {"healthy", "waiting"}
    assert status["airflow"]["executor"] == "LocalExecutor"
    assert status["airflow"]["version"].startswith("3.")
    assert status["dag"]["found"]


def test_no_secret_is_shown_or_is_in_an_argument(project: Project, first_up: Any) -> None:
    written = (project.folder / "stack" / ".env").read_text()
    secrets = [line.split("=", 1)[1] for line in written.splitlines() if "SECRET" in line or "KEY" in line]
    assert len(secrets) >= 3
    assert (project.folder / "stack" / ".env").stat().st_mode & 0o777 == 0o600
    shown = json.dumps([first_up, project.json("status")]) + project.run("status").stdout
    arguments = str(command_lines(project.processes()))
    logs = "".join(
        path.read_text(errors="replace") for path in (project.folder / ".pipectl/logs").glob("*.log")
    )
    for secret in secrets:
        assert secret not in shown
        assert secret not in arguments
        assert secret not in logs


def test_every_port_is_bound_to_loopback_only(project: Project) -> None:
    listening = listening_addresses(process.pid for process in project.processes())
    assert {port for _, port in listening} == set(project.json("up")["ports"].values())
    assert {address for address, _ in listening} == {"127.0.0.1"}


def test_a_second_up_changes_nothing(project: Project) -> None:
    before = {process.pid for process in project.processes()}
    again = project.json("up")
    assert again["started"] == []
    # They took a third of its CPU.
    packages = {name.split(".")[0] for name in project.imports("up")}
    assert not packages & {"psutil", "rich", "concurrent", "airflow_client"}
    assert {service(project, name)["pid"] for name in SERVICES} <= before


def test_empty_databases_are_verified_as_empty(empty: Project) -> None:
    found = empty.json("verify-db")
    assert found["ok"]
    assert found["expect"] == "empty"
    assert [database["name"] for database in found["databases"]] == ["airbyte-postgres", "airbyte-mysql"]
    empty.run("verify-db", "--expect", "populated", code=6)


def test_airflow_knows_both_connections(project: Project) -> None:
    listed = project.client().call("/api/v2/connections")["connections"]
    found = {item["connection_id"]: item for item in listed}
    assert found["airbyte_postgres"]["schema"] == "airbyte"
    assert found["airbyte_mysql"]["schema"] == "data"
    assert found["airbyte_mysql"]["port"] == project.json("status")["databases"]["mysql"]["port"]


def test_the_first_trigger_of_a_dag_tells_its_own_run_from_the_scheduled_one(project: Project) -> None:
    project.run("reset", "--yes")
    result = project.json("trigger")
    assert result["state"] == "success"
    assert [(task["id"], task["state"], task["try"]) for task in result["tasks"]] == [
        ("generate_transactions", "success", 1),
        ("generate_labels", "success", 1),
    ]
    [(transactions,)] = project.ask_postgres(
        f"SELECT transactions FROM sim.batches WHERE batch_id = '{result['run_id']}'"
    )
    assert 50 <= transactions <= 200
    assert result["delta"]["transactions"] == transactions
    assert result["delta"]["labels"] == transactions
    assert result["unpaused"]
    # The cron slot before now, which Airflow starts because the DAG was unpaused.
    assert [run["run_type"] for run in result["other_runs"]] == ["scheduled"]
    assert result["run_id"] not in {run["run_id"] for run in result["other_runs"]}


def test_every_transaction_has_one_label(populated: Project) -> None:
    found = populated.json("verify-db", "--expect", "reconciled")
    assert (found["ok"], found["unlabelled"], found["orphans"]) == (True, 0, 0)
    transactions = {
        row[0] for row in populated.ask_postgres("SELECT transaction_id FROM public.transactions")
    }
    labels = [row[0] for row in populated.ask_mysql("SELECT transaction_id FROM fraud_labels")]
    assert len(transactions) >= 50
    assert sorted(transactions) == sorted(labels)
    populated.run("verify-db", code=6)


def test_runs_lists_the_run_that_was_triggered(project: Project) -> None:
    triggered = project.json("trigger")["run_id"]
    [run] = [run for run in project.json("runs")["runs"] if run["run_id"] == triggered]
    assert (run["run_type"], run["state"]) == ("manual", "success")


def test_pause_and_unpause_show_in_the_status(project: Project) -> None:
    project.run("pause")
    assert project.json("status")["dag"]["paused"]
    project.run("unpause")
    assert not project.json("status")["dag"]["paused"]


def test_a_failing_task_is_exit_7_with_the_end_of_its_log(project: Project) -> None:
    project.dag("failing.py", FAILING_DAG)
    done = project.run("trigger", "failing", code=7)
    assert "the last words" in done.stderr
    assert "failed in task breaks" in done.stderr


def test_a_dag_that_cannot_be_imported_is_exit_9_with_the_error(project: Project) -> None:
    project.dag("broken.py", "from airflow.sdk import DAG\nimport nowhere_to_be_found\n")
    done = project.run("trigger", "broken", code=9)
    assert "nowhere_to_be_found" in done.stderr
    assert "broken.py" in done.stderr


def test_both_tables_are_assets_whose_events_start_the_example(project: Project) -> None:
    asset_events.compare_events_with_a_run(project)


def test_check_says_of_broken_files_what_the_dag_processor_says(project: Project) -> None:
    broken_dags.compare_with_the_processor(project)


def test_an_unknown_dag_is_exit_9_and_names_those_that_exist(project: Project) -> None:
    project.dag("broken.py", "from airflow.sdk import DAG\nimport nowhere_to_be_found\n")
    until(lambda: project.json("dags")["import_failures"], "the import error")
    done = project.run("trigger", "generate_transaction_and_label", code=9)
    assert "Did you mean generate_transaction_and_labels?" in done.stderr
    assert "Not imported: broken.py; why: pipectl dags" in done.stderr
    assert "nowhere_to_be_found" not in done.stderr
    assert "nowhere_to_be_found" in project.run("dags").stdout
    assert "1 DAG file is broken" in project.run("status").stdout
    assert "1 DAG file is broken" in project.run("up").stdout


def test_a_triggered_run_has_a_logical_date_which_its_templates_know(project: Project) -> None:
    project.dag("dated.py", DATED_DAG)
    day = datetime.now(UTC).date()
    done = project.run("trigger", "dated", "--follow")
    assert re.search(
        rf"^  says \| .*the day is ({day}|{day + timedelta(days=1)})$", done.stderr, re.MULTILINE
    )
    dated = ("trigger", "dated", "--logical-date", "2026-01-31")
    run_id = project.json(*dated)["run_id"]
    assert "the day is 2026-01-31" in project.run("task-log", "dated", run_id, "says").stdout
    assert f"a run {run_id} with the logical date 2026-01-31" in project.run(*dated, code=4).stderr
    project.run("trigger", "dated", "--no-logical-date", code=7)
    assert project.json("runs", "dated", "latest")["run"]["logical_date"] is None


def test_parameters_that_do_not_fit_are_refused_before_anything_starts(project: Project) -> None:
    project.dag("counted.py", COUNTED_DAG)
    until(lambda: "counted" in [dag["dag_id"] for dag in project.json("dags")["dags"]], "the DAG")
    done = project.run("trigger", "counted", "--conf", "days=ten", code=2)
    assert "days: 'ten' is not of type 'integer'" in done.stderr
    assert "days takes integer, at least 1, by default 7" in done.stderr
    assert "Did you mean days?" in project.run("trigger", "counted", "--conf", "day=1", code=2).stderr
    [dag] = [dag for dag in project.json("dags")["dags"] if dag["dag_id"] == "counted"]
    assert (dag["paused"], dag["last_run"]) == (True, None)
    done = project.run("trigger", "counted", "--conf", "days=3", "--repeat", "2", "--follow")
    assert done.stderr.count("| 3 days") == 2
    assert "2 success" in done.stdout
    # It has no schedule, so unpausing starts nothing else.
    assert "Unpaused counted.\n" in done.stderr


def test_a_failed_task_starts_again_and_keeps_its_earlier_tries(project: Project, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    project.dag("tried.py", TRIED_DAG.format(flag=flag))
    assert "pipectl task-log tried" in project.run("trigger", "tried", code=7).stderr
    flag.touch()
    [would] = project.json("clear", "tried", "latest", "--only-failed", "--dry-run")["would_clear"]
    assert (would["id"], would["state"], would["try"]) == ("tries", "failed", 2)
    assert project.json("clear", "tried", "latest", "--only-failed")["state"] == "success"
    run = project.json("runs", "tried", "latest")
    assert project.json("runs", run["run"]["run_id"]) == run
    tries = {task["id"]: [found["state"] for found in task["tries"]] for task in run["tasks"]}
    assert tries == {"begins": ["success"], "tries": ["failed", "failed", "success"]}
    log = [
        project.run("task-log", "tried", "latest", "tries", *number).stdout
        for number in (("--try", "1"), ("--try", "2"), ())
    ]
    assert [f"this is try {number}" in text for number, text in enumerate(log, 1)] == [True] * 3
    assert "and no try 9" in project.run("task-log", "tried", "latest", "tries", "--try", "9", code=4).stderr


def test_a_run_that_is_cancelled_stops_and_its_log_is_followed_to_the_end(
    project: Project, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    project.dag("slow.py", SLOW_DAG.format(flag=flag))
    run_id = project.json("trigger", "slow", "--no-wait")["run_id"]
    following = project.start("task-log", "slow", run_id, "waits", "--follow")
    out = following.stdout
    assert out
    until(lambda: "waiting" in out.readline(), "the first words of the task")
    until(lambda: processes_with(str(flag)), "the task's process")
    [run] = project.json("cancel", "slow")["runs"]
    assert (run["run_id"], run["before"], run["state"]) == (run_id, "running", "failed")
    assert [task["state"] for task in run["tasks"]] == ["failed"]
    until(lambda: not processes_with(str(flag)), "the end of the task's process")
    assert following.wait(COMMAND_SECONDS) == 0
    assert "had ended already: failed" in project.run("cancel", "slow", run_id).stdout
    assert "slow has no active run" in project.run("cancel", "slow").stdout


def test_slots_of_the_past_are_batches_without_overlap_and_a_second_backfill_adds_nothing(
    populated: Project,
) -> None:
    times = ("--from", "2026-11-01T00:00+01:00", "--to", "2026-11-01T01:30+01:00", "--max-active-runs", "4")

    def batches() -> list[list[str]]:
        asked = (
            "select batch_id, transactions, since, until from sim.batches"
            " where since > '2026-10-31' and until < '2026-11-02' order by since"
        )
        return [line.split("|") for line in populated.run("psql", "-Atc", asked).stdout.splitlines()]

    assert len(populated.json("backfill", "--dry-run", *times)["slots"]) == 4
    assert batches() == []
    done = populated.json("backfill", *times)
    assert [run["state"] for run in done["runs"]] == ["success"] * 4
    written = batches()
    total = sum(int(transactions) for _, transactions, *_ in written)
    assert (done["delta"]["transactions"], done["delta"]["labels"]) == (total, total)
    assert written[0][2:] == ["2026-10-31 22:30:00+00", "2026-10-31 23:00:00+00"]
    assert [until for *_, until in written[:-1]] == [since for *_, since, _ in written[1:]]
    again = populated.json("backfill", *times)
    assert (again["runs"], again["delta"], len(again["existing"])) == ([], None, 4)
    # Also if Airflow has forgotten its runs, as it does after a while.
    client = populated.client()
    for found in done["runs"]:
        client.call(f"/api/v2/dags/{DAG_ID}/dagRuns/{quote(found['run_id'])}", method="DELETE")
    assert len(populated.json("backfill", *times)["runs"]) == 4
    assert batches() == written
    # What was made last comes first, though other runs have later slots.
    listed = populated.json("runs", "--limit", "4")["runs"]
    assert {run["run_id"] for run in listed} == {run["run_id"] for run in done["runs"]}
    populated.settle()
    populated.run("verify-db", "--expect", "reconciled")
    years = populated.run("backfill", "--dry-run", "--from", "2020-01-01", code=2).stderr
    assert "one backfill makes 1,000 runs at most" in years
    [smaller] = re.findall(r"Take a smaller range: pipectl backfill (.+)", years)
    assert len(populated.json("backfill", *smaller.split(), "--dry-run")["slots"]) == 1_000


def test_what_a_cancelled_backfill_has_not_begun_is_called_cancelled(populated: Project) -> None:
    times = ("--from", "2026-10-01", "--to", "2026-10-01T04:00", "--max-active-runs", "1")
    made = populated.json("backfill", *times, "--no-wait")["runs"]
    ended = populated.json("backfill", "--cancel")
    assert ended["failed"] > 0
    populated.settle()
    listed = populated.json("runs", "--limit", str(len(made)))["runs"]
    assert sum(run["cancelled"] for run in listed) == ended["failed"]
    assert {run["state"] for run in listed if run["cancelled"]} == {"failed"}
    assert populated.run("runs", "--limit", str(len(made))).stdout.count("cancelled") == ended["failed"]


def test_labels_of_older_transactions_are_told_apart(populated: Project) -> None:
    populated.run("python", "scripts/transaction_generator.py")
    asked = "SELECT transactions FROM sim.batches WHERE batch_id LIKE 'bare%' ORDER BY batch_id DESC LIMIT 1"
    [(waiting,)] = populated.ask_postgres(asked)
    result = populated.json("trigger")
    assert (result["delta"]["labels"], result["other_labels"]) == (result["delta"]["transactions"], waiting)


def test_catch_up_runs_every_slot_since_the_start_date(project: Project) -> None:
    project.dag("caught_up.py", CAUGHT_UP_DAG)
    done = project.run("trigger", "caught_up")
    assert "the runs that it has missed too, one by one" in done.stderr

    def runs() -> list[tuple[str, str, str]]:
        found = project.json("runs", "caught_up")["runs"]
        return sorted((run["logical_date"], run["run_type"], run["state"]) for run in found)

    until(lambda: [state for *_, state in runs()] == ["success"] * 5, "every slot's run")
    slots = [f"2026-01-01T0{minutes // 60}:{minutes % 60:02}:00+00:00" for minutes in range(0, 61, 20)]
    assert runs()[:4] == [(slot, "scheduled", "success") for slot in slots]


def test_a_run_that_takes_too_long_is_exit_8_and_ctrl_c_is_130(project: Project, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    project.dag("slow.py", SLOW_DAG.format(flag=flag))
    try:
        done = project.run("trigger", "slow", "--timeout", "3", code=8)
        assert "it goes on" in done.stderr
        runs = len(project.json("runs", "slow")["runs"])
        process = project.start("trigger", "slow")
        until(lambda: len(project.json("runs", "slow")["runs"]) > runs, "the second run")
        code, err = project.interrupt(process)
    finally:
        flag.touch()
    assert code == 130
    assert "Interrupted" in err


@pytest.mark.parametrize("name", ["scheduler", "airbyte-mysql", "airbyte-postgres", "dag-processor"])
def test_a_killed_service_comes_back_by_itself(project: Project, name: str) -> None:
    kill(project, name)


def pids(project: Project) -> dict[str, int]:
    return {found["name"]: found["pid"] for found in project.json("status")["services"]}


def test_a_restart_starts_what_is_named_anew_and_what_cannot_go_on_without_it(project: Project) -> None:
    before = pids(project)
    assert project.json("restart", "scheduler", "airbyte-mysql")["restarted"] == {
        "airbyte-mysql": "",
        "scheduler": "",
    }
    after = pids(project)
    assert {name for name in after if after[name] != before[name]} == {"scheduler", "airbyte-mysql"}
    told = project.json("restart", "postgres")["restarted"]
    airflow = {"webserver", "scheduler", "dag-processor", "triggerer"}
    assert told == {"postgres": "", **dict.fromkeys(airflow, "postgres restarts")}
    assert {name for name, pid in pids(project).items() if after[name] != pid} == {"postgres", *airflow}
    assert "Did you mean scheduler?" in project.run("restart", "shceduler", code=2).stderr
    assert project.json("trigger")["state"] == "success"


def test_a_service_that_does_not_come_back_ends_a_restart_with_its_log(project: Project) -> None:
    told = restart_in_vain(project)
    assert "The service 'dag-processor' ends as soon as it is started." in told
    assert project.json("restart", "dag-processor")["notes"] == []


def test_a_watch_sees_runs_and_goes_on_while_the_stack_is_down(populated: Project) -> None:
    check_watch(populated, goes_down=True)


@pytest.mark.slow
def test_a_lock_that_a_dead_scheduler_left_behind_does_not_stop_the_next_run(project: Project) -> None:
    left_behind = psycopg2.connect(
        host="127.0.0.1",
        port=service(project, "postgres")["port"],
        user="airflow",
        password=project.variable("AIRFLOW_POSTGRES_PASSWORD"),
        dbname="airflow",
    )
    left_behind.cursor().execute("SELECT * FROM slot_pool FOR UPDATE")
    assert project.json("trigger", "--timeout", "120")["state"] == "success"
    with pytest.raises(psycopg2.OperationalError):
        left_behind.cursor().execute("SELECT 1")


def test_the_delta_of_a_run_is_its_own_beside_a_load(populated: Project) -> None:
    load = populated.start("load", "--transactions", "300000", "--days", "9", "--json")
    until(lambda: populated.ask_postgres("SELECT count(*) FROM sim.batches")[0][0] > 1, "a load that writes")
    result = populated.json("trigger")
    out, err = load.communicate(timeout=COMMAND_SECONDS)
    assert load.returncode == 0, err
    assert json.loads(out)["transactions"] == 300_000
    batch = f"SELECT transactions FROM sim.batches WHERE batch_id = '{result['run_id']}'"
    [(transactions,)] = populated.ask_postgres(batch)
    delta = result["delta"]
    assert 50 <= delta["transactions"] == transactions <= 200
    # While the load's transactions are open, later ones are not labelled yet.
    assert delta["frauds"] <= delta["labels"] <= transactions


def test_rows_survive_the_kill_of_their_servers(populated: Project) -> None:
    before = populated.json("verify-db", "--expect", "reconciled")["databases"]
    for name in ("airbyte-postgres", "airbyte-mysql"):
        kill(populated, name)
    assert populated.json("verify-db", "--expect", "populated")["ok"]
    assert populated.json("verify-db", "--expect", "reconciled")["databases"] == before


def test_the_web_server_answers_many_clients_at_once(project: Project) -> None:
    paths = ("monitor/health", "version", f"dags/{DAG_ID}", "importErrors", f"dags/{DAG_ID}/dagRuns")

    def ask() -> None:
        client = project.client()
        for path in paths:
            client.call(f"/api/v2/{path}")

    # Each waits for at most 30 s, and the web server stood still for longer.
    with ThreadPoolExecutor(CLIENTS_AT_ONCE) as pool:
        for asked in [pool.submit(ask) for _ in range(CLIENTS_AT_ONCE)]:
            asked.result()


def test_logs_show_every_service(project: Project) -> None:
    lines = [json.loads(line) for line in project.run("logs", "--tail", "1", "--json").stdout.splitlines()]
    assert {line["service"] for line in lines} == set(SERVICES)
    project.run("logs", "nobody", code=2)


def test_open_prints_the_address(project: Project) -> None:
    assert project.run("open", "--url").stdout.strip() == project.json("status")["airflow"]["url"]


def test_data_only_reset_empties_the_databases_and_leaves_airflow_alone(populated: Project) -> None:
    webserver = service(populated, "webserver")["pid"]
    populated.run("connections", "--create-slot")
    told = [
        populated.json("reset", *words, "--dry-run")["notes"]
        for words in ((), ("--data-only",), ("--data-only", "--propagate"))
    ]
    assert all("read by replication slot airbyte_slot: they " in note for [note] in told)
    done = populated.json("reset", "--data-only", "--propagate", "--yes")
    populated.run("connections", "--drop-slot")
    assert "they get every deletion" in done["notes"][0]
    assert sum(table["rows"] for database in done["emptied"] for table in database["tables"]) > 0
    assert populated.json("verify-db")["ok"]
    assert service(populated, "webserver")["pid"] == webserver
    assert populated.json("trigger")["state"] == "success"
    assert populated.json("verify-db", "--expect", "reconciled")["ok"]


def test_a_second_project_gets_ports_of_its_own_and_says_so(populated: Project, tmp_path: Path) -> None:
    ports = populated.json("up")["ports"]
    with new_local_project(tmp_path / "second") as other:
        # All that the second project wants is taken by the first, whatever else the machine runs.
        for name, variable in PORTS.items():
            other.set_variable(variable, str(ports[name]))
        # Its own stack does not run, and the one that listens on its ports is not asked, let alone emptied.
        other.run("reset", "--data-only", "--yes", code=5)
        other.run("trigger", code=4)
        assert not other.json("status")["databases"]["postgres"]["rows"]
        done = other.run("up")
        for name, variable in PORTS.items():
            told = f"Port {ports[name]} of {name} is taken: {other.variable(variable)} instead"
            assert (done.stdout + done.stderr).count(f"Port {ports[name]} ") == done.stderr.count(told) == 1
        used = other.json("up")["ports"]
        assert not set(used.values()) & set(ports.values())
        assert other.json("verify-db")["ok"]
        assert populated.json("verify-db", "--expect", "populated")["ok"]
    assert service(populated, "webserver")["health"] == "healthy"


@pytest.mark.slow
def test_two_projects_that_start_in_the_same_second_do_not_meet(tmp_path: Path) -> None:
    with (
        new_local_project(tmp_path / "left") as left,
        new_local_project(tmp_path / "right") as right,
    ):
        projects = (left, right)
        commands = [each.start("up", "--json") for each in projects]
        ends = [command.communicate(timeout=COMMAND_SECONDS) for command in commands]
        assert [command.returncode for command in commands] == [0, 0], ends
        used = [set(json.loads(out)["ports"].values()) for out, _ in ends]
        assert not used[0] & used[1]
        assert projects[0].json("trigger")["state"] == "success"
        assert projects[0].json("verify-db", "--expect", "populated")["ok"]
        assert projects[1].json("verify-db", "--expect", "empty")["ok"]


def test_reset_lists_deletes_and_proves(populated: Project) -> None:
    project = populated
    listed = project.json("reset", "--dry-run")["would_delete"]
    assert {volume["name"] for volume in listed} == {
        "postgres",
        "airbyte-postgres",
        "airbyte-mysql",
        "airflow",
    }
    assert project.json("verify-db", "--expect", "populated")["ok"]
    project.run("reset", code=2)
    assert project.json("verify-db", "--expect", "populated")["ok"]
    result = project.json("reset", "--yes")
    assert {volume["name"] for volume in result["deleted"]} == {volume["name"] for volume in listed}
    before = {volume["name"]: volume["created"] for volume in result["deleted"]}
    assert all(volume["created"] > before[volume["name"]] for volume in result["created"])
    assert project.json("verify-db")["ok"]
    assert project.json("status")["dag"]["paused"]


def test_a_snapshot_is_gone_back_to_and_the_next_run_doubles_nothing(populated: Project) -> None:
    check_saving_and_restoring(LocalStack(populated))


@pytest.mark.slow
def test_a_portable_snapshot_fills_new_databases(populated: Project) -> None:
    stack = LocalStack(populated)
    check_moving(stack, stack)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_snapshots_that_are_killed_leave_the_old_or_the_new(populated: Project) -> None:
    check_killing(LocalStack(populated), kills=12, seconds=9)


def test_a_changed_password_is_exit_5_and_names_the_variable(empty: Project) -> None:
    project = empty
    path = project.folder / "stack" / ".env"
    before = path.read_text()
    path.write_text(before + "AIRBYTE_POSTGRES_PASSWORD=changed\n")
    try:
        done = project.run("verify-db", code=5)
        assert "AIRBYTE_POSTGRES_PASSWORD" in done.stderr
        project.run("up", code=5)
    finally:
        path.write_text(before)
    assert project.json("verify-db")["ok"]


def test_down_leaves_no_process_and_keeps_the_data(populated: Project) -> None:
    populated.run("down")
    assert not populated.processes()
    assert populated.run("down").returncode == 0
    populated.run("trigger", code=4)
    populated.run("verify-db", code=5)
    populated.run("up")
    assert populated.json("verify-db", "--expect", "populated")["ok"]
    assert populated.json("verify-db", "--expect", "reconciled")["ok"]


def test_the_triggerer_starts_with_the_first_deferred_task_and_comes_back(project: Project) -> None:
    check_triggerer(project, lambda: os.kill(service(project, "triggerer")["pid"], signal.SIGKILL))


def test_at_rest_little_is_done(project: Project) -> None:
    check_rest(LocalStack(project))


@pytest.mark.slow
def test_a_sample_of_airflows_own_examples_ends_as_its_authors_meant(project: Project) -> None:
    check_sample(project)


def test_each_cause_of_a_wait_or_a_failure_is_explained(project: Project, tmp_path: Path) -> None:
    explained = Explained(project)
    explained.begin()
    explained.settle()
    explained.bundle(tmp_path)
    explained.fill()
    with LocalStack(project).stopped("scheduler"):
        # On a busy machine a heartbeat that is late is not missed at once.
        until(
            lambda: project.json("explain", "why_behind")["cause"] == "no_scheduler",
            "the scheduler to be missed",
        )
        explained.explain(
            "why_behind", cause="no_scheduler", said="the service scheduler runs and has given no"
        )
    until(project.client().healthy, "the scheduler to be back")
    explained.cancel()
    explained.break_file()
