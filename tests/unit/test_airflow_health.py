"""What Airflow's plain answers are made into."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipectl import airflow_answers
from pipectl.airflow_answers import import_error, import_reason, read_import_failures
from pipectl.airflow_health import AirflowHealth
from pipectl.errors import AirflowError
from pipectl.models import AirflowAddress, DagRun, ImportFailure, ParsedDag

RUN = {
    "dag_id": "mine",
    "dag_run_id": "scheduled__1",
    "run_type": "scheduled",
    "state": "success",
    "logical_date": None,
    "queued_at": "2026-01-01T00:00:00Z",
    "start_date": "2026-01-01T00:00:01Z",
    "end_date": "2026-01-01T00:00:03.500000Z",
}
HEARTBEAT = {"status": "healthy", "latest_scheduler_heartbeat": "2026-01-01T00:00:00Z"}
TIME = datetime(2026, 1, 1, tzinfo=UTC)
ANSWERS: dict[str, tuple[int, dict[str, Any]]] = {
    "/auth/token": (201, {"access_token": "t"}),
    "/api/v2/monitor/health": (200, {"scheduler": HEARTBEAT, "triggerer": {"status": None}}),
    "/api/v2/dags/mine": (
        200,
        {
            "is_paused": True,
            "has_import_errors": False,
            "relative_fileloc": "mine.py",
            "next_dagrun_run_after": None,
            "last_parsed_time": "2026-01-01T00:00:00Z",
        },
    ),
    "/api/v2/dags/mine/dagRuns?limit=1&order_by=-id": (200, {"dag_runs": [RUN]}),
    "/api/v2/importErrors?limit=100&offset=0": (
        200,
        {"import_errors": [{"filename": "a.py", "stack_trace": "No.", "timestamp": "2026-01-01T00:00:00Z"}]},
    ),
}


@pytest.fixture
def health(monkeypatch: pytest.MonkeyPatch) -> AirflowHealth:
    def answer(
        _: AirflowHealth, method: str, path: str, content: object = None
    ) -> tuple[int, dict[str, Any]]:
        assert method == ("GET" if content is None else "POST")
        return ANSWERS.get(path, (404, {}))

    monkeypatch.setattr(AirflowHealth, "_request", answer)
    return AirflowHealth(AirflowAddress("http://127.0.0.1:1", "admin", "admin"))


def test_a_component_that_airflow_says_nothing_of_is_unknown(health: AirflowHealth) -> None:
    assert health.components({}) == {
        "metadatabase": "unknown",
        "scheduler": "healthy",
        "dag_processor": "unknown",
        "triggerer": "unknown",
    }


def test_a_heartbeat_from_before_the_start_is_of_another_process(health: AirflowHealth) -> None:
    assert health.components({"scheduler": TIME})["scheduler"] == "healthy"
    later = TIME + timedelta(milliseconds=1)
    assert health.components({"scheduler": later})["scheduler"] == "unhealthy"


def test_a_heartbeat_that_is_late_on_an_overloaded_machine_is_not_missed_at_once(
    health: AirflowHealth, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    for load, age, state in ((34.2, 40, "late"), (34.2, 90, "unhealthy"), (1.0, 40, "unhealthy")):
        beat = datetime.now(UTC) - timedelta(seconds=age)
        scheduler = {"status": "unhealthy", "latest_scheduler_heartbeat": beat.isoformat()}
        monkeypatch.setitem(ANSWERS, "/api/v2/monitor/health", (200, {"scheduler": scheduler}))
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load, 0.0, 0.0))
        assert health.components_and_heartbeats({})[0]["scheduler"] == state
        assert health.components({})["scheduler"] == ("healthy" if state == "late" else "unhealthy")
        # Of a process that has given none yet nothing is late.
        later = {"scheduler": beat + timedelta(seconds=1)}
        assert health.components(later)["scheduler"] == "unhealthy"


def test_a_dag_is_what_was_parsed_and_nothing_if_it_is_unknown(health: AirflowHealth) -> None:
    assert health.dag("mine") == ParsedDag(
        paused=True, has_import_errors=False, file="mine.py", next_run="", parsed=TIME
    )
    assert health.dag("other") is None


def test_the_last_run_has_its_times_and_a_dag_that_never_ran_has_none(health: AirflowHealth) -> None:
    run = health.last_run("mine")
    assert run == DagRun(
        "mine",
        "scheduled__1",
        "scheduled",
        "success",
        queued_at=datetime(2026, 1, 1, tzinfo=UTC),
        start=datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC),
        end=datetime(2026, 1, 1, 0, 0, 3, 500_000, tzinfo=UTC),
    )
    assert run.seconds == 2.5
    assert health.last_run("other") is None
    assert health.active_runs("other") == ()


def test_import_failures_are_named_by_their_file(health: AirflowHealth) -> None:
    assert health.import_failures() == (ImportFailure("a.py", "No."),)
    assert health.import_failures(TIME) == (ImportFailure("a.py", "No."),)
    assert health.import_failures(TIME + timedelta(seconds=1)) == ()


def test_lists_are_read_to_their_end(health: AirflowHealth, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"dag_{number:03}" for number in range(250)]
    monkeypatch.setitem(ANSWERS, "/api/v2/dags?limit=100&offset=300&order_by=dag_id", (500, {}))
    for offset in (0, 100, 200):
        page = [{"dag_id": name, "timetable_summary": "None"} for name in names[offset : offset + 100]]
        path = f"/api/v2/dags?limit=100&offset={offset}&order_by=dag_id"
        monkeypatch.setitem(ANSWERS, path, (200, {"dags": page, "total_entries": 250}))
    found = health.dags()
    assert [dag.dag_id for dag in found] == names
    assert {dag.schedule for dag in found} == {""}


def test_dags_that_are_not_listed_are_not_none(
    health: AirflowHealth, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "/api/v2/dags?limit=100&offset=0&order_by=dag_id"
    monkeypatch.setitem(ANSWERS, path, (500, {"detail": "no database"}))
    with pytest.raises(AirflowError, match="does not list its DAGs: HTTP 500"):
        health.dags()


def test_a_list_without_an_end_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airflow_answers, "MOST_PAGES", 3)
    found = airflow_answers.all_pages(lambda _: {"dags": [{}], "total_entries": 10**9}, "dags")
    assert len(found) == 3


def test_last_runs_come_in_one_answer_unless_a_dag_is_not_in_it(
    health: AirflowHealth, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "/api/v2/dags/~/dagRuns?limit=100&order_by=-id"
    runs = [{**RUN, "dag_id": "busy", "dag_run_id": str(number)} for number in range(100)]
    monkeypatch.setitem(ANSWERS, path, (200, {"dag_runs": runs}))
    found = health.last_runs(["busy", "mine", "never"])
    assert {name: run.run_id for name, run in found.items()} == {"busy": "0", "mine": "scheduled__1"}
    monkeypatch.setitem(ANSWERS, path, (200, {"dag_runs": runs[:99]}))
    assert set(health.last_runs(["busy", "mine"])) == {"busy"}


def test_an_import_error_that_quotes_megabytes_is_shortened() -> None:
    trace = "\n".join(["Traceback:", *["  frame"] * 1000, "ValueError: " + "y" * 5_000_000 + " the end"])
    [failure] = read_import_failures([{"filename": "mine.py", "stack_trace": trace}])
    last = failure.stack_trace.splitlines()[-1]
    assert len(failure.stack_trace) < 5_000
    assert last.startswith("ValueError: yyy")
    assert last.endswith(" the end")


HEAD = (
    'Traceback (most recent call last):\n  File "/dags/a.py", line 3, in <module>\n    load()\n    ^^^^^^\n'
)


@pytest.mark.parametrize(
    ("trace", "reason"),
    [
        ("", "it does not say why"),
        (f"{HEAD}ValueError: no: such\n", "ValueError: no: such"),
        (f"{HEAD}KeyError\n", "KeyError"),
        # Of many lines, indented or not, with an empty one.
        (
            f"{HEAD}RuntimeError: Config is wrong:\n  missing key 'a'\n\n  see docs\nat once",
            "RuntimeError: Config is wrong: missing key 'a' see docs at once",
        ),
        (
            f"{HEAD}KeyError: 'k'\n\nThe above exception was the direct cause of the following exception:\n\n"
            f"{HEAD}app.OwnError: It\n broke",
            "app.OwnError: It broke",
        ),
        (
            '  File "/dags/a.py", line 1\n    x = (\n        ^\nSyntaxError: never closed',
            "SyntaxError: never closed",
        ),
        (
            f"{HEAD}  [Previous line repeated 996 more times]\nRecursionError: too deep",
            "RecursionError: too deep",
        ),
        (
            "  + Exception Group Traceback (most recent call last):\n"
            '  |   File "/dags/a.py", line 3, in <module>\n'
            "  | ExceptionGroup: both\n  | failed (2 sub-exceptions)\n"
            "  +-+---------------- 1 ----------------\n    | ValueError: one\n"
            "    +------------------------------------\n",
            "ExceptionGroup: both failed (2 sub-exceptions)",
        ),
        ("DagBag import timeout for a.py\nafter 50 s.", "DagBag import timeout for a.py after 50 s."),
    ],
)
def test_why_a_file_cannot_be_imported_is_all_that_its_error_says(trace: str, reason: str) -> None:
    [failure] = read_import_failures([{"filename": "a.py", "stack_trace": trace}])
    assert import_reason(failure.stack_trace) == reason


def test_of_an_error_with_very_many_lines_the_beginning_is_told() -> None:
    trace = f"{HEAD}ValidationError: 900 fields are wrong:\n" + "\n".join(f"  field {n}" for n in range(900))
    [failure] = read_import_failures([{"filename": "a.py", "stack_trace": trace}])
    assert import_error(failure.stack_trace).startswith("ValidationError: 900 fields are wrong: field 0 ")
    assert import_error(failure.stack_trace).endswith("field 899")


def test_a_long_error_is_cut_in_a_sentence_and_says_so() -> None:
    reason = import_reason(f"{HEAD}ValueError: begins {'x' * 5_000}")
    assert reason.startswith("ValueError: begins xxx")
    assert reason.endswith("x…")
    assert len(reason) == 201


def test_secrets_in_an_import_error_are_masked_before_it_is_shortened() -> None:
    trace = f"ValueError: {'x' * 495}sesame{'y' * 5_000}"
    answers = [{"filename": "a.py", "stack_trace": trace}]
    [failure] = read_import_failures(answers, mask=lambda text: text.replace("sesame", "***"))
    assert "sesam" not in failure.stack_trace
    assert "ses" not in failure.stack_trace
