"""What `explain` asks of Airflow, and which DAG, run and task it is about."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from pipectl.airflow_answers import may_be_stopped, read_stops, with_stop
from pipectl.airflow_health import AirflowHealth
from pipectl.errors import AirflowMissingError, DagError, EngineError, ExitCode
from pipectl.models import AirflowAddress, DagRun, DatabaseAddress, Service
from pipectl.names import duration
from pipectl.pipeline.explaining import explain
from pipectl.task_logs import first_error, log_lines

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipectl.engines.base import Engine
    from pipectl.pipeline.evidence import Explanation
    from pipectl.settings import Settings

NOW = datetime.now(UTC)


def at(seconds_ago: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds_ago)).isoformat()


def run(run_id: str, state: str, **more: Any) -> dict[str, Any]:
    start = None if state == "queued" else at(100)
    end = at(50) if state in {"success", "failed"} else None
    facts = {"run_type": "manual", "queued_at": at(200), "start_date": start, "end_date": end, **more}
    return {"dag_id": "mine", "dag_run_id": run_id, "state": state, **facts}


def task(name: str, state: str | None, **more: Any) -> dict[str, Any]:
    facts = {"try_number": 1, "map_index": -1, "start_date": at(90), "pool": "default_pool", **more}
    return {"dag_id": "mine", "dag_run_id": "ours", "task_id": name, "state": state, **facts}


class Airflow:
    """Answers by path; `asked` are the paths without their beginning."""

    def __init__(self) -> None:
        beat = {"status": "healthy"}
        self.answers: dict[str, dict[str, Any]] = {
            "monitor/health": {
                "scheduler": {**beat, "latest_scheduler_heartbeat": at(1)},
                "dag_processor": {**beat, "latest_dag_processor_heartbeat": at(1)},
                "metadatabase": beat,
            },
            "dags": {"dags": [{"dag_id": "mine"}, {"dag_id": "other"}], "total_entries": 2},
            "dags/mine/details": {
                "dag_id": "mine",
                "relative_fileloc": "mine.py",
                "max_active_runs": 1,
                "last_parsed_time": at(10),
            },
            "dags/mine/dagRuns": {"dag_runs": []},
            "importErrors": {"import_errors": []},
            "eventLogs": {"event_logs": []},
            "dags/mine/tasks": {"tasks": []},
            "pools/default_pool": {"name": "default_pool", "slots": 128, "open_slots": 128},
            "dags/~/dagRuns/~/taskInstances": {"task_instances": [], "total_entries": 0},
            "dags/mine/dagRuns/~/taskInstances": {"task_instances": []},
        }
        # Of paths whose answers depend on the states that are asked for.
        self.by_state: dict[str, Callable[[list[str] | None], dict[str, Any]]] = {}
        self.asked: list[str] = []

    def runs(self, *runs: dict[str, Any]) -> None:
        self.answers["dags/mine/dagRuns"] = {"dag_runs": list(runs)}
        for found in runs:
            self.answers[f"dags/mine/dagRuns/{found['dag_run_id']}"] = found

    def tasks(self, *tasks: dict[str, Any]) -> None:
        self.answers["dags/mine/dagRuns/ours/taskInstances"] = {
            "task_instances": list(tasks),
            "total_entries": len(tasks),
        }

    def answer(self, method: str, path: str, content: object = None) -> tuple[int, dict[str, Any]]:
        if content is not None:
            return 201, {"access_token": "t"}
        assert method == "GET"
        parts = urlsplit(path)
        name = unquote(parts.path).removeprefix("/api/v2/")
        self.asked.append(name)
        found = self.answers.get(name)
        if found is None:
            return 404, {"detail": "not found"}
        states = parse_qs(parts.query).get("state")
        if name in self.by_state:
            found = self.by_state[name](states)
        if states and name == "dags/mine/dagRuns":
            found = {"dag_runs": [each for each in found["dag_runs"] if each["state"] in states]}
        return 200, found


class FakeEngine:
    """An engine with these services and a folder of DAGs."""

    def __init__(self, dags_dir: Path) -> None:
        self.dags_dir = dags_dir
        self.executor = "LocalExecutor"
        self.down: tuple[str, ...] = ()
        self.asked = 0

    def services(self) -> tuple[Service, ...]:
        names = ("webserver", "scheduler", "dag-processor", "triggerer", "worker-1")
        start = NOW - timedelta(hours=1)
        return tuple(
            Service(name, "stopped" if name in self.down else "running", started=start) for name in names
        )

    def airflow(self) -> AirflowAddress:
        return AirflowAddress("http://127.0.0.1:1", "admin", "admin")

    def databases(self) -> tuple[DatabaseAddress, ...]:
        return ()

    def holds(self, service: str, port: int) -> bool:
        return service not in self.down and bool(port)

    def stranger(self, port: int) -> str:
        del port
        return ""

    def started_with(self) -> dict[str, dict[str, str]]:
        concurrency = {"AIRFLOW__CELERY__WORKER_CONCURRENCY": "1"}
        return {"scheduler": {"AIRFLOW__CORE__PARALLELISM": "2"}, "worker-1": concurrency}

    def tasks_api_problem(self) -> str:
        self.asked += 1
        return "ConnectError: refused"


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Airflow:
    made = Airflow()
    monkeypatch.setattr(AirflowHealth, "_request", made.answer)
    return made


@pytest.fixture
def engine(tmp_path: Path) -> FakeEngine:
    (tmp_path / "dags").mkdir()
    return FakeEngine(tmp_path / "dags")


def explained(engine: FakeEngine, *words: str) -> Explanation:
    settings = SimpleNamespace(variables={}, project=engine.dags_dir.parent)
    first, second, third = (*words, None, None, None)[:3]
    return explain(cast("Engine", engine), cast("Settings", settings), "mine", first, second, third)


@pytest.mark.usefixtures("airflow")
def test_a_stack_that_does_not_run_ends_with_the_engines_code_and_a_hint(engine: FakeEngine) -> None:
    engine.down = ("webserver", "scheduler", "dag-processor", "triggerer")
    with pytest.raises(EngineError, match="is not running") as caught:
        explained(engine)
    assert caught.value.code == ExitCode.ENGINE
    assert "pipectl up" in caught.value.hint


@pytest.mark.usefixtures("airflow")
def test_names_that_are_not_there_are_told_with_those_that_may_be_meant(
    engine: FakeEngine, airflow: Airflow
) -> None:
    airflow.runs(run("ours", "running"))
    airflow.tasks(task("load", "running"))
    with pytest.raises(DagError) as unknown:
        explained(engine, "mime")
    assert "Did you mean mine?" in unknown.value.hint
    with pytest.raises(AirflowMissingError) as missing:
        explained(engine, "mine", "our")
    assert "Did you mean ours?" in missing.value.hint
    with pytest.raises(AirflowMissingError) as none:
        explained(engine, "mine", "ours", "laod")
    assert "Did you mean load?" in none.value.hint


def test_of_a_dags_assets_those_are_awaited_that_have_not_been_updated(
    engine: FakeEngine, airflow: Airflow
) -> None:
    details = airflow.answers["dags/mine/details"]
    details |= {"timetable_summary": "Asset", "asset_expression": {"all": [{"asset": {"name": "orders"}}]}}
    ours, other = [{"dag_id": "mine"}], [{"dag_id": "other"}]
    airflow.answers["assets"] = {
        "assets": [
            {"id": 1, "name": "orders", "scheduled_dags": ours},
            {"id": 2, "name": "prices", "scheduled_dags": ours},
            # The DAG writes it.
            {"id": 3, "name": "report", "scheduled_dags": other},
        ]
    }
    assert "after an update of each of the assets orders and prices" in explained(engine, "mine").sentence
    airflow.answers["dags/mine/assets/queuedEvents"] = {"queued_events": [{"asset_id": 1}]}
    assert "after an update of the asset prices." in explained(engine, "mine").sentence


def test_who_keeps_slots_of_a_pool_while_deferred_is_asked_if_it_counts_them(
    engine: FakeEngine, airflow: Airflow
) -> None:
    airflow.runs(run("ours", "running"))
    airflow.tasks(task("load", "scheduled", scheduled_when=at(60)))
    airflow.answers["dags/mine/dagRuns/ours/taskInstances/load/dependencies"] = {"dependencies": []}
    airflow.answers["pools/default_pool"] |= {"slots": 1, "open_slots": 0, "include_deferred": True}
    sleeper = task("sensor", "deferred")
    airflow.by_state["dags/~/dagRuns/~/taskInstances"] = lambda states: {
        "task_instances": [sleeper] if states == ["deferred"] else [],
        "total_entries": 0,
    }
    found = explained(engine, "mine")
    assert found.cause == "pool_full"
    assert "sensor (deferred)" in str(found.evidence)


def test_a_dag_that_only_a_file_names_is_explained_and_no_error(engine: FakeEngine, airflow: Airflow) -> None:
    (engine.dags_dir / "new.py").write_text("DAG('new_one')")
    assert explained(engine, "new_one").cause == "dag_missing"
    airflow.answers["importErrors"] = {
        "import_errors": [{"filename": "new.py", "stack_trace": "NameError: DAG", "timestamp": at(1)}]
    }
    found = explained(engine, "new_one")
    assert (found.cause, found.sentence) == (
        "import_error",
        "The DAG 'new_one' cannot run: Airflow cannot import new.py: NameError: DAG.",
    )


def test_without_a_name_it_is_a_run_that_has_not_ended_or_the_one_made_last(
    engine: FakeEngine, airflow: Airflow
) -> None:
    airflow.tasks()
    for runs, meant in (
        ([run("newest", "success"), run("ours", "running"), run("older", "running")], "ours"),
        ([run("newest", "success"), run("ours", "failed")], "newest"),
    ):
        airflow.runs(*runs)
        airflow.answers["dags/mine/dagRuns/newest/taskInstances"] = {"task_instances": []}
        assert explained(engine).run_id == meant
        assert explained(engine, "mine").run_id == meant
    (engine.dags_dir / "mine.py").write_text("# the latest")
    assert explained(engine, "latest").run_id == "newest"
    assert explained(engine, "ours").run_id == "ours"


def test_only_what_a_state_calls_for_is_asked(engine: FakeEngine, airflow: Airflow) -> None:
    airflow.runs(run("ours", "running"))
    airflow.tasks(task("load", "running"))
    assert explained(engine).cause == "running"
    assert not [path for path in airflow.asked if re.search("logs|eventLogs|pools|dependencies", path)]
    assert airflow.asked.count("monitor/health") == 1
    assert len(airflow.asked) <= 8
    assert engine.asked == 0


def test_tasks_that_fill_all_slots_are_counted_over_all_dags(engine: FakeEngine, airflow: Airflow) -> None:
    airflow.runs(run("ours", "running"))
    airflow.tasks(task("load", "scheduled", scheduled_when=at(30), start_date=None))
    airflow.answers["dags/mine/dagRuns/ours/taskInstances/load/dependencies"] = {"dependencies": []}
    assert explained(engine).cause == "unknown"
    busy = [{**task(name, "running"), "dag_id": "other"} for name in "ab"]
    airflow.answers["dags/~/dagRuns/~/taskInstances"] = {"task_instances": busy, "total_entries": 2}
    assert explained(engine).cause == "no_slots"


def test_a_place_that_came_free_meanwhile_is_told_and_nothing_is_unknown(
    engine: FakeEngine, airflow: Airflow
) -> None:
    airflow.runs(run("ours", "running"))
    airflow.tasks(task("load", "scheduled", scheduled_when=at(30), start_date=None))
    airflow.answers["dags/mine/dagRuns/ours/taskInstances/load/dependencies"] = {"dependencies": []}
    everywhere = "dags/~/dagRuns/~/taskInstances"

    def answers(states: list[str] | None) -> dict[str, Any]:
        if states:
            return {"task_instances": [{**task("a", "running"), "dag_id": "other"}], "total_entries": 1}
        return {"task_instances": [{**task("b", "success", end_date=at(2)), "dag_id": "other"}]}

    airflow.by_state[everywhere] = answers
    assert explained(engine).sentence.startswith("Room for load came free 2 s ago")


def test_what_begins_between_two_questions_is_looked_at_anew(engine: FakeEngine, airflow: Airflow) -> None:
    airflow.runs(run("ours", "running"))
    begun = task("load", "running", scheduled_when=at(30), start_date=at(1))
    airflow.tasks({**begun, "state": "scheduled", "start_date": None})
    airflow.answers["dags/mine/dagRuns/ours/taskInstances/load/dependencies"] = {"dependencies": []}

    def answers(_: list[str] | None) -> dict[str, Any]:
        airflow.tasks(begun)
        return {"task_instances": [begun, {**begun, "task_id": "other"}], "total_entries": 2}

    airflow.by_state["dags/~/dagRuns/~/taskInstances"] = answers
    assert explained(engine).cause == "running"


def test_a_run_that_took_too_long_is_told_by_the_limit_as_airflow_answers_it(
    engine: FakeEngine, airflow: Airflow
) -> None:
    airflow.answers["dags/mine/details"]["dag_run_timeout"] = "PT45S"
    airflow.runs(run("ours", "failed"))
    path = "dags/mine/dagRuns/ours/taskInstances/load"
    ended = {"event": "Server indicated the task shouldn't be running anymore. Terminating process"}
    airflow.answers[f"{path}/logs/1"] = {"content": [ended]}
    unstarted = {"start_date": None, "try_number": 0}
    airflow.tasks(
        task("early", "success", end_date=at(80)),
        task("load", "skipped"),
        task("next", "skipped", **unstarted),
    )
    airflow.answers["dags/mine/tasks"] = {"tasks": [{"task_id": "load", "downstream_task_ids": ["next"]}]}
    found = explained(engine)
    assert (found.cause, found.task, found.state) == ("run_timed_out", "", "failed")
    for name, words in (
        ("load", "load was ended while it ran: "),
        ("next", "next was skipped before it began: "),
    ):
        found = explained(engine, "mine", "ours", name)
        assert (found.cause, found.task) == ("run_timed_out", name)
        assert (
            found.sentence
            == f"{words}Airflow ended ours after 50 s: its DAG gives a run 45 s (dagrun_timeout)."
        )


def test_a_task_that_expands_over_nothing_is_told_by_its_instances(
    engine: FakeEngine, airflow: Airflow
) -> None:
    airflow.runs(run("ours", "success"))
    airflow.tasks(task("load", "skipped", start_date=None, try_number=0))
    assert explained(engine, "mine", "ours", "load").cause == "unknown"
    path = "dags/mine/dagRuns/ours/taskInstances/load/listMapped"
    airflow.answers[path] = {"task_instances": [], "total_entries": 0}
    found = explained(engine, "mine", "ours", "load")
    assert found.sentence == "load was skipped, because what it expands over was empty."


def test_with_celery_a_queued_task_waits_for_a_worker(engine: FakeEngine, airflow: Airflow) -> None:
    engine.executor = "CeleryExecutor"
    airflow.runs(run("ours", "running"))
    airflow.tasks(task("load", "queued", queued_when=at(2), start_date=None))
    assert explained(engine).cause == "starting"
    busy = {"task_instances": [{**task("a", "running"), "dag_id": "other"}], "total_entries": 2}
    airflow.answers["dags/~/dagRuns/~/taskInstances"] = busy
    assert explained(engine).cause == "no_slots"
    engine.down = ("worker-1",)
    assert explained(engine).cause == "no_worker"


def test_a_task_that_is_queued_for_long_has_the_api_for_tasks_asked(
    engine: FakeEngine, airflow: Airflow
) -> None:
    airflow.runs(run("ours", "running"))
    airflow.tasks(task("load", "queued", queued_when=at(2), start_date=None))
    assert (explained(engine).cause, engine.asked) == ("starting", 0)
    airflow.tasks(task("load", "queued", queued_when=at(20), start_date=None))
    assert (explained(engine).cause, engine.asked) == ("tasks_api", 1)


def test_of_a_mapped_task_the_instance_is_told_that_says_most(engine: FakeEngine, airflow: Airflow) -> None:
    airflow.runs(run("ours", "failed"))
    states = ("success", "failed", "failed")
    airflow.tasks(
        *(
            task("group.load", state, map_index=index, end_date=at(60 - 10 * index))
            for index, state in enumerate(states)
        )
    )
    assert explained(engine, "mine", "ours", "group.load").task == "group.load[1]"
    assert explained(engine, "mine", "ours", "group.load[2]").task == "group.load[2]"
    assert explained(engine, "mine", "ours", "group.load[0]").cause == "succeeded"


def stopped_run(queued: datetime, **more: Any) -> DagRun:
    facts: dict[str, Any] = {"queued_at": queued, "start": NOW, "end": NOW, **more}
    return DagRun("mine", "ours", "manual", more.pop("state", "failed"), **facts)


def test_a_run_is_cancelled_if_somebody_failed_it_since_it_was_queued() -> None:
    def event(seconds_ago: float, state: str = "failed", run_id: str = "ours") -> dict[str, Any]:
        extra = f'{{"state": "{state}", "method": "PATCH"}}'
        return {
            "event": "patch_dag_run",
            "dag_id": "mine",
            "run_id": run_id,
            "when": at(seconds_ago),
            "extra": extra,
        }

    failed = stopped_run(datetime.now(UTC) - timedelta(seconds=60))
    assert may_be_stopped(failed)
    assert not failed.cancelled
    for events, is_cancelled in (
        ([], False),
        ([event(30)], True),
        ([event(30), event(90)], True),
        ([event(90)], False),  # it began again since
        ([event(30, "success")], False),
        ([event(30, run_id="another")], False),
        ([{"event": "patch_dag_run", "when": None}], False),
    ):
        found = with_stop(failed, read_stops(events))
        assert (found.cancelled, found.outcome) == (is_cancelled, "cancelled" if is_cancelled else "failed")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([], ""),
        (["no object", {"event": 7}], ""),
        ([{"event": "all is well"}, {"event": "Task failed with exception", "level": "error"}], ""),
        ([{"event": "ERROR: no rows"}, {"event": "ERROR: later"}], "ERROR: no rows"),
        ([{"event": "Errors are not so bad"}, {"event": "error handling is on"}], ""),
        ([{"event": "fatal: not a repository"}], "fatal: not a repository"),
        ([{"event": "Error: no file"}], "Error: no file"),
        ([{"event": "2026-01-01 12:00:00,123 ERROR a.b: no"}], "2026-01-01 12:00:00,123 ERROR a.b: no"),
        (
            [
                {"event": "Traceback (most recent call last):"},
                {"event": '  File "a.py", line 1'},
                {"event": "a.b.OwnError: it broke"},
            ],
            "a.b.OwnError: it broke",
        ),
        ([{"event": 'time=1 level=error event=failed error="say \\"no\\""'}], 'say "no"'),
        (
            [
                {
                    "event": "Oh",
                    "level": "error",
                    "error_detail": [{"exc_type": "OSError", "exc_value": "no\ndisk"}],
                }
            ],
            "OSError: no disk",
        ),
    ],
)
def test_the_first_error_of_a_log_is_what_was_printed_or_logged_first(content: list[Any], found: str) -> None:
    assert first_error(content) == found


def test_a_log_says_with_what_a_program_exited() -> None:
    log = [{"event": "Task exited", "exit_code": 5}, {"event": "Task exited", "exit_code": "no file"}]
    assert list(log_lines(log)) == ["Task exited with exit code 5", "Task exited: no file"]


def test_durations_have_the_unit_that_fits_them() -> None:
    assert [duration(seconds) for seconds in (0, 119, 120, 7199, 7200, 90_000)] == [
        "0 s",
        "119 s",
        "2 min 00 s",
        "119 min 59 s",
        "2 h 00 min",
        "25 h 00 min",
    ]


def test_the_page_on_which_a_human_answers_is_named_by_its_address(
    engine: FakeEngine, airflow: Airflow
) -> None:
    airflow.runs(run("ours", "running"))
    airflow.tasks(
        {"task_id": "ask", "state": "awaiting_input", "map_index": 2, "dag_id": "mine", "dag_run_id": "ours"}
    )
    found = explained(engine, "mine", "ours")
    page = "http://127.0.0.1:1/dags/mine/runs/ours/tasks/ask/mapped/2/required_actions"
    assert ("its page", page) in [(fact.name, fact.value) for fact in found.evidence]
