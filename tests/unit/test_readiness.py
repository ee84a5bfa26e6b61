"""Waiting for the stack: what ends it, and with which words."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol, cast

import pytest

from pipectl.airflow_answers import is_since
from pipectl.errors import (
    AirflowError,
    DagError,
    DatabaseError,
    DatabaseRefusedError,
    EngineError,
    LoginError,
    WaitTimeoutError,
)
from pipectl.models import ImportFailure, LogLine, ParsedDag, Service
from pipectl.observer import Observer
from pipectl.pipeline import readiness
from pipectl.pipeline.readiness import HealthProbe, wait_until_healthy, wait_until_parsed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipectl.airflow_health import AirflowHealth
    from pipectl.databases import Databases
    from pipectl.engines.base import Engine


TIME = datetime(2026, 1, 1, tzinfo=UTC)


class FakeEngine:
    """Shows one look at the services after the other; the last one stays."""

    def __init__(self, *looks: tuple[Service, ...], awaited: str = "") -> None:
        self._looks = list(looks)
        self.awaited = awaited

    def services(self) -> tuple[Service, ...]:
        return self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]

    def logs(self, services: tuple[str, ...], *, tail: int, follow: bool) -> Iterator[LogLine]:
        assert tail
        assert not follow
        yield LogLine(services[0], "the reason")


class FakeDatabases:
    def __init__(self, error: DatabaseError | None = None) -> None:
        self._error = error

    def ping(self, service: str) -> None:
        assert service.startswith("airbyte-")
        if self._error:
            raise self._error


class FakeHealth:
    def __init__(
        self, components: dict[str, str] | None, dag: ParsedDag | None = None, **failures: str
    ) -> None:
        self._components = components
        self._dag = dag
        self._failures = failures

    def components(self, started: dict[str, datetime]) -> dict[str, str]:
        self.started = started
        if self._components is None:
            raise AirflowError("Airflow does not answer.")
        return self._components

    def dag(self, dag_id: str) -> ParsedDag | None:
        assert dag_id == "mine"
        return self._dag

    def dags(self) -> tuple[ParsedDag, ...]:
        return (ParsedDag(False, False, "watcher.py", next_run="", parsed=TIME, dag_id="mein"),)

    def import_failures(self, since: datetime | None) -> tuple[ImportFailure, ...]:
        failures = tuple(ImportFailure(name, trace) for name, trace in self._failures.items())
        return failures if is_since(TIME, since) else ()


class Looks(Observer):
    """Remembers every look at the services."""

    def __init__(self) -> None:
        self.seen: list[tuple[Service, ...]] = []
        self.waits: list[str] = []

    def see_services(self, services: tuple[Service, ...]) -> None:
        self.seen.append(services)

    def see_wait(self, sentence: str) -> None:
        self.waits.append(sentence)


def dag(*, has_import_errors: bool = False) -> ParsedDag:
    return ParsedDag(False, has_import_errors, file="mine.py", next_run="", parsed=TIME)


HEALTHY = {"metadatabase": "healthy", "scheduler": "healthy", "dag_processor": "healthy"}


def wait(
    engine: FakeEngine,
    health: FakeHealth | None = None,
    databases: FakeDatabases | None = None,
    seconds: float = 5,
) -> list[tuple[Service, ...]]:
    looks = Looks()
    probe = HealthProbe(
        cast("Databases", databases or FakeDatabases()),
        cast("AirflowHealth", health or FakeHealth(HEALTHY)),
        lambda: False,
    )
    wait_until_healthy(cast("Engine", engine), probe, deadline=time.monotonic() + seconds, observer=looks)
    return looks.seen


def test_the_metadata_database_is_healthy_before_airflow_answers_and_what_is_waited_for_is_told() -> None:
    looks = Looks()
    silent = cast("AirflowHealth", FakeHealth(None))
    probe = HealthProbe(cast("Databases", FakeDatabases()), silent, lambda: True)
    services = (service("postgres"), service("webserver"), service("scheduler"))
    with pytest.raises(WaitTimeoutError, match=r"Not healthy in time: webserver, scheduler\."):
        wait_until_healthy(cast("Engine", FakeEngine(services)), probe, deadline=0, observer=looks)
    assert looks.waits == ["Waiting for health: webserver, scheduler"]
    initialises = cast("Engine", FakeEngine(services, awaited="Waiting for the migration"))
    with pytest.raises(WaitTimeoutError):
        wait_until_healthy(initialises, probe, deadline=0, observer=looks)
    assert looks.waits[-1] == "Waiting for the migration"


def service(name: str, state: str = "running", pid: int = 1) -> Service:
    return Service(name, state, pid=pid)


def test_it_ends_when_all_are_healthy() -> None:
    names = ("postgres", "airbyte-postgres", "airbyte-mysql", "webserver", "scheduler", "dag-processor")
    looks = wait(
        FakeEngine(tuple(service(name, "starting") for name in names), tuple(service(name) for name in names))
    )
    assert {found.health for found in looks[-1]} == {"healthy"}


def test_a_heartbeat_that_is_missing_is_not_healthy() -> None:
    health = FakeHealth({**HEALTHY, "scheduler": "unhealthy"})
    with pytest.raises(WaitTimeoutError, match="Not healthy in time: scheduler") as caught:
        wait(FakeEngine((service("webserver"), service("scheduler"))), health, seconds=0.3)
    assert "the reason" in caught.value.detail


def test_a_service_that_ends_fails_the_wait_at_once_with_its_log() -> None:
    with pytest.raises(EngineError, match="'scheduler' ends as soon as it is started") as caught:
        wait(FakeEngine((service("scheduler", "crashed"),)), seconds=60)
    assert caught.value.detail == "the reason"


def test_a_service_that_was_restarted_meanwhile_has_crashed() -> None:
    engine = FakeEngine((service("webserver", "starting"),), (service("webserver", "starting", pid=2),))
    with pytest.raises(EngineError, match="'webserver' ends"):
        wait(engine, seconds=60)


def test_a_fork_that_takes_the_place_of_its_service_has_not_crashed() -> None:
    started = datetime(2026, 11, 26, tzinfo=UTC)
    asking = replace(service("webserver", "starting"), started=started)
    wait(FakeEngine((asking,), (replace(asking, state="running", pid=2),)))
    with pytest.raises(EngineError, match="'webserver' ends"):
        wait(
            FakeEngine((asking,), (replace(asking, pid=2, started=started + timedelta(seconds=1)),)),
            seconds=60,
        )


def test_a_database_may_fall_twice_over_a_stale_lock_file() -> None:
    fallen, risen = (service("airbyte-postgres", "crashed"),), (service("airbyte-postgres", "starting"),)
    wait(FakeEngine(fallen, risen, fallen, risen, (service("airbyte-postgres"),)))
    with pytest.raises(EngineError, match="'airbyte-postgres' ends"):
        wait(FakeEngine(fallen, risen, fallen, risen, fallen, risen), seconds=60)


@pytest.mark.parametrize("refusal", [LoginError, DatabaseRefusedError])
def test_what_waiting_does_not_change_is_said_at_once(refusal: type[DatabaseError]) -> None:
    with pytest.raises(refusal):
        wait(
            FakeEngine((service("airbyte-mysql"),)),
            databases=FakeDatabases(refusal("refused")),
            seconds=60,
        )


def test_a_database_that_does_not_answer_yet_is_waited_for() -> None:
    with pytest.raises(WaitTimeoutError):
        wait(
            FakeEngine((service("airbyte-mysql"),)),
            databases=FakeDatabases(DatabaseError("no answer")),
            seconds=0.2,
        )


def test_components_are_asked_for_their_processes_of_now() -> None:
    health = FakeHealth(HEALTHY)
    services = [Service(name, "running", started=TIME) for name in ("postgres", "webserver", "dag-processor")]
    wait(FakeEngine((*services, Service("scheduler", "running"))), health)
    assert health.started == {"dag_processor": TIME}


@pytest.fixture
def dags_dir(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text("with DAG('mine'): ...")
    return tmp_path


class Parsed(Protocol):
    def __call__(self, health: FakeHealth, *looks: Service, seconds: float = 0.2) -> None: ...


@pytest.fixture
def parsed(dags_dir: Path) -> Parsed:
    def wait(health: FakeHealth, *looks: Service, seconds: float = 0.2) -> None:
        running = Service("dag-processor", "running", started=TIME)
        wait_until_parsed(
            cast("Engine", FakeEngine(*((look,) for look in looks or (running,)))),
            cast("AirflowHealth", health),
            "mine",
            dags_dir=dags_dir,
            deadline=time.monotonic() + seconds,
            observer=Observer(),
        )

    return wait


def test_what_an_earlier_processor_has_parsed_does_not_count(parsed: Parsed) -> None:
    later = Service("dag-processor", "running", started=TIME + timedelta(seconds=1))
    with pytest.raises(WaitTimeoutError):
        parsed(FakeHealth(HEALTHY, dag()), later)
    with pytest.raises(WaitTimeoutError):
        parsed(FakeHealth(HEALTHY, dag(has_import_errors=True), **{"mine.py": "SyntaxError"}), later)


def test_a_processor_that_ends_while_it_parses_fails_the_wait_at_once(parsed: Parsed) -> None:
    with pytest.raises(EngineError, match="'dag-processor' ends as soon as it is started"):
        parsed(FakeHealth(HEALTHY), service("dag-processor"), service("dag-processor", pid=2), seconds=60)


def test_a_dag_that_cannot_be_imported_is_shown_with_its_trace(parsed: Parsed) -> None:
    with pytest.raises(DagError, match=r"cannot import mine\.py") as caught:
        parsed(FakeHealth(HEALTHY, None, **{"mine.py": "SyntaxError: nonsense"}), seconds=60)
    assert "SyntaxError" in caught.value.detail


def test_another_dag_that_is_broken_does_not_matter_once_ours_is_parsed(parsed: Parsed) -> None:
    parsed(FakeHealth(HEALTHY, dag(), **{"other.py": "SyntaxError"}))


def test_a_dag_that_broke_after_it_was_parsed_shows_its_own_file_only(parsed: Parsed) -> None:
    with pytest.raises(DagError) as caught:
        parsed(
            FakeHealth(HEALTHY, dag(has_import_errors=True), **{"other.py": "Other", "dags/mine.py": "Ours"}),
            seconds=60,
        )
    assert caught.value.detail == "Ours"


def test_a_dag_that_never_appears_is_a_time_out(parsed: Parsed) -> None:
    with pytest.raises(WaitTimeoutError, match="has not parsed a DAG 'mine'"):
        parsed(FakeHealth(HEALTHY))


def test_a_broken_file_that_does_not_mention_the_dag_is_not_blamed(parsed: Parsed, dags_dir: Path) -> None:
    (dags_dir / "other.py").write_text("with DAG('other'): nonsense")
    with pytest.raises(WaitTimeoutError, match="has not parsed a DAG 'mine'") as caught:
        parsed(FakeHealth(HEALTHY, None, **{"other.py": "SyntaxError"}))
    assert "Not imported: other.py; why: pipectl dags" in caught.value.hint


def test_a_dag_that_no_file_mentions_is_unknown_before_the_time_is_over(
    parsed: Parsed, dags_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "UNMENTIONED_SECONDS", 0.1)
    (dags_dir / "mine.py").rename(dags_dir / "mein.py").write_text("with DAG('mein'): ...")
    with pytest.raises(DagError, match="knows no DAG 'mine'") as caught:
        parsed(FakeHealth(HEALTHY, None, **{"mein.py": "SyntaxError"}), seconds=60)
    assert "Did you mean mein?" in caught.value.hint


def test_a_broken_file_is_blamed_as_soon_as_no_other_file_can_bring_the_dag(
    parsed: Parsed, dags_dir: Path
) -> None:
    """Another DAG's documentation, or its sensor, mentions the DAG too."""
    watcher = dags_dir / "watcher.py"
    watcher.write_text("with DAG('mein', doc_md='Runs after mine'): ...")
    broken = FakeHealth(HEALTHY, None, **{"mine.py": "SyntaxError"})
    after_the_parse = TIME.timestamp() + 1
    os.utime(watcher, (after_the_parse, after_the_parse))
    suspicion = readiness.Suspicion("mine", dags_dir, broken.dags)
    assert suspicion.confirmed(None, broken.import_failures(None)) == ()
    before_the_parse = TIME.timestamp() - 1
    os.utime(watcher, (before_the_parse, before_the_parse))
    assert suspicion.confirmed(None, broken.import_failures(None), TIME + timedelta(seconds=1)) == ()
    with pytest.raises(DagError, match=r"cannot import mine\.py"):
        parsed(broken, seconds=60)


def test_a_file_that_airflow_never_reads_delays_the_verdict_for_a_while_only(
    parsed: Parsed, dags_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "SUSPICION_SECONDS", 0.2)
    (dags_dir / "tests").mkdir()
    (dags_dir / "tests" / "test_mine.py").write_text("def test_mine(): assert 'mine'")
    with pytest.raises(DagError, match=r"cannot import mine\.py"):
        parsed(FakeHealth(HEALTHY, None, **{"mine.py": "SyntaxError"}), seconds=60)


def test_files_are_chosen_by_name_and_by_whole_words(tmp_path: Path) -> None:
    texts = {
        "mine.py": "",
        "ours.py": "DAG('mine')",
        "function.py": "@dag\ndef mine(): ...",
        "longer.py": "DAG('mine_too'), DAG('not-mine'), DAG('mine.2')",
        "notes.txt": "mine",
        "sub/folder.py": "'mine'",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "a folder.py").mkdir()
    found = readiness.files_that_mention("mine", tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "function.py",
        "mine.py",
        "ours.py",
        "sub/folder.py",
    ]
    assert readiness.files_that_mention("mine", tmp_path / "nowhere") == ()
