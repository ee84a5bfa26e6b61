"""What `status` says of Airflow while it starts, and of DAG files that cannot be imported."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from pipectl.airflow_health import AirflowHealth, ParsedDag
from pipectl.commands import status, up
from pipectl.errors import AirflowSilentError
from pipectl.models import AirflowAddress, DatabaseAddress, ImportFailure, Service
from pipectl.pipeline import overview
from pipectl.pipeline.lifecycle import UpResult

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipectl.engines.base import Engine

START = datetime(2026, 1, 1, tzinfo=UTC)
OTHER = ImportFailure("broken.py", "Traceback\n  File\nSyntaxError: invalid syntax\n")
OURS = ImportFailure("mine.py", "NameError: nonsense")


class FakeEngine:
    """An engine whose web server is in this state, and whose databases do not run."""

    executor = "LocalExecutor"

    def __init__(self, state: str = "running", name: str = "local") -> None:
        self.state = state
        self.name = name

    def services(self) -> tuple[Service, ...]:
        down = (Service("airbyte-postgres", "stopped"), Service("airbyte-mysql", "stopped"))
        return (*down, Service("webserver", self.state))

    def airflow(self) -> AirflowAddress:
        return AirflowAddress("http://127.0.0.1:1", "admin", "admin")

    def databases(self) -> tuple[DatabaseAddress, ...]:
        names = ("airbyte-postgres", "airbyte-mysql")
        return tuple(DatabaseAddress(name, "127.0.0.1", 1, "", "", "") for name in names)

    def notes(self) -> tuple[str, ...]:
        return ()


def plain(content: RenderableType) -> str:
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=140).print(content)
    return stream.getvalue()


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
    assert said in plain(status.result_text(state_of(FakeEngine(state))))


@pytest.mark.usefixtures("broken")
def test_every_broken_file_is_named_with_its_error() -> None:
    found = state_of(FakeEngine())
    assert found.airflow.import_failures == (OTHER, OURS)
    assert found.dag.import_error == OURS.stack_trace
    text = plain(status.result_text(found))
    assert "Warning   Airflow cannot import broken.py: SyntaxError: invalid syntax\n" in text
    assert "Warning   Airflow cannot import mine.py: NameError: nonsense\n" in text
    assert text.count("NameError") == text.count("SyntaxError") == 1


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


@pytest.mark.parametrize(("name", "column"), [("docker", "container"), ("local", "pid")])
def test_the_column_of_a_stopped_stack_is_that_of_its_engine(name: str, column: str) -> None:
    text = plain(status.result_text(state_of(FakeEngine("stopped", name))))
    assert re.search(rf"service +state +health +port +{column}\b", text)


def test_a_start_that_only_removed_a_worker_did_something() -> None:
    assert "Everything ran already" in started()
    text = started(removed=("worker-2",))
    assert "Removed   worker-2" in text
    assert "Everything ran already" not in text
