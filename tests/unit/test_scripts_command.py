"""The scripts' command lines, without a database."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from fraud_pipeline.command import batch_of

SCRIPTS = Path(__file__).parents[2] / "scripts"
NAMES = ("transaction_generator", "detection_generator")


def run(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-X", "importtime", str(SCRIPTS / f"{name}.py"), *arguments)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)


@pytest.mark.parametrize("name", NAMES)
def test_help_names_the_variables_and_loads_no_driver(name: str) -> None:
    told = run(name, "--help")

    assert told.returncode == 0
    assert "PIPECTL_BATCH_ID" in told.stdout
    assert "AIRBYTE_POSTGRES_HOST" in told.stdout
    assert "fraud_pipeline.command" in told.stderr
    assert "psycopg2" not in told.stderr
    assert "mysql.connector" not in told.stderr


@pytest.mark.parametrize("name", NAMES)
def test_unknown_option_is_a_usage_error(name: str) -> None:
    assert run(name, "--nope").returncode == 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("variable", "sentence"),
    [
        ("AIRBYTE_POSTGRES_PORT", "AIRBYTE_POSTGRES_PORT is 'x', which is no port from 1 to 65535."),
        ("PIPECTL_SEED", "PIPECTL_SEED is 'x', which is no whole number."),
    ],
)
def test_wrong_setting_is_one_sentence(name: str, variable: str, sentence: str) -> None:
    told = run(name, **{variable: "x", "PIPECTL_BATCH_ID": "run 1"})

    assert told.returncode == 2
    assert f'level=error event=failed batch="run 1" error="{sentence}"' in told.stderr
    assert "Traceback" not in told.stderr


def test_batch_is_the_one_given_or_a_new_one() -> None:
    assert batch_of({"PIPECTL_BATCH_ID": "manual__1"}) == "manual__1"
    assert batch_of({}) != batch_of({"PIPECTL_BATCH_ID": ""})
