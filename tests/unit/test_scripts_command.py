"""The scripts' command lines, without a database."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from fraud_pipeline.command import batch_of, moment_option
from fraud_pipeline.errors import SettingError
from fraud_pipeline.monitoring import Bounds, bounds_of

SCRIPTS = Path(__file__).parents[2] / "scripts"
NAMES = ("transaction_generator", "detection_generator", "history_loader")


def run(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-X", "importtime", str(SCRIPTS / f"{name}.py"), *arguments)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("name", NAMES)
def test_help_names_the_variables_and_loads_no_driver(name: str) -> None:
    told = run(name, "--help")

    assert told.returncode == 0
    assert "PIPECTL_BATCH_ID" in told.stdout
    assert "AIRBYTE_POSTGRES_HOST" in told.stdout
    assert "fraud_pipeline.command" in told.stderr
    assert "psycopg2" not in told.stderr
    assert "mysql.connector" not in told.stderr
    assert "numpy" not in told.stderr


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


def test_a_wrong_end_of_the_batch_is_one_sentence() -> None:
    for text in ("noon", "9999-12-31T23:59-23:00", "0001-01-01T00:10"):
        told = run("transaction_generator", PIPECTL_BATCH_UNTIL=text, PIPECTL_BATCH_ID="run 1")
        assert told.returncode == 2, told.stderr
        assert "Traceback" not in told.stderr
    assert (
        "PIPECTL_BATCH_UNTIL is wrong: 'noon' is no time"
        in run("transaction_generator", PIPECTL_BATCH_UNTIL="noon").stderr
    )


def test_batch_is_the_one_given_or_a_new_one() -> None:
    assert batch_of({"PIPECTL_BATCH_ID": "manual__1"}) == "manual__1"
    assert batch_of({}) != batch_of({"PIPECTL_BATCH_ID": ""})


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2026-01-31T12:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00+02:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
    ],
)
def test_time_without_an_offset_is_utc(text: str, meant: datetime) -> None:
    assert moment_option(text) == meant


@pytest.mark.parametrize(
    ("name", "arguments", "complaint"),
    [
        ("transaction_generator", ("--count", "0"), "0 is less than 1"),
        ("transaction_generator", ("--count", "many"), "--count"),
        ("transaction_generator", ("--since", "tomorrow"), "'tomorrow' is no time in ISO 8601"),
        ("transaction_generator", ("--since", "2026-01-02", "--until", "2026-01-01"), "which is after"),
        ("transaction_generator", ("--seed", "x"), "PIPECTL_SEED is 'x', which is no whole number"),
        ("detection_generator", ("--seed", str(2**63)), "does not fit into 64 bits"),
        ("history_loader", ("--shard", "3/2"), "'3/2' is no K/N with K from 1 to N"),
        ("history_loader", ("--shard", "one"), "'one' is no K/N"),
    ],
)
def test_wrong_option_is_a_usage_error_that_names_it(
    name: str, arguments: tuple[str, ...], complaint: str
) -> None:
    told = run(name, *arguments)

    assert told.returncode == 2
    assert complaint in told.stderr
    assert "Traceback" not in told.stderr


def test_bounds_of_alerts_are_read_from_the_environment() -> None:
    assert bounds_of({}) == Bounds(0.0005, 0.03, 3600)
    assert bounds_of({"PIPECTL_ALERT_FRAUD_RATE": "0.001:0.5", "PIPECTL_ALERT_LAG_SECONDS": "60"}) == Bounds(
        0.001, 0.5, 60
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PIPECTL_ALERT_FRAUD_RATE", "0.1"),
        ("PIPECTL_ALERT_FRAUD_RATE", "low:high"),
        ("PIPECTL_ALERT_LAG_SECONDS", "an hour"),
    ],
)
def test_bounds_that_are_none_are_refused_by_their_variable(variable: str, value: str) -> None:
    with pytest.raises(SettingError, match=f"^{variable} is '{value}'"):
        bounds_of({variable: value})
