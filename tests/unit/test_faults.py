"""What pipectl says and does after a fault: silence, a full disk, damaged files, killed processes."""

from __future__ import annotations

import errno
import os
import re
import shlex
import sys
import tempfile
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from typer.testing import CliRunner

from pipectl import cli, disk
from pipectl.engines.local import airflow_install, airflow_metadata, folders, postgres
from pipectl.engines.local.folders import atomic_folder, database_volume
from pipectl.engines.local.supervisor import supervisor
from pipectl.engines.project import ENGINE_FILE, remember_engine, remembered_engine, state_folder
from pipectl.errors import (
    AirflowError,
    AirflowSilentError,
    DatabaseSilentError,
    EngineError,
    EngineSilentError,
    ExitCode,
    UsageError,
    WaitTimeoutError,
)
from pipectl.models import Counts, DagRun, ParsedDag, Service
from pipectl.observer import Observer
from pipectl.pipeline import triggering
from pipectl.pipeline.loading import HistoryLoader
from pipectl.settings import Settings
from support import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from pipectl.airflow_api import AirflowApi
    from pipectl.engines.base import Engine
    from pipectl.models import DatabaseAddress

NOW = 1000.0
CLOCK = SimpleNamespace(monotonic=lambda: NOW)


class FakeEngine:
    """An engine whose services have this state."""

    def __init__(self, state: str) -> None:
        self.state = state

    def services(self) -> tuple[Service, ...]:
        if self.state == "engine is silent":
            raise EngineError("No answer.")
        return (Service("webserver", self.state),)


class Told(Observer):
    def __init__(self) -> None:
        self.sentences: list[str] = []

    def report(self, sentence: str) -> None:
        self.sentences.append(sentence)


def patience(state: str, observer: Observer | None = None, seconds: float = 60) -> triggering.Patience:
    return triggering.Patience(cast("Engine", FakeEngine(state)), observer or Observer(), seconds)


def silent(*errors: Exception) -> Any:
    """Return a question that is answered after these errors."""
    left = list(errors)

    def question() -> str:
        if left:
            raise left.pop(0)
        return "answer"

    return question


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggering, "SILENCE_POLL_SECONDS", 0)


@pytest.mark.parametrize("state", ["running", "starting", "crashed", "engine is silent"])
def test_a_question_is_repeated_while_a_service_restarts_and_said_once(state: str) -> None:
    told = Told()
    errors = (
        AirflowSilentError("Airflow does not answer."),
        DatabaseSilentError("Nor does its database."),
        EngineSilentError("Nor does what runs them."),
    )
    assert patience(state, told).ask(silent(*errors)) == "answer"
    assert told.sentences == ["Airflow does not answer. Waiting"]


def test_a_question_to_a_stopped_stack_is_not_repeated() -> None:
    with pytest.raises(AirflowSilentError):
        patience("stopped").ask(silent(AirflowSilentError("not running")))


def test_a_refusal_is_not_repeated() -> None:
    with pytest.raises(AirflowError, match="refused"):
        patience("running").ask(silent(AirflowError("refused")))


def test_who_does_not_follow_a_run_waits_for_a_restart_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggering, "time", CLOCK)
    for seconds, follows, expected in ((900, False, 30), (5, False, 5), (900, True, 900)):
        engine = cast("Engine", FakeEngine("running"))
        asked = triggering.Patience(engine, Observer(), seconds, follows=follows)
        assert asked.deadline == NOW + expected


@pytest.mark.parametrize(
    "words",
    [
        ("trigger", "mine", "--no-wait"),
        ("backfill", "mine", "--from", "2026-01-30", "--to", "2026-01-31", "--no-wait"),
    ],
)
def test_a_command_that_follows_nothing_does_not_wait_for_an_airflow_that_stays_silent(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AirflowSilentError("Airflow does not answer.")

    seen: list[float] = []
    ask = triggering.Patience.ask

    def asked(patience: triggering.Patience, *arguments: Any, **options: Any) -> Any:
        seen.append(patience.deadline - NOW)
        patience.deadline = 0
        return ask(patience, *arguments, **options)

    monkeypatch.setattr(triggering, "time", CLOCK)
    monkeypatch.setattr(triggering.Patience, "ask", asked)
    monkeypatch.setattr(f"pipectl.commands.{words[0]}.airflow_api", never)
    result = CliRunner().invoke(cli.app, ["--project", str(ROOT), "--engine", "local", "-q", *words])
    assert result.exit_code == ExitCode.AIRFLOW, result.output
    assert 0 < max(seen) <= triggering.RESTART_SECONDS


def test_patience_ends_at_the_deadline() -> None:
    def never() -> None:
        raise AirflowSilentError("Airflow does not answer.")

    with pytest.raises(AirflowSilentError):
        patience("running", seconds=0).ask(never)


class Api:
    """Knows one run, and does not answer one question about it."""

    def __init__(self, silent_about: str = "") -> None:
        self.silent_about = silent_about

    def runs(self, _: str) -> tuple[DagRun, ...]:
        return ()

    def trigger(self, dag_id: str, run_id: str, *_: object) -> DagRun:
        return DagRun(dag_id, run_id, "manual", "queued")

    def run(self, dag_id: str, run_id: str) -> DagRun:
        self.answer("run")
        return DagRun(dag_id, run_id, "manual", {"tasks": "running"}.get(self.silent_about, "success"))

    def tasks(self, *_: str) -> tuple[()]:
        self.answer("tasks")
        return ()

    def answer(self, name: str) -> None:
        if name == self.silent_about:
            raise AirflowSilentError("Airflow does not answer.")


def follow(api: Api, observer: Observer, batch: Any = None) -> triggering.TriggerResult:
    return triggering.trigger(
        cast("AirflowApi", api),
        ParsedDag(False, has_import_errors=False, file="mine.py", next_run="", dag_id="mine"),
        conf=None,
        logical_date=None,
        batch=batch,
        observer=observer,
        timeout=1,
    )


@pytest.mark.parametrize(("silent_about", "state"), [("run", "queued"), ("tasks", "running")])
def test_a_run_that_could_not_be_followed_to_its_end_is_timed_out_with_its_last_state(
    silent_about: str, state: str
) -> None:
    with pytest.raises(WaitTimeoutError, match=f"was {state} when Airflow last answered") as caught:
        follow(Api(silent_about), Told())
    assert "pipectl runs mine" in caught.value.hint


@pytest.mark.parametrize("kind", [DatabaseSilentError, EngineSilentError])
def test_a_run_that_succeeded_is_a_success_even_if_its_rows_cannot_be_counted(
    kind: type[DatabaseSilentError | EngineSilentError],
) -> None:
    told = Told()

    def batch(_: str) -> Counts:
        raise kind("MySQL does not answer.")

    result = follow(Api(), told, batch)
    assert (result.state, result.delta) == ("success", None)
    assert told.sentences == ["MySQL does not answer. The run's rows are not counted."]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "stack").mkdir()
    return Settings(tmp_path, "local", tmp_path / "cache", {})


def fill(monkeypatch: pytest.MonkeyPatch, left: int) -> None:
    blocks = os.statvfs_result((4096, 4096, 1000, left // 4096, left // 4096, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: blocks)


@pytest.mark.parametrize("kind", disk.AFFECTED)
def test_a_full_disk_is_named_whatever_failed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, kind: type[AirflowError]
) -> None:
    fill(monkeypatch, 1_000_000)
    with pytest.raises(kind) as caught, disk.explained(lambda: settings):
        raise kind("Failed.", hint="Look elsewhere.")
    assert caught.value.hint.startswith(f"The disk of {settings.project} is full (999.4 kB left)")


def test_a_disk_with_space_is_not_blamed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(monkeypatch, 1_000_000_000)
    with pytest.raises(EngineError) as caught, disk.explained(lambda: settings):
        raise EngineError("Failed.", hint="Look elsewhere.")
    assert caught.value.hint == "Look elsewhere."


def test_a_file_that_cannot_be_used_is_an_engine_error_with_its_name(settings: Settings) -> None:
    with pytest.raises(EngineError, match=r"run: Is a directory") as caught, disk.explained(lambda: settings):
        raise OSError(errno.EISDIR, "Is a directory", str(settings.project / "run"))
    assert caught.value.code == ExitCode.ENGINE


def test_an_error_of_no_file_stays_what_it_is(settings: Settings) -> None:
    for error in (OSError(errno.EIO, "Input/output error"), BrokenPipeError(errno.EPIPE, "Broken pipe")):
        with pytest.raises(OSError) as caught, disk.explained(lambda: settings):  # noqa: PT011  itself
            raise error
        assert caught.value is error


def test_outside_a_project_no_disk_is_looked_at() -> None:
    def no_project() -> Settings:
        raise UsageError("Not in a project.")

    with pytest.raises(EngineError) as caught, disk.explained(no_project):
        raise EngineError("Failed.", hint="Look elsewhere.")
    assert caught.value.hint == "Look elsewhere."


def test_the_temporary_folder_is_looked_at_too(settings: Settings) -> None:
    assert tempfile.gettempdir() in {str(folder) for folder in disk.folders(settings)}


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed (SIGKILL)"),
        ("os.kill(os.getpid(), signal.SIGTERM)", "was killed (SIGTERM)"),
    ],
)
def test_a_loader_that_was_killed_is_exit_3_with_the_signal(
    tmp_path: Path, ending: str, expected: str
) -> None:
    script = tmp_path / "scripts" / "history_loader.py"
    script.parent.mkdir()
    # Half a line is in the pipe when it dies.
    script.write_text(
        f"import os, signal, sys\nsys.stdout.write('{{\"event\": ')\nsys.stdout.flush()\n{ending}\n"
    )
    nowhere = cast("tuple[DatabaseAddress, DatabaseAddress]", ())
    loader = HistoryLoader(tmp_path, nowhere, seed=None, observer=Observer())
    with pytest.raises(EngineError) as caught:
        loader.load(transactions=1, days=1, shards=1)
    assert caught.value.message == f"scripts/history_loader.py {expected}."
    assert "goes on from there" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"seventeen"])
def test_a_damaged_cluster_is_named_and_not_made_anew_over_its_data(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "PG_VERSION").write_bytes(content)
    with pytest.raises(EngineError, match="PG_VERSION"):
        postgres.data_version(tmp_path)


def test_a_folder_with_something_else_in_it_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "data"
    (target / "half").mkdir(parents=True)
    with pytest.raises(EngineError, match="is there already"), atomic_folder(target):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_what_is_remembered_is_not_written_again_on_a_full_disk(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember_engine(settings, "local")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    assert state_folder(settings) == settings.state_dir
    remember_engine(settings, "local")
    assert remembered_engine(settings) == "local"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"podman2"])
def test_a_damaged_name_of_the_engine_is_no_name_that_counts(settings: Settings, content: bytes) -> None:
    state_folder(settings)
    (settings.state_dir / ENGINE_FILE).write_bytes(content)
    assert remembered_engine(settings) in {"", "podman2"}
    remember_engine(settings, "local")
    assert remembered_engine(settings) == "local"


@pytest.mark.parametrize("age_seconds", [0, 60])
def test_an_environment_that_was_deleted_in_part_is_not_taken_for_whole(
    tmp_path: Path, age_seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that was counted before, and is not counted again while its folders are the same."""
    tmp_path /= "airflow"
    package = tmp_path / "lib" / "python3.11" / "site-packages" / "airflow"
    package.mkdir(parents=True)
    for name in ("__init__.py", "models.py"):
        (package / name).touch()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    marker = tmp_path / airflow_install.MARKER
    marker.write_text('{"version": "3.3.2", "migration_head": "abc", "files": 4}')
    for folder in (tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())):
        os.utime(folder, (folder.stat().st_mtime - age_seconds,) * 2)
    assert airflow_install.installed_runtime(tmp_path, "key")
    with monkeypatch.context() as patch:
        patch.setattr(folders, "_counted", lambda _: (0, {}))
        is_counted = airflow_install.installed_runtime(tmp_path, "key") is None
    assert is_counted == (age_seconds == 0)
    # Byte code comes and goes.
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "models.pyc").touch()
    (package / "models.py").unlink()
    assert airflow_install.installed_runtime(tmp_path, "key") is None


def test_a_template_that_was_deleted_in_part_is_not_taken_for_whole(tmp_path: Path) -> None:
    data = tmp_path / airflow_metadata.DATA
    data.mkdir()
    for name in ("PG_VERSION", "1259"):
        (data / name).touch()
    assert not airflow_metadata.is_whole(tmp_path)
    (tmp_path / airflow_metadata.COUNT).write_text("2")
    assert airflow_metadata.is_whole(tmp_path)
    (data / "1259").unlink()
    assert not airflow_metadata.is_whole(tmp_path)


def test_a_command_that_stops_programs_waits_until_supervisord_has_killed_what_does_not_end() -> None:
    modules = (ROOT / "ops" / "pipectl" / "engines" / "local").glob("*.py")
    limits = [
        int(limit)
        for path in modules
        for limit in re.findall(r"stop_seconds=(\d+)", path.read_text(encoding="utf-8"))
    ]
    assert len(limits) >= 3
    assert max(limits) < supervisor.SHUTDOWN_SECONDS


def test_a_volume_that_is_a_link_is_not_deleted(tmp_path: Path) -> None:
    target = tmp_path / "bigger disk"
    target.mkdir()
    (target / "row").touch()
    volume = database_volume(tmp_path, "postgres")
    volume.path.parent.mkdir()
    volume.path.symlink_to(target)
    with pytest.raises(EngineError, match=r"is a link to .*bigger disk") as caught:
        volume.delete()
    # The remedy is about the link alone.
    assert f"rm {shlex.quote(str(volume.path))}" in caught.value.hint
    assert str(target) not in caught.value.hint
    assert volume.path.is_symlink()
    assert (target / "row").exists()
