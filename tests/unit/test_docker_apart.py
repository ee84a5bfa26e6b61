"""The container beside the stack, as the docker command gets it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from pipectl.engines.docker.apart import REPORT, docker_run
from pipectl.errors import UsageError

SERVICE: dict[str, Any] = {
    "image": "apache/airflow:3.3.2",
    "user": "50000:0",
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "environment": {
        "AIRBYTE_POSTGRES_PASSWORD": "secret-of-the-data",
        "AIRFLOW__API_AUTH__JWT_SECRET": "secret-of-the-stack",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://secret-of-the-stack",
        "AIRFLOW_ADMIN_PASSWORD": "secret-of-the-stack",
        "AIRBYTE_MYSQL_PORT": None,
    },
    "volumes": [
        {"type": "bind", "source": '/a, "b"/dags', "target": "/opt/airflow/dags", "read_only": True},
        {"type": "volume", "source": "airflow_bytecode", "target": "/opt/airflow/bytecode"},
        {"type": "volume", "source": "airflow_packages", "target": "/opt/airflow/packages"},
        {"type": "volume", "source": "airflow_logs", "target": "/opt/airflow/logs"},
    ],
}
VOLUMES = {"airflow_bytecode": "project_airflow_bytecode", "airflow_logs": "project_airflow_logs"}


def mounts(words: tuple[str, ...]) -> list[dict[str, str]]:
    """Return the mounts as the docker command reads them."""
    texts = [words[number + 1] for number, word in enumerate(words) if word == "--mount"]
    return [dict([*field.split("=", 1), ""][:2] for field in row) for row in csv.reader(texts)]


def test_no_secret_is_an_argument_and_those_of_the_stack_are_not_there_at_all() -> None:
    command = docker_run("unix:///s", SERVICE, VOLUMES, ("check_dags.py",), Path("/p"))
    assert "secret" not in " ".join(command.words)
    assert command.environment["AIRBYTE_POSTGRES_PASSWORD"] == "secret-of-the-data"
    assert "secret-of-the-stack" not in " ".join(command.environment.values())
    assert command.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == "sqlite://"
    assert "secret" not in repr(command)
    for name in ("AIRBYTE_POSTGRES_PASSWORD", "AIRBYTE_MYSQL_PORT"):
        assert command.words[command.words.index(name) - 1] == "--env"


def test_it_has_the_files_of_the_service_and_volumes_that_are_there() -> None:
    command = docker_run("unix:///s", SERVICE, VOLUMES, ("check_dags.py",), Path("/p"))
    assert mounts(command.words) == [
        {"type": "bind", "source": '/a, "b"/dags', "target": "/opt/airflow/dags", "readonly": ""},
        {"type": "volume", "source": "project_airflow_bytecode", "target": "/opt/airflow/bytecode"},
    ]
    assert "--cap-drop=ALL" in command.words
    assert "--rm" in command.words


def test_pytest_comes_from_this_machine_and_its_words_stay_as_they_are() -> None:
    program = ("run_tests.py", "-k", "a b", "--", "$HOME")
    command = docker_run("unix:///s", SERVICE, {}, program, Path("/p"), Path("/cache/pytest"))
    assert command.words[-4:] == program[1:]
    assert mounts(command.words)[-1] == {
        "type": "bind",
        "source": "/cache/pytest",
        "target": command.environment["PYTEST_FOLDER"],
        "readonly": "",
    }
    # Without a terminal on both sides there is none in the container.
    assert "--tty" not in command.words


@pytest.mark.parametrize("option", ["--junit-xml={}", "--junitxml={}", "--junit-xml {}"])
def test_a_report_of_pytests_is_a_file_of_this_machine(tmp_path: Path, option: str) -> None:
    words = ("run_tests.py", "-q", *option.format("reports/test.xml").split(), "-k", "x")
    command = docker_run("unix:///s", SERVICE, {}, words, tmp_path, Path("/cache/pytest"))
    report = tmp_path / "reports" / "test.xml"
    assert command.words[-len(words) :] == (
        "/opt/airflow/stack/run_tests.py",
        *("-q", *option.format(REPORT).split(), "-k", "x"),
    )
    assert mounts(command.words)[-1] == {"type": "bind", "source": str(report), "target": REPORT}
    # The container's user is another one.
    assert report.stat().st_mode & 0o777 == 0o666


def test_a_report_where_none_can_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("a file")
    with pytest.raises(UsageError, match=r"reports/test\.xml cannot be written"):
        docker_run(
            *("unix:///s", SERVICE, {}, ("run_tests.py", "--junit-xml=reports/test.xml")),
            *(tmp_path, Path("/cache/pytest")),
        )
