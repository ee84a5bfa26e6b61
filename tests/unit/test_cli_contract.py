"""The interface that scripts rely on: exit codes, streams, and options that stand anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
import typer
from typer.testing import CliRunner

from pipectl import cli
from pipectl.commands import COMMANDS
from pipectl.commands.trigger import logical_dates
from pipectl.errors import AirflowError, ExitCode, PipectlError
from pipectl.models import AirflowAddress

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("dags", "stack"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipectl", *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "200"},
    )


def test_outside_a_project_the_user_is_told_where_to_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("status")
    assert done.returncode == ExitCode.USAGE
    assert "is not in a pipectl project" in done.stderr
    assert "--project" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [("--engine", "podman", "status"), ("status", "--engine=podman")])
@pytest.mark.usefixtures("project")
def test_an_unknown_engine_is_a_usage_error_before_and_after_the_command(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == ExitCode.USAGE
    assert "no engine 'podman'" in done.stderr
    assert "auto, docker, local" in done.stderr


def test_a_broken_env_file_is_named_with_its_line_and_without_its_secret(project: Path) -> None:
    (project / "stack" / ".env").write_text("AIRFLOW_PORT=8080\nthis is no assignment sesame\n")
    done = run("status")
    assert done.returncode == ExitCode.USAGE
    assert ".env, line 2, is not NAME=value" in done.stderr
    assert "sesame" not in done.stderr


def test_a_port_that_is_none_is_named_with_its_variable(project: Path) -> None:
    (project / "stack" / ".env").write_text("AIRFLOW_PORT=eighty\n")
    done = run("status")
    assert done.returncode == ExitCode.USAGE
    assert "AIRFLOW_PORT='eighty'" in done.stderr


@pytest.mark.usefixtures("project")
def test_errors_in_json_go_to_stderr_and_leave_stdout_empty() -> None:
    done = run("status", "--json", "--engine", "podman")
    assert done.stdout == ""
    error = json.loads(done.stderr)["error"]
    assert (error["code"], error["kind"]) == (2, "usage")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--json", "status", "--nonsense"),
        ("logs", "--tail", "many", "--json"),
        ("nonsense", "--json"),
        ("--nonsense", "--json"),
    ],
)
def test_with_json_an_error_of_the_command_line_is_a_document(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (ExitCode.USAGE, "")
    error = json.loads(done.stderr)["error"]
    assert (error["code"], error["kind"]) == (2, "usage")
    assert "--help" in error["hint"]


@pytest.mark.usefixtures("project")
def test_an_unknown_executor_is_told_the_known_ones() -> None:
    done = run("--engine", "local", "up", "--executor", "foo")
    assert done.returncode == ExitCode.USAGE
    assert "'foo' is not one of 'local', 'celery'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("trigger", ""), "An argument"),
        (("trigger", "--", ""), "An argument"),
        (("pause", ""), "An argument"),
        (("runs", "mine", ""), "An argument"),
        (("logs", ""), "An argument"),
        (("--project", "", "reset", "--yes"), "The value of --project"),
        (("reset", "--yes", "--project="), "The value of --project"),
        (("status", "--engine", ""), "The value of --engine"),
        (("report", "--html", ""), "The value of --html"),
        (("report", "--html="), "The value of --html"),
        (("trigger", "--conf", ""), "The value of --conf"),
        (("logs", "-n", ""), "The value of -n"),
    ],
)
def test_an_empty_value_means_nothing_and_is_refused(
    project: Path, arguments: tuple[str, ...], named: str
) -> None:
    (project / ".pipectl" / "volumes" / "airbyte-mysql").mkdir(parents=True)
    done = run("--engine", "local", *arguments)
    assert done.returncode == ExitCode.USAGE
    assert f"{named} is empty" in done.stderr
    assert (project / ".pipectl" / "volumes" / "airbyte-mysql").is_dir()


@pytest.mark.usefixtures("project")
def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PROJECT", "ENGINE", "JSON", "QUIET", "VERBOSE", "DAG_ID", "CACHE_DIR"):
        monkeypatch.setenv(f"PIPECTL_{name}", "")
    done = run("down", "--dry-run")
    assert done.returncode == ExitCode.DONE, done.stderr


def test_nobody_is_asked_about_no_data(project: Path) -> None:
    done = run("--engine", "local", "down", "--volumes")
    assert done.returncode == ExitCode.DONE, done.stderr
    assert not (project / ".pipectl" / "volumes").exists()


def test_reset_without_a_terminal_and_without_yes_refuses(project: Path) -> None:
    (project / ".pipectl" / "volumes" / "airbyte-mysql").mkdir(parents=True)
    done = run("--engine", "local", "reset")
    assert done.returncode == ExitCode.USAGE
    assert "nothing was deleted" in done.stderr
    assert "pipectl reset --yes" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify-db",),
        ("report",),
        ("load",),
        ("connections", "--check"),
        ("connections", "--create-slot"),
        ("connections", "--drop-slot"),
        ("reset", "--data-only", "--yes"),
        ("reset", "--data-only", "--dry-run"),
        ("reset", "--data-only", "--propagate", "--yes"),
    ],
)
def test_databases_that_do_not_run_are_exit_5_with_the_next_step(
    project: Path, arguments: tuple[str, ...]
) -> None:
    (project / "stack" / ".env").write_text("AIRBYTE_REPLICATION_PASSWORD=x\n")
    done = run("--engine", "local", *arguments)
    assert done.returncode == ExitCode.DATABASE
    assert "Not running in this project: airbyte-postgres and airbyte-mysql" in done.stderr
    assert "pipectl up" in done.stderr


@pytest.mark.usefixtures("project")
def test_a_stack_that_does_not_run_is_not_restarted() -> None:
    done = run("--engine", "local", "restart", "scheduler")
    assert done.returncode == ExitCode.ENGINE
    assert "The stack is not running." in done.stderr
    assert "pipectl up" in done.stderr


def test_a_database_elsewhere_that_does_not_answer_is_exit_5(project: Path) -> None:
    (project / "stack" / ".env").write_text(
        "AIRBYTE_POSTGRES_HOST=127.0.0.1\nAIRBYTE_POSTGRES_PORT=1\n"
        "AIRBYTE_MYSQL_HOST=127.0.0.1\nAIRBYTE_MYSQL_PORT=1\n"
    )
    done = run("--engine", "local", "verify-db")
    assert done.returncode == ExitCode.DATABASE
    assert "MySQL 'airbyte-mysql' at 127.0.0.1:1 does not answer" in done.stderr


def test_no_reset_empties_a_database_that_runs_elsewhere(project: Path) -> None:
    (project / "stack" / ".env").write_text("AIRBYTE_POSTGRES_HOST=db.example\n")
    done = run("--engine", "local", "reset", "--data-only", "--yes")
    assert done.returncode == ExitCode.USAGE
    assert "airbyte-postgres runs elsewhere" in done.stderr


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    "command",
    [
        "trigger",
        "dags",
        "runs",
        "task-log a b c",
        "clear a b",
        "cancel",
        "backfill --from 2026-01-01",
        "pause",
        "unpause",
        "open",
    ],
)
def test_airflow_that_does_not_run_is_exit_4_with_the_next_step(command: str) -> None:
    done = run("--engine", "local", *command.split())
    assert done.returncode == ExitCode.AIRFLOW
    assert "This project's Airflow is not running" in done.stderr
    assert "pipectl up" in done.stderr


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("conf", ["{", "[1]"])
def test_parameters_that_are_no_json_object_are_a_usage_error(conf: str) -> None:
    done = run("--engine", "local", "trigger", "--conf", conf)
    assert done.returncode == ExitCode.USAGE
    assert "--conf" in done.stderr


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    "options",
    [
        ("--logical-date", "tomorrow"),
        ("--logical-date", "2126-01-31"),
        ("--logical-date", "2026-01-31", "--no-logical-date"),
        ("--logical-date", "2026-01-31", "--repeat", "2"),
        ("--follow", "--no-wait"),
    ],
)
def test_options_of_a_trigger_that_mean_nothing_together_are_a_usage_error(options: tuple[str, ...]) -> None:
    done = run("--engine", "local", "trigger", *options)
    assert done.returncode == ExitCode.USAGE
    assert options[0] in done.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T06:30+01:00", datetime(2026, 1, 31, 5, 30, tzinfo=UTC)),
    ],
)
def test_a_logical_date_without_a_time_zone_is_of_utc(text: str, expected: datetime) -> None:
    assert logical_dates(text, none=False, repeat=1)() == expected


def test_each_run_has_a_logical_date_of_its_own_unless_there_shall_be_none() -> None:
    before = datetime.now(UTC)
    date_of = logical_dates(None, none=False, repeat=2)
    first, second = date_of(), date_of()
    assert first is not None
    assert second is not None
    assert before <= first <= second
    assert logical_dates(None, none=True, repeat=2)() is None


def test_a_project_that_cannot_be_written_is_exit_3(project: Path) -> None:
    (project / ".pipectl").write_text("a file where a folder must be")
    done = run("--engine", "local", "up")
    assert done.returncode == ExitCode.ENGINE
    assert "cannot be written" in done.stderr


class AskedAirflow:
    """Stands for Airflow's REST API, and notes of which DAG it was asked."""

    asked: str = ""

    def __init__(self, address: AirflowAddress, *_: object) -> None:
        self.address = address

    def set_paused(self, dag_id: str, *, paused: bool) -> None:
        del paused
        AskedAirflow.asked = dag_id

    def runs_and_total(self, dag_id: str, limit: int) -> tuple[tuple[()], int]:
        del limit
        AskedAirflow.asked = dag_id
        return (), 0

    def dags(self) -> tuple[()]:
        return ()

    def dag(self, dag_id: str) -> None:
        AskedAirflow.asked = dag_id
        raise AirflowError("Asked enough.")


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> type[AskedAirflow]:
    monkeypatch.setattr("pipectl.airflow_api.AirflowApi", AskedAirflow)
    monkeypatch.setattr(
        "pipectl.pipeline.access.airflow_address",
        lambda _: AirflowAddress("http://127.0.0.1:8080", "admin", "admin"),
    )
    monkeypatch.setattr(AskedAirflow, "asked", "")
    return AskedAirflow


@pytest.mark.parametrize("command", ["trigger", "runs", "pause", "unpause"])
@pytest.mark.parametrize(
    ("variable", "written", "argument", "expected"),
    [
        ("", "", "", "generate_transaction_and_labels"),
        ("", "PIPECTL_DAG_ID=written\n", "", "written"),
        ("exported", "PIPECTL_DAG_ID=written\n", "", "exported"),
        ("exported", "PIPECTL_DAG_ID=written\n", "named", "named"),
    ],
)
def test_the_dag_is_the_argument_or_the_environment_or_the_file_or_the_pipelines(
    command: str,
    variable: str,
    written: str,
    argument: str,
    expected: str,
    project: Path,
    airflow: type[AskedAirflow],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (project / "stack" / ".env").write_text(written)
    if variable:
        monkeypatch.setenv("PIPECTL_DAG_ID", variable)
    arguments = ["--engine", "local", command, *([argument] if argument else [])]
    done = CliRunner().invoke(cli.app, arguments)
    assert airflow.asked == expected, done.output


@pytest.mark.parametrize("command", ["trigger", "runs", "cancel", "backfill", "pause", "unpause"])
def test_help_says_where_the_default_dag_comes_from(command: str) -> None:
    words = " ".join(run(command, "--help").stdout.split())
    assert "PIPECTL_DAG_ID in the environment or stack/.env" in words


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["status", "--help"], ["connections"]])
def test_a_reader_that_has_gone_is_no_failure(arguments: list[str], project: Path) -> None:
    (project / "stack" / ".env").write_text("AIRBYTE_REPLICATION_PASSWORD=sesame\n")
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pipectl", "--engine", "local", *arguments],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_command_is_imported_only_when_it_is_called() -> None:
    code = (
        "import sys; from pipectl import cli; cli.app(['down', '--help'], standalone_mode=False); "
        "print(*(name for name in sys.modules if name.startswith('pipectl.commands.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.splitlines()[-1].split())
    assert imported == {"pipectl.commands.down", "pipectl.commands.shared"}


def test_what_nobody_gives_is_not_converted(tmp_path: Path) -> None:
    code = (
        "import atexit, sys; from pipectl import cli; sys.argv = ['pipectl', *sys.argv[1:]];"
        " atexit.register(lambda: print('pydantic' in sys.modules)); cli.main()"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIPECTL_")}
    for arguments, converted in (
        (("up",), "False"),
        (("up", "--engine", "local"), "False"),
        (("up", "--project", str(tmp_path)), "False"),
        (("up", "--timeout", "9"), "True"),
        (("trigger", "--no-wait"), "False"),
        (("trigger", "--conf", "a=1", "--conf", "b=2"), "False"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout.strip()) == (ExitCode.USAGE, converted), done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(command: str) -> None:
    done = CliRunner().invoke(cli.app, [command, "--help"])
    assert done.exit_code == 0
    assert "Examples:" in done.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["status", "--json"], ["--json", "status"]),
        (["trigger", "--project", "x", "dag"], ["--project", "x", "trigger", "dag"]),
        (["up", "--engine=local", "-q"], ["--engine=local", "-q", "up"]),
        (["logs", "--", "--json"], ["logs", "--", "--json"]),
        (["status", "--project"], ["--project", "status"]),
    ],
)
def test_global_options_are_moved_to_the_front(arguments: list[str], expected: list[str]) -> None:
    assert cli.hoist(arguments) == expected


@pytest.fixture
def raising() -> typer.Typer:
    app = typer.Typer(cls=cli.Root, pretty_exceptions_enable=False)

    @app.command()
    def bug() -> None:
        raise ValueError("what nobody thought of")

    @app.command()
    def interrupted() -> None:
        raise KeyboardInterrupt

    @app.command()
    def failing() -> None:
        raise PipectlError("It went wrong.")

    return app


def test_a_bug_is_one_sentence_and_exit_1(raising: typer.Typer) -> None:
    done = CliRunner().invoke(raising, ["bug"])
    assert done.exit_code == ExitCode.BUG
    assert "pipectl has a bug: ValueError: what nobody thought of" in done.output
    assert "Traceback" not in done.output


def test_ctrl_c_is_exit_130(raising: typer.Typer) -> None:
    assert CliRunner().invoke(raising, ["interrupted"]).exit_code == ExitCode.INTERRUPTED


@pytest.mark.parametrize(
    "variables",
    [
        {"_PIPECTL_COMPLETE": "nonsense"},
        {"_PIPECTL_COMPLETE": "complete_nonsense"},
        {"_PIPECTL_COMPLETE": "complete_bash"},
        {"_PIPECTL_COMPLETE": "complete_bash", "COMP_WORDS": "pipectl st", "COMP_CWORD": "second"},
    ],
)
def test_what_completes_no_command_line_is_a_usage_error(variables: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipectl"],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "shell", "told"),
    [
        (("zsh",), "/bin/bash", "compdef"),
        (("fish",), "/bin/bash", "complete --command pipectl"),
        ((), "/usr/bin/fish", "complete --command pipectl"),
        (("--json",), "/bin/zsh", "compdef"),
    ],
)
def test_the_script_of_a_shell_is_shown_by_its_name_or_that_of_the_environment(
    words: tuple[str, ...], shell: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELL", shell)
    done = CliRunner().invoke(cli.app, ["--show-completion", *words])
    assert (done.exit_code, told in done.output) == (0, True), done.output


@pytest.mark.parametrize("option", ["--show-completion", "--install-completion"])
@pytest.mark.parametrize(
    ("words", "shell", "told"),
    [
        (["nosuch"], "/bin/bash", "There is no completion for the shell 'nosuch'."),
        ([], "/bin/sh", "There is no completion for the shell 'sh'."),
        ([], "", "$SHELL names no shell."),
    ],
)
def test_an_unknown_shell_is_refused_with_those_that_are_known(
    option: str, words: list[str], shell: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELL", shell)
    done = CliRunner().invoke(cli.app, [option, *words])
    assert done.exit_code == ExitCode.USAGE
    assert told in done.output
    assert "Name bash, zsh or fish, as in: pipectl --install-completion bash" in done.output


def test_a_completion_that_cannot_be_installed_names_the_file() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipectl", "--install-completion", "bash"],
        env=os.environ | {"HOME": "/proc"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (ExitCode.ENGINE, "")
    assert "A file cannot be used: /proc/.bash" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("snapshot", "lst"), ("'lst' is not one of 'save', 'list', 'restore', 'rm'.", "Did you mean list?")),
        (("snapshot", "list", "--portable"), ("--portable goes with save.",)),
        (("snapshot", "list", "--keep-slots"), ("--keep-slots and --drop-slots go with restore.",)),
        (("snapshot", "list", "--wait", "3"), ("--wait goes with save.",)),
        (("snapshot",), ("Missing argument 'action'. Choose from: save, list, restore, rm",)),
        (("up", "--timeout", "abc"), ("Invalid value for '--timeout': this is no number.",)),
        (("status", "--watch", "abc"), ("this is no number.",)),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line_and_no_librarys_words(
    words: tuple[str, ...], told: tuple[str, ...]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipectl", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert all(part in done.stderr for part in told), done.stderr
    assert not any(part in done.stderr for part in ("Value error", "Input should", "unable to parse"))
    assert len(done.stderr.splitlines()) == 2


def test_checks_of_the_doctors_may_be_named_one_by_one() -> None:
    words = ("doctor", "--only", "clock", "--only", "locale,memory", "--json")
    done = subprocess.run(
        [sys.executable, "-m", "pipectl", *words], capture_output=True, text=True, check=False
    )
    assert {each["id"] for each in json.loads(done.stdout)["checks"]} == {"clock", "locale", "memory"}
