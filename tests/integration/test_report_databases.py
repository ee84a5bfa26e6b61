"""`report` on a real PostgreSQL and a real MySQL-protocol server with rows that are known."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from pipectl import cli
from pipectl.databases import Databases
from pipectl.errors import ExitCode
from pipectl.pipeline import reporting
from pipectl.pipeline.reporting import Labels
from support.needs import need_program

if TYPE_CHECKING:
    from pathlib import Path

    from pipectl.pipeline.reporting import Report
    from support.script_servers import Servers

pytest_plugins = ["support.script_servers"]
pytestmark = pytest.mark.integration

INSERT = """
    INSERT INTO public.transactions (transaction_id, tx_time, customer_id, card_id, terminal_id, mcc, amount,
                                     currency, channel, country, lat, lon, status, created_at)
    SELECT number, %s::timestamptz, 1, 11, 1, 5411, %s, 'EUR', 'pos', 'DE', 50, 10, 'approved',
           %s::timestamptz
    FROM generate_series(%s, %s) AS number"""
LABEL = """
    INSERT INTO fraud_labels (transaction_id, is_fraud, fraud_type, confidence, label_source, detected_at,
                              created_at, updated_at)
    VALUES (%s, %s, %s, 0.9, 'generator', '2026-05-04 10:00:00', %s, %s)"""


@pytest.fixture
def known(servers: Servers) -> Servers:
    """Ten transactions at 10 and five at 1,000 of another hour; the last of these is a stolen card."""
    servers.run("transaction_generator")
    servers.run("detection_generator")
    servers.ask_postgres("TRUNCATE public.transactions, sim.ground_truth")
    servers.ask_mysql("TRUNCATE TABLE fraud_labels")
    servers.ask_postgres(INSERT, "2026-05-04 08:10+00", 10, "2026-05-04 08:30:00+00", 1, 10)
    servers.ask_postgres(INSERT, "2026-05-04 23:59+00", 1000, "2026-05-05 00:30:00+00", 11, 15)
    servers.ask_postgres("INSERT INTO sim.ground_truth VALUES (15, 'stolen_card')")
    for number in range(1, 15):
        when = "2026-05-04 08:30:02.5" if number <= 10 else "2026-05-05 00:30:10"
        servers.ask_mysql(LABEL, number, 0, None, when, when)
    return servers


def report(servers: Servers) -> Report:
    return reporting.build(Databases(*servers.addresses))


def project(servers: Servers, folder: Path) -> Path:
    for name in ("dags", "stack"):
        (folder / name).mkdir(parents=True)
    (folder / "stack" / ".env").write_text(
        f"AIRBYTE_POSTGRES_HOST=127.0.0.1\nAIRBYTE_POSTGRES_PORT={servers.postgres_port}\n"
        f"AIRBYTE_MYSQL_HOST=127.0.0.1\nAIRBYTE_MYSQL_PORT={servers.mysql_port}\n"
    )
    return folder


def run(folder: Path, *arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["--project", str(folder), "--engine", "local", "report", *arguments])


def test_known_rows_give_known_numbers(known: Servers) -> None:
    known.ask_mysql(LABEL, 15, 1, "stolen_card", "2026-05-05 00:30:10", "2026-05-06 00:00:00")

    found = report(known)

    assert (found.transactions, found.frauds, found.unlabelled, found.orphans) == (15, 1, 0, 0)
    assert found.labels == Labels(labels=15, frauds=1, revised=1)
    assert [(hour.start.isoformat(), hour.transactions, hour.frauds) for hour in found.hours] == [
        ("2026-05-04T08:00:00+00:00", 10, 0),
        ("2026-05-04T23:00:00+00:00", 5, 1),
    ]
    honest, stolen = found.amounts
    assert (honest.scenario, honest.transactions, honest.labelled) == ("", 14, 14)
    assert (stolen.scenario, stolen.transactions, stolen.labelled) == ("stolen_card", 1, 1)
    assert (honest.median, honest.p75, honest.p95, stolen.median) == (10, 752.5, 1000, 1000)
    assert [(item.low, item.high, item.transactions) for item in honest.bins if item.transactions] == [
        (10.0, 13.34, 10),
        (1000.0, 1334.0, 4),
    ]
    assert len(honest.bins) == 17  # without a gap
    assert found.lag is not None
    assert found.lag.sample == 15
    assert (found.lag.percentiles[0], found.lag.percentiles[50], found.lag.percentiles[100]) == (
        2.5,
        2.5,
        10.0,
    )
    assert (found.sampled, found.load_lag) == (None, None)


def test_a_large_table_is_sampled_and_totals_frauds_and_labels_stay_exact(
    known: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    known.ask_postgres("UPDATE sim.ground_truth SET transaction_id = 5")
    known.ask_postgres(INSERT, "2026-05-06 10:00+00", 20, "2026-05-06 10:00:00+00", 101, 8100)
    known.ask_postgres("ANALYZE public.transactions")
    exact = report(known)
    monkeypatch.setattr(reporting, "MOST_ROWS", 2000)

    found = report(known)

    assert (exact.sampled, found.sampled) == (None, 889)  # 10 of every 90, the fraud apart
    assert (found.transactions, found.frauds, found.labels) == (8015, 1, exact.labels)
    assert (found.unlabelled, found.orphans) == (8001, 0)
    assert sum(hour.transactions for hour in found.hours) == pytest.approx(8015, abs=2)
    honest, stolen = found.amounts
    assert (honest.median, honest.transactions, honest.labelled) == (20, 8014, 14)
    assert stolen == exact.amounts[1]


def test_the_lag_of_a_load_is_told_from_the_schedules(servers: Servers) -> None:
    servers.run("transaction_generator")
    servers.run("detection_generator")
    scheduled = report(servers)
    servers.run("history_loader", "--transactions", "12000", "--days", "2")

    both = report(servers)

    assert (scheduled.load_lag, both.lag) == (None, scheduled.lag)
    assert both.load_lag
    assert both.load_lag.sample == 10_000


def test_a_single_run_is_counted_by_five_minutes(servers: Servers) -> None:
    servers.run("transaction_generator", "--until", "2026-05-04T08:30:00", "--count", "60")
    found = report(servers)
    assert len(found.hours) == 1
    assert 4 <= len(found.spans) <= 6
    assert sum(span.transactions for span in found.spans) == 60
    assert {span.start.minute % 5 for span in found.spans} == {0}


def test_hours_are_utc_whatever_the_server_speaks(known: Servers) -> None:
    known.ask_postgres("ALTER ROLE docker SET timezone = 'Asia/Kathmandu'")
    try:
        assert report(known).hours[0].start.isoformat() == "2026-05-04T08:00:00+00:00"
    finally:
        known.ask_postgres("ALTER ROLE docker RESET timezone")


def test_missing_and_orphaned_labels_are_counted(known: Servers) -> None:
    known.ask_mysql(LABEL, 99, 0, None, "2026-05-05 00:30:10", "2026-05-05 00:30:10")

    found = report(known)

    assert (found.unlabelled, found.orphans) == (1, 1)
    assert found.lag is not None
    assert found.lag.sample == 14


def test_a_database_without_ground_truth_is_reported_by_its_labels(known: Servers) -> None:
    known.ask_postgres("DROP SCHEMA sim CASCADE")

    found = report(known)

    assert not found.has_ground_truth
    assert (found.transactions, found.frauds, len(found.amounts)) == (15, 0, 1)


def test_lag_is_that_of_the_latest_transactions(known: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "LAG_SAMPLE", 4)
    lag = report(known).lag
    assert lag is not None
    assert (lag.sample, set(lag.percentiles)) == (3, {10.0})  # the fourth has no label


def test_empty_databases_and_transactions_without_labels_are_said(servers: Servers, tmp_path: Path) -> None:
    folder = project(servers, tmp_path / "project")

    done = run(folder, "--html", str(tmp_path / "report.html"))
    assert (done.exit_code, done.stdout) == (0, "There are no transactions yet. Make some: pipectl trigger\n")
    assert "There are no transactions yet" in (tmp_path / "report.html").read_text()

    servers.run("transaction_generator")
    done = run(folder)
    assert done.exit_code == 0
    assert "no transaction has a label yet; label them: pipectl trigger" in done.stdout


def test_json_has_the_numbers_of_the_report(known: Servers, tmp_path: Path) -> None:
    found = json.loads(run(project(known, tmp_path / "project"), "--json").stdout)

    assert found["hours"][0] == {"start": "2026-05-04T08:00:00+00:00", "transactions": 10, "frauds": 0}
    assert found["labels"] == {"labels": 14, "frauds": 0, "revised": 0}
    assert found["unlabelled"] == 1
    assert found["amounts"][0]["bins"][0] == {"low": 10.0, "high": 13.34, "transactions": 10}


def test_databases_that_are_down_are_one_sentence_and_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    for name in ("dags", "stack"):
        (folder / name).mkdir(parents=True)
    (folder / "stack" / ".env").write_text("AIRBYTE_POSTGRES_PORT=1\nAIRBYTE_MYSQL_PORT=1\n")

    done = run(folder, "--html", str(tmp_path / "report.html"))

    assert done.exit_code == ExitCode.DATABASE
    assert "Not running in this project: airbyte-postgres and airbyte-mysql" in done.output
    assert not (tmp_path / "report.html").exists()


def test_a_foreign_file_stops_the_command_before_it_reads_anything(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    for name in ("dags", "stack"):
        (folder / name).mkdir(parents=True)
    (tmp_path / "thesis.html").write_text("years of work")

    done = run(folder, "--html", str(tmp_path / "thesis.html"))

    assert done.exit_code == ExitCode.USAGE
    assert "is no report of pipectl" in done.output
    assert (tmp_path / "thesis.html").read_text() == "years of work"


@pytest.mark.browser
def test_a_browser_draws_every_chart_without_an_error(known: Servers, tmp_path: Path) -> None:
    chromium = need_program("browser", "chromium", "google-chrome")
    known.ask_mysql(LABEL, 15, 1, "stolen_card", "2026-05-05 00:30:10", "2026-05-06 00:00:00")
    path = tmp_path / "report.html"
    assert run(project(known, tmp_path / "project"), "--html", str(path)).exit_code == 0

    done = subprocess.run(
        [
            *(
                chromium,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
            ),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr"),
            *("--virtual-time-budget=10000", "--dump-dom", path.as_uri()),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )

    drawn = set(
        re.findall(r'<div class="chart[^"]*" id="([a-z-]+)"[^>]*><div class="plot-container', done.stdout)
    )
    assert drawn == {"over-time", "amounts", "labelled", "time-of-day", "lag"}
    assert not re.findall(r"CONSOLE.*", done.stderr)
