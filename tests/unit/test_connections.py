"""`connections`: the forms and configurations of Airbyte's two sources."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import mysql.connector
import psycopg2
import pytest
from typer.testing import CliRunner

from pipectl import cli
from pipectl.commands import connections
from pipectl.documents import dump
from pipectl.errors import ExitCode
from pipectl.models import CaptureCheck, DatabaseAddress, ReplicationLogin
from pipectl.pipeline.change_capture import source_configurations
from support.json_schemas import validate

if TYPE_CHECKING:
    from pathlib import Path

SOURCES = source_configurations(
    DatabaseAddress("airbyte-postgres", "127.0.0.1", 5432, "airbyte", "docker", "docker"),
    DatabaseAddress("airbyte-mysql", "db.example", 3306, "data", "docker", "docker"),
    ReplicationLogin("airbyte", "sesame"),
    secrets=False,
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("dags", "stack"):
        (tmp_path / name).mkdir()
    (tmp_path / "stack" / ".env").write_text("AIRBYTE_REPLICATION_PASSWORD=sesame\nAIRBYTE_MYSQL_PORT=3307\n")
    return tmp_path


def run(project: Path, *arguments: str) -> Any:
    return CliRunner().invoke(
        cli.app, ["--project", str(project), "--engine", "local", "connections", *arguments]
    )


def test_configurations_are_what_airbyte_takes(project: Path) -> None:
    shared = {
        "username": "airbyte",
        "password": "********",
        "tunnel_method": {"tunnel_method": "NO_TUNNEL"},
    }
    assert json.loads(run(project, "--json").stdout) == {
        "postgres": {
            "host": "127.0.0.1",
            "port": 5432,
            "database": "airbyte",
            "schemas": ["public"],
            **shared,
            "ssl_mode": {"mode": "prefer"},
            "replication_method": {
                "method": "CDC",
                "plugin": "pgoutput",
                "replication_slot": "airbyte_slot",
                "publication": "airbyte_publication",
            },
        },
        "mysql": {
            "host": "127.0.0.1",
            "port": 3307,
            "database": "data",
            **shared,
            "ssl_mode": {"mode": "preferred"},
            "replication_method": {"method": "CDC", "server_timezone": "UTC"},
        },
    }


@pytest.mark.parametrize("checks", [None, (CaptureCheck("mysql", "login", True, "airbyte"),)])
def test_the_json_has_checks_only_if_they_were_asked_for(checks: tuple[CaptureCheck, ...] | None) -> None:
    written = json.loads(dump(replace(SOURCES, checks=checks)))
    validate("connections", written)
    assert written.get("checks") == (
        checks and [{"database": "mysql", "name": "login", "ok": True, "found": "airbyte", "remedy": ""}]
    )


def test_password_is_shown_only_when_asked_for(project: Path) -> None:
    assert "sesame" not in run(project).output
    assert "sesame" not in run(project, "--json").output
    assert "sesame" in run(project, "--show-secrets").output
    assert json.loads(run(project, "--json", "--show-secrets").stdout)["mysql"]["password"] == "sesame"


def test_form_has_airbytes_titles_in_airbytes_order(project: Path) -> None:
    lines = [" ".join(line.split()) for line in run(project).stdout.splitlines()]
    start = lines.index("Airbyte source Postgres")
    assert lines[start + 4 : start + 16] == [
        "Host 127.0.0.1",
        "Port 5432",
        "Database Name airbyte",
        "Schemas public",
        "Username airbyte",
        "Password ********",
        "SSL Modes prefer",
        "Update Method Read Changes (CDC)",
        "Plugin pgoutput",
        "Replication Slot airbyte_slot",
        "Publication airbyte_publication",
        "SSH Tunnel Method No Tunnel",
    ]


def test_failed_checks_say_what_was_found_and_what_to_do() -> None:
    from rich.console import Console

    stream = io.StringIO()
    checks = (
        CaptureCheck("postgres", "login", True, "airbyte, may replicate"),
        CaptureCheck(
            "mysql", "log kept", False, "1 days", "Set binlog_expire_logs_seconds to 604800 or more."
        ),
    )
    Console(file=stream, width=120).print(connections.result_text(replace(SOURCES, checks=checks)))
    lines = [" ".join(line.split()) for line in stream.getvalue().splitlines()]
    assert lines[-4:-1] == [
        "postgres login ok airbyte, may replicate",
        "mysql log kept failed 1 days",
        "→ Set binlog_expire_logs_seconds to 604800 or more.",
    ]


def test_slot_cannot_be_made_and_dropped_at_once(project: Path) -> None:
    done = run(project, "--create-slot", "--drop-slot")
    assert done.exit_code == ExitCode.USAGE
    assert "exclude each other" in done.output


def test_before_the_first_start_there_is_no_password_to_show(project: Path) -> None:
    (project / "stack" / ".env").unlink()
    done = run(project)
    assert done.exit_code == ExitCode.USAGE
    assert "has no AIRBYTE_REPLICATION_PASSWORD" in done.output
    assert "pipectl up" in done.output


def test_a_database_elsewhere_that_is_down_is_one_sentence_and_exit_5(project: Path) -> None:
    (project / "stack" / ".env").write_text(
        "AIRBYTE_REPLICATION_PASSWORD=sesame\nAIRBYTE_POSTGRES_PORT=1\nAIRBYTE_MYSQL_PORT=1\n"
        "AIRBYTE_POSTGRES_HOST=127.0.0.1\nAIRBYTE_MYSQL_HOST=127.0.0.1\n"
    )
    done = run(project, "--check")
    assert done.exit_code == ExitCode.DATABASE
    assert "PostgreSQL 'airbyte-postgres' at 127.0.0.1:1 does not answer" in done.output


@pytest.mark.parametrize("option", ["--create-slot", "--drop-slot", "--check"])
def test_a_refused_password_names_the_variable_that_holds_it(
    project: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    def refuse(**_: object) -> None:
        raise psycopg2.OperationalError('FATAL:  password authentication failed for user "airbyte"')

    def refuse_too(**_: object) -> None:
        raise mysql.connector.errors.ProgrammingError("Access denied for user 'airbyte'", errno=1045)

    monkeypatch.setattr(psycopg2, "connect", refuse)
    monkeypatch.setattr(mysql.connector, "connect", refuse_too)
    (project / "stack" / ".env").write_text(
        "AIRBYTE_REPLICATION_PASSWORD=other\nAIRBYTE_POSTGRES_HOST=db.example\nAIRBYTE_MYSQL_HOST=db.example\n"
    )
    done = run(project, option)
    assert done.exit_code in {ExitCode.DATABASE, ExitCode.VERIFICATION}
    assert "AIRBYTE_REPLICATION_PASSWORD in stack/.env" in " ".join(done.stderr.split())
    assert "AIRBYTE_POSTGRES_PASSWORD" not in done.output
