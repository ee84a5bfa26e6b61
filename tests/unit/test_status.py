"""What `status` says of Airflow while it starts, and of DAG files that cannot be imported."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from pipectl.airflow_health import AirflowHealth
from pipectl.commands import dags, status, up
from pipectl.errors import AirflowSilentError
from pipectl.models import AirflowAddress, DagRun, DatabaseAddress, ImportFailure, ParsedDag, Service
from pipectl.pipeline import consumers, listing, overview
from pipectl.pipeline.lifecycle import UpResult
from pipectl.published import SLOT
from support import ROOT
from support.text import plain

if TYPE_CHECKING:
    from pipectl.engines.base import Engine

START = datetime(2026, 1, 1, tzinfo=UTC)
OTHER = ImportFailure("broken.py", 'Traceback\n  File "a.py", line 1\nSyntaxError: invalid syntax\n')
OURS = ImportFailure("mine.py", "NameError: nonsense")


class FakeEngine:
    """An engine whose web server is in this state, and whose databases do not run."""

    executor = "LocalExecutor"

    def __init__(self, state: str = "running", name: str = "local") -> None:
        self.state = state
        self.name = name

    def services(self) -> tuple[Service, ...]:
        down = (Service("airbyte-postgres", "stopped"), Service("airbyte-mysql", "stopped"))
        return (*down, Service("postgres", "running"), Service("webserver", self.state))

    def metadata_answers(self) -> bool:
        return True

    def airflow(self) -> AirflowAddress:
        return AirflowAddress("http://127.0.0.1:1", "admin", "admin")

    def databases(self) -> tuple[DatabaseAddress, ...]:
        names = ("airbyte-postgres", "airbyte-mysql")
        return tuple(DatabaseAddress(name, "127.0.0.1", 1, "", "", "") for name in names)

    def notes(self) -> tuple[str, ...]:
        return ()


def state_of(engine: FakeEngine) -> overview.Status:
    return overview.overview(cast("Engine", engine), Path("/srv/project"), "mine")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """An Airflow whose pipeline is parsed, beside a file that is broken; its own file broke later."""
    monkeypatch.setattr(AirflowHealth, "components", lambda *_: {})
    monkeypatch.setattr(AirflowHealth, "version", lambda _: "3.3.2")
    dag = ParsedDag(False, has_import_errors=True, file="mine.py", next_run="")
    monkeypatch.setattr(AirflowHealth, "dag", lambda *_: dag)
    monkeypatch.setattr(AirflowHealth, "last_run", lambda *_: None)
    monkeypatch.setattr(AirflowHealth, "import_failures", lambda *_: (OTHER, OURS))


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("running", "Airflow   starting; wait for it: pipectl up"),
        ("stopped", "Airflow   not running; start it: pipectl up"),
        ("crashed", "Airflow   not running; start it: pipectl up"),
    ],
)
def test_a_web_server_that_does_not_answer_yet_is_starting(
    monkeypatch: pytest.MonkeyPatch, state: str, said: str
) -> None:
    def silent(*_: object) -> None:
        raise AirflowSilentError("Airflow does not answer.")

    monkeypatch.setattr(AirflowHealth, "components", silent)
    found = state_of(FakeEngine(state))
    assert said in plain(status.result_text(found))
    assert {each.name: each.health for each in found.services}["postgres"] == "healthy"


@pytest.mark.usefixtures("broken")
def test_every_broken_file_is_named_with_its_error() -> None:
    found = state_of(FakeEngine())
    assert found.airflow.import_failures == (OTHER, OURS)
    assert found.dag.import_error == OURS.stack_trace
    text = plain(status.result_text(found))
    assert "Warning   Airflow cannot import broken.py: SyntaxError: invalid syntax\n" in text
    assert "Warning   Airflow cannot import mine.py: NameError: nonsense\n" in text
    assert text.count("NameError") == text.count("SyntaxError") == 1
    assert "          2 DAG files are broken.\n          What to mend: pipectl check\n" in text


def started(**changes: Any) -> str:
    """What `up` says after a start that changed this."""
    result = UpResult(
        engine="local",
        url="http://127.0.0.1:8080",
        user="admin",
        password="admin",
        ports={},
        seconds=1.0,
        phases=(),
        started=(),
        restarted={},
        moved_ports={},
        **changes,
    )
    return plain(up.result_text(result))


def test_up_names_a_broken_file() -> None:
    text = started(import_failures=(OTHER, ImportFailure("silent.py", "")))
    assert "Warning   Airflow cannot import broken.py: SyntaxError: invalid syntax\n" in text
    assert "Warning   Airflow cannot import silent.py: it does not say why\n" in text


def test_many_broken_files_are_counted_and_the_first_ones_say_why() -> None:
    text = started(import_failures=tuple(ImportFailure(f"{name}.py", "No.") for name in "abcde"))
    assert "Airflow cannot import c.py: No." in text
    assert text.count("No.") == 3
    assert "5 DAG files are broken, d.py, e.py too.\n" in text


@pytest.mark.parametrize(
    ("next_run", "schedule", "said"),
    [
        ("2026-01-01T00:30:00Z", "@daily", "on, next run 2026-01-01T00:30:00Z"),
        ("", "Asset", "on, no run is planned"),
        ("", "", "on, no schedule"),
    ],
)
def test_the_next_run_is_told_as_it_is(next_run: str, schedule: str, said: str) -> None:
    dag = overview.DagStatus("mine", found=True, paused=False, next_run=next_run, schedule=schedule)
    text = plain(status.result_text(replace(state_of(FakeEngine("stopped")), dag=dag)))
    assert f"DAG       mine: {said}\n" in text


def test_dags_are_listed_with_their_state_and_the_whole_errors() -> None:
    def listed(name: str, schedule: str = "", run: DagRun | None = None, **state: bool) -> listing.ListedDag:
        flags = {"paused": False, "has_import_errors": False, **state}
        return listing.ListedDag(name, schedule=schedule, next_run="", file="", last_run=run, **flags)

    run = DagRun("daily", "scheduled__1", "scheduled", "success", start=START)
    found = listing.DagList(
        (listed("daily", "@daily", run), listed("off", paused=True), listed("mine", has_import_errors=True)),
        (OTHER,),
    )
    text = plain(dags.result_text(found))
    assert re.search(r"daily +on +@daily +success +20", text)
    assert re.search(r"off +paused +none *\n", text)
    assert re.search(r"mine +broken", text)
    assert "Airflow cannot import broken.py: SyntaxError: invalid syntax\n  Traceback\n    File " in text
    # Long ones are told once.
    long = ImportFailure("long.py", f"Traceback\nValueError: begins {'x' * 300}\n")
    text = plain(dags.result_text(listing.DagList((), (long,))))
    assert "Airflow cannot import long.py:\n  Traceback\n  ValueError: begins" in text
    assert text.count("begins") == 1
    assert "Airflow has parsed no DAG." in plain(dags.result_text(listing.DagList((), ())))


@pytest.mark.parametrize(("name", "column"), [("docker", "container"), ("local", "pid")])
def test_the_column_of_a_stopped_stack_is_that_of_its_engine(name: str, column: str) -> None:
    text = plain(status.result_text(state_of(FakeEngine("stopped", name))))
    assert re.search(rf"service +state +health +port +{column}\b", text)


def test_a_start_that_only_removed_a_worker_did_something() -> None:
    assert "Everything ran already" in started()
    text = started(removed=("worker-2",))
    assert "Removed   worker-2" in text
    assert "Everything ran already" not in text


def database_status(**parts: Any) -> overview.DatabaseStatus:
    address = DatabaseAddress("airbyte-mysql", "127.0.0.1", 1, "", "", "")
    return overview.DatabaseStatus(address, reachable=True, rows={}, **parts)


def test_slots_and_logs_that_need_somebody_are_said_and_no_others() -> None:
    def alerts(wal_status: str, name: str = SLOT) -> str:
        slot = consumers.Slot(name, False, wal_status, None, 5, None)
        return " ".join(overview._alerts(database_status(slots=(slot,))))

    assert alerts("reserved") == alerts("extended") == ""
    assert "about to be lost" in alerts("unreserved")
    assert "pipectl connections --drop-slot" in alerts("lost")
    assert "pg_drop_replication_slot('theirs')" in alerts("lost", "theirs")
    for size, limit, said in (
        (consumers.BINLOG_LIMIT_BYTES, None, 0),
        (5 << 30, None, 1),
        (5 << 30, 6 << 30, 0),
    ):
        log = consumers.BinaryLog(size, limit)
        assert len(list(overview._alerts(database_status(binary_log=log)))) == said


def test_the_bound_of_the_binary_log_is_the_servers() -> None:
    config = (ROOT / "stack" / "mysql" / "server.cnf").read_text(encoding="utf-8")
    assert f"loose_max_binlog_total_size = {consumers.BINLOG_LIMIT_BYTES >> 30}G" in config
