"""A later Airflow tried beside the project: which versions, what the copy has, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from pipectl import cli
from pipectl.engines import pytest_layer
from pipectl.engines.foreground import Command
from pipectl.engines.local import airflow_lock, uv
from pipectl.engines.local.airflow_lock import PackageChange, age, package_changes, relock
from pipectl.errors import EngineError, ExitCode, MigrationError, UsageError
from pipectl.models import Service
from pipectl.observer import Observer
from pipectl.pipeline import airflow_trial, checking
from pipectl.pipeline.airflow_trial import Trial, TrialStep, try_airflow
from pipectl.pipeline.checking import Check, CheckedFile, Finding
from pipectl.settings import Settings
from support import ROOT
from support.fake_engine import FakeEngine

if TYPE_CHECKING:
    from collections.abc import Callable

LOCK = "apache-airflow-core==3.3.2 \\\n    --hash=sha256:0\nattrs==1.0\ngone==1 ; python_version < '3'\n"
DAG = "generate_transaction_and_labels"
CHECK = Check("3.4.0", "3.13", 1.0, (CheckedFile("dags/a.py", (DAG,), 0.1),), (), 0, ())
PASSED = TrialStep("passed", 1.0, "well")
FAILED = TrialStep("failed", 1.0, "not well", "the last line")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    project = tmp_path / "my shop"
    (project / "stack" / "airflow").mkdir(parents=True)
    (project / "dags" / "__pycache__").mkdir(parents=True)
    (project / ".pipectl").mkdir()
    (project / "stack" / "airflow-requirements.txt").write_text(LOCK)
    (project / "stack" / "airflow-requirements.in").write_text("# why\napache-airflow-core==3.3.2\nasyncpg\n")
    (project / "stack" / ".env").write_text("AIRBYTE_POSTGRES_HOST=db.example.com\n")
    (project / "requirements.txt").write_text("numpy\n")
    (project / ".secret").write_text("s")
    (project / "dump.sql").write_text("gigabytes")
    return Settings(
        project=project,
        engine="local",
        cache_dir=tmp_path / "cache",
        variables={
            "AIRBYTE_POSTGRES_HOST": "db.example.com",
            "AIRBYTE_POSTGRES_PASSWORD": "theirs",
            "AIRFLOW_FERNET_KEY": "key",
            "AIRFLOW_JWT_SECRET": "identity",
            "AIRFLOW_PORT": "8080",
            "PIPECTL_ALERT_WEBHOOK": "https://alerts.example.com",
            "PIPECTL_SEED": "7",
        },
    )


def test_the_lock_of_a_trial_is_made_as_the_projects_own_is() -> None:
    script = (ROOT / "ops" / "lock.sh").read_text(encoding="utf-8").replace("\\\n", " ")
    words = next(line.split() for line in script.splitlines() if line.endswith('"$@"'))
    assert tuple(words[words.index("pip") : -1]) == airflow_lock.WORDS
    names = airflow_lock.SOURCE, airflow_lock.OVERRIDES, airflow_lock.LOCK
    own = "pin stack/{} --override stack/{} --output-file stack/{}".format(*names)
    assert own in script.splitlines()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("3.3.2", "has Airflow 3.3.2 already"),
        ("3.3.1", "3.3.1 is older than the project's 3.3.2"),
        ("3.3.2rc1", "3.3.2rc1 is older"),
        ("2.11.0", "2.11.0 is older"),
        ("3.4", "'3.4' is no version of Airflow"),
        ("latest", "'latest' is no version of Airflow"),
        ("", "'' is no version of Airflow"),
    ],
)
def test_a_version_that_is_not_later_is_refused_in_one_sentence(
    settings: Settings, version: str, words: str
) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        try_airflow(FakeEngine(settings), settings, version, Observer())
    assert "pipectl upgrade --try-airflow" in refused.value.hint


def test_versions_are_ordered_as_airflow_releases_them() -> None:
    ordered = ["3.3.2", "3.3.10", "3.4.0a1", "3.4.0b2", "3.4.0b10", "3.4.0rc1", "3.4.0", "4.0.0"]
    assert sorted(sorted(ordered), key=age) == ordered


def test_the_new_lock_begins_with_the_old_one_and_pins_the_version(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    def run(words: tuple[str, ...], failure: EngineError) -> None:
        del failure
        asked.append(words)

    monkeypatch.setattr(uv, "run", run)
    stack = settings.project / "stack"
    relock(stack, "3.4.0b2")
    source = (stack / "airflow-requirements.in").read_text().split()
    assert source == [
        *("#", "why", "asyncpg", "apache-airflow-core==3.4.0b2"),
        "apache-airflow-task-sdk>=1.4.0a0",
    ]
    # uv keeps what its output file has.
    assert asked[0][-2:] == ("--output-file", str(stack / "airflow-requirements.txt"))
    assert (stack / "airflow-requirements.txt").read_text() == LOCK
    relock(stack, "3.4.0")
    assert "task-sdk" not in (stack / "airflow-requirements.in").read_text().split("3.4.0\n")[-1]


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (
            "Because there is no version of\n apache-airflow-core==3.9.9 and you require it",
            UsageError,
            "There is no Airflow 3.9.9",
        ),
        ("No solution found: numpy<2 and pandas", UsageError, "does not go with Airflow 3.9.9"),
        ("error: Failed to fetch", EngineError, "could not be found out"),
    ],
)
def test_what_uv_says_becomes_one_sentence(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    kind: type[Exception],
    words: str,
) -> None:
    def run(_: tuple[str, ...], failure: EngineError) -> None:
        failure.detail = said
        raise failure

    monkeypatch.setattr(uv, "run", run)
    with pytest.raises(kind, match=words):
        relock(settings.project / "stack", "3.9.9")


def test_packages_that_change_are_listed_by_name() -> None:
    after = "apache-airflow-core==3.4.0 \\\n    --hash=sha256:1\nattrs==1.0\nnew==2\n"
    assert package_changes(LOCK, after) == (
        PackageChange("apache-airflow-core", "3.3.2", "3.4.0"),
        PackageChange("gone", "1", ""),
        PackageChange("new", "", "2"),
    )


class FakeTrial(FakeEngine):
    """Stands for the copy's engine, and remembers what became of it."""

    told: list[str]

    def start(self, observer: Observer, only: object = ()) -> tuple[str, ...]:
        del observer, only
        self.told.append("start")
        return ()

    def stop(self) -> tuple[str, ...]:
        self.told.append("stop")
        return ()

    def delete_volumes(self) -> None:
        self.told.append("delete")


@pytest.fixture
def told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace all that reaches out: the copy's engine, uv, programs and databases."""
    told: list[str] = []
    FakeTrial.told = told

    def lock(stack: Path, version: str) -> None:
        told.append(str(stack.parent))
        (stack / "airflow-requirements.txt").write_text(LOCK.replace("3.3.2", version))

    def done(command: Command, skip: int | None = None) -> TrialStep:
        told.append(f"{command.words[0]} {skip}")
        return PASSED

    for name, value in {
        "LocalEngine": FakeTrial,
        "_outcome": done,
        "dump": lambda *_: told.append("dump"),
        "load": lambda *_: told.append("load"),
        "pg_restore_for": lambda *_: None,
        "airflow_command": lambda trial, words, _: Command(words, {}, trial.project),
    }.items():
        monkeypatch.setattr(airflow_trial, name, value)
    monkeypatch.setattr(airflow_lock, "relock", lock)
    monkeypatch.setattr(checking, "check", lambda *_, **__: CHECK)
    monkeypatch.setattr(pytest_layer, "ensure", lambda *_: settings.cache_dir)
    settings.cache_dir.mkdir()
    return told


def test_all_steps_are_taken_on_a_copy_that_is_deleted(settings: Settings, told: list[str]) -> None:
    before = files(settings.project)
    trial = try_airflow(FakeEngine(settings), settings, "3.4.0", Observer())
    copy, *steps = told
    assert steps == ["run_tests.py 5", "dump", "start", "load", "start", "dags None", "stop", "delete"]
    assert not Path(copy).exists()
    assert files(settings.project) == before
    assert (trial.before, trial.after, trial.packages) == (
        *("3.3.2", "3.4.0"),
        (PackageChange("apache-airflow-core", "3.3.2", "3.4.0"),),
    )
    assert trial.lock.read_text() == LOCK.replace("3.3.2", "3.4.0")
    assert trial.lock.parent == settings.cache_dir


def test_the_copy_has_the_project_and_its_key_and_nothing_that_leads_to_its_data(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    seen: list[tuple[dict[str, bytes], dict[str, str]]] = []

    class Looking(FakeTrial):
        def install(self, observer: Observer) -> None:
            del observer
            seen.append((files(self.settings.project), self.settings.variables))
            raise KeyboardInterrupt

    monkeypatch.setattr(airflow_trial, "LocalEngine", Looking)
    with pytest.raises(KeyboardInterrupt):
        try_airflow(FakeEngine(settings), settings, "3.4.0", Observer())
    [(copied, variables)] = seen
    assert copied.keys() == {
        "requirements.txt",
        "stack/airflow-requirements.in",
        "stack/airflow-requirements.txt",
    }
    assert variables == {"AIRFLOW_FERNET_KEY": "key", "PIPECTL_SEED": "7"}
    assert told[1:] == ["stop", "delete"]
    assert not Path(told[0]).exists()


def test_without_a_running_metadata_database_nothing_is_tried(settings: Settings, told: list[str]) -> None:
    class Stopped(FakeEngine):
        def services(self) -> tuple[Service, ...]:
            return (Service("postgres", "stopped"),)

    with pytest.raises(EngineError, match="is not running") as refused:
        try_airflow(Stopped(settings), settings, "3.4.0", Observer())
    assert "pipectl up" in refused.value.hint
    assert told == []


def test_a_failed_migration_is_told_and_no_run_follows(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    class Failing(FakeTrial):
        def start(self, observer: Observer, only: object = ()) -> tuple[str, ...]:
            if "load" in self.told:
                raise MigrationError("It could not be migrated.", detail="a column is missing")
            return super().start(observer, only)

    monkeypatch.setattr(airflow_trial, "LocalEngine", Failing)
    trial = try_airflow(FakeEngine(settings), settings, "3.4.0", Observer())
    assert (trial.migration.outcome, trial.migration.detail) == ("failed", "a column is missing")
    assert (trial.run.outcome, "dags None" in told) == ("skipped", False)


def test_a_pipeline_that_the_project_has_not_is_not_run(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    monkeypatch.setattr(checking, "check", lambda *_, **__: replace(CHECK, files=()))
    trial = try_airflow(FakeEngine(settings), settings, "3.4.0", Observer())
    assert trial.run.outcome == "skipped"
    assert "PIPECTL_DAG_ID" in trial.run.message
    assert "dags None" not in told


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda trial: trial, ExitCode.DONE, "pipectl snapshot save before-airflow-3.4.0"),
        (lambda trial: trial, ExitCode.DONE, "cp '/c c/lock.txt' /shop/stack/airflow-requirements.txt"),
        (lambda trial: replace(trial, engine="docker"), ExitCode.DONE, "AIRFLOW_IMAGE=apache/airflow:3.4.0"),
        (
            lambda trial: replace(
                trial, check=replace(CHECK, findings=(Finding("dags/a.py", 3, "error", "import", "No x."),))
            ),
            ExitCode.DAG,
            "dags/a.py:3: error: No x.",
        ),
        (lambda trial: replace(trial, tests=FAILED), ExitCode.DAG, "tests fail with Airflow 3.4.0"),
        (lambda trial: replace(trial, migration=FAILED), ExitCode.ENGINE, "not well"),
        (lambda trial: replace(trial, run=FAILED), ExitCode.RUN_FAILED, "The run fails with Airflow 3.4.0"),
    ],
)
def test_the_end_says_what_was_found_and_what_to_type(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Trial], Trial],
    code: ExitCode,
    words: str,
) -> None:
    packages = (PackageChange("apache-airflow-core", "3.3.2", "3.4.0"),)
    trial = Trial(
        Path("/shop"),
        "local",
        "3.3.2",
        "3.4.0",
        Path("/c c/lock.txt"),
        packages,
        CHECK,
        PASSED,
        PASSED,
        PASSED,
    )
    monkeypatch.setattr(airflow_trial, "try_airflow", lambda *_: change(trial))
    done = CliRunner().invoke(
        cli.app,
        ["--project", str(settings.project), "--engine", "local", "upgrade", "--try-airflow", "3.4.0"],
    )
    assert done.exit_code == code, done.output
    assert words in done.output
    assert ("To change to Airflow 3.4.0" in done.output) == (code == ExitCode.DONE)
