"""The interface that scripts rely on: exit codes, streams, and options that stand anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from pipectl import cli
from pipectl.errors import ExitCode, PipectlError

COMMANDS = (
    "up",
    "down",
    "reset",
    "scale",
    "status",
    "logs",
    "open",
    "verify-db",
    "load",
    "report",
    "connections",
    "trigger",
    "runs",
    "pause",
    "unpause",
)


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


def test_every_exit_code_is_in_the_readme() -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    for code in ExitCode:
        assert f"| {int(code)} |" in readme, code


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


@pytest.mark.usefixtures("project")
def test_reset_without_a_terminal_and_without_yes_refuses() -> None:
    done = run("--engine", "local", "reset")
    assert done.returncode == ExitCode.USAGE
    assert "nothing was deleted" in done.stderr
    assert "pipectl reset --yes" in done.stderr


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    "arguments", [("verify-db",), ("reset", "--data-only", "--yes"), ("reset", "--data-only", "--dry-run")]
)
def test_databases_that_do_not_run_are_exit_5_with_the_next_step(arguments: tuple[str, ...]) -> None:
    done = run("--engine", "local", *arguments)
    assert done.returncode == ExitCode.DATABASE
    assert "Not running in this project: airbyte-postgres and airbyte-mysql" in done.stderr
    assert "pipectl up" in done.stderr


def test_a_database_elsewhere_that_does_not_answer_is_exit_5(project: Path) -> None:
    (project / "stack" / ".env").write_text(
        "AIRBYTE_POSTGRES_HOST=127.0.0.1\nAIRBYTE_POSTGRES_PORT=1\nAIRBYTE_MYSQL_HOST=127.0.0.1\n"
    )
    done = run("--engine", "local", "verify-db")
    assert done.returncode == ExitCode.DATABASE
    assert "PostgreSQL 'airbyte-postgres' at 127.0.0.1:1 does not answer" in done.stderr


def test_no_reset_empties_a_database_that_runs_elsewhere(project: Path) -> None:
    (project / "stack" / ".env").write_text("AIRBYTE_POSTGRES_HOST=db.example\n")
    done = run("--engine", "local", "reset", "--data-only", "--yes")
    assert done.returncode == ExitCode.USAGE
    assert "airbyte-postgres runs elsewhere" in done.stderr


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("command", ["trigger", "runs", "pause", "unpause", "open"])
def test_airflow_that_does_not_run_is_exit_4_with_the_next_step(command: str) -> None:
    done = run("--engine", "local", command)
    assert done.returncode == ExitCode.AIRFLOW
    assert "This project's Airflow is not running" in done.stderr
    assert "pipectl up" in done.stderr


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("conf", ["{", "[1]"])
def test_parameters_that_are_no_json_object_are_a_usage_error(conf: str) -> None:
    done = run("--engine", "local", "trigger", "--conf", conf)
    assert done.returncode == ExitCode.USAGE
    assert "--conf" in done.stderr


def test_a_project_that_cannot_be_written_is_exit_3(project: Path) -> None:
    (project / ".pipectl").write_text("a file where a folder must be")
    done = run("--engine", "local", "up")
    assert done.returncode == ExitCode.ENGINE
    assert "cannot be written" in done.stderr


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
