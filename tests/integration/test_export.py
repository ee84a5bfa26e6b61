"""`export` from a real PostgreSQL and a real MySQL-protocol server."""

from __future__ import annotations

import fcntl
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from pipectl import __version__
from pipectl.databases import Databases
from pipectl.documents import plain
from pipectl.errors import DatabaseError, UsageError
from pipectl.observer import Observer
from pipectl.pipeline import exporting
from pipectl.pipeline.exporting import ExportRequest, ExportResult
from support.load_observer import LoadObserver

if TYPE_CHECKING:
    from pathlib import Path

    from support.script_servers import Servers

pytest_plugins = ["support.script_servers"]
pytestmark = pytest.mark.integration

COLUMNS = (
    "transaction_id, tx_time, customer_id, card_id, terminal_id, mcc, amount, currency, channel, country,"
    " lat::float8, lon::float8, status, device_id"
)
# With the degrees last.
DIMENSIONS = {
    "customers": "customer_id, country, segment, cards, opened_on, lat, lon",
    "terminals": "terminal_id, mcc, channel, country, lat, lon",
}


@pytest.fixture
def history(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Servers:
    """Three days of 3,000 labelled transactions, read in five chunks."""
    monkeypatch.setattr(exporting, "CHUNK", 700)
    assert servers.run("history_loader", "--transactions", "3000", "--days", "3", "--chunk", "1000")[0] == 0
    return servers


def export(servers: Servers, folder: Path, kind: str = "parquet", **more: Any) -> ExportResult:
    return exporting.export(Databases(*servers.addresses), ExportRequest(folder, kind, **more), Observer())


def rows(folder: Path, name: str, kind: str = "parquet") -> list[dict[str, Any]]:
    """What a reader of the folder gets, in order of ids."""
    import pyarrow.dataset as ds

    table = ds.dataset(folder / name, format=kind, partitioning="hive").to_table()
    return list(table.sort_by("transaction_id").to_pylist())


def test_every_transaction_is_there_once_in_the_folder_of_its_day(history: Servers, tmp_path: Path) -> None:
    result = export(history, tmp_path / "data")

    found = rows(tmp_path / "data", "transactions")
    expected = history.ask_postgres(f"SELECT {COLUMNS} FROM public.transactions ORDER BY 1")
    assert [tuple(row.values())[:10] for row in found] == [row[:10] for row in expected]
    assert [row["lat"] for row in found] == pytest.approx([row[10] for row in expected])
    assert [(row["status"], row["device_id"]) for row in found] == [row[12:] for row in expected]
    assert all(row["day"] == row["tx_time"].strftime("%Y-%m-%d") for row in found)
    assert (result.transactions, result.labels, result.unlabelled) == (3000, 3000, 0)
    assert result.days == len({row["day"] for row in found})
    manifest = json.loads((tmp_path / "data" / "export.json").read_text())
    assert manifest == {"pipectl": __version__, **plain(result)}
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_customers_and_terminals_are_all_there_and_whatever_a_transaction_names(
    history: Servers, tmp_path: Path, kind: str
) -> None:
    import pyarrow.dataset as ds

    result = export(history, tmp_path / "data", kind)

    found = {
        name: ds.dataset(tmp_path / "data" / name, format=kind).to_table().to_pylist() for name in DIMENSIONS
    }
    for name, columns in DIMENSIONS.items():
        expected = history.ask_postgres(f"SELECT {columns} FROM public.{name} ORDER BY 1")
        for row, known in zip(found[name], expected, strict=True):
            degrees = {"lat", "lon"}
            # An online merchant has no place: nothing, in CSV a text without a letter.
            assert [value or None for key, value in row.items() if key not in degrees] == list(known[:-2])
            assert (row["lat"], row["lon"]) == pytest.approx(known[-2:])
        assert getattr(result, name) == len(expected) > 0
        used = {row[f"{name[:-1]}_id"] for row in rows(tmp_path / "data", "transactions", kind)}
        assert used <= {row[f"{name[:-1]}_id"] for row in found[name]}


def test_labels_are_those_of_mysql(history: Servers, tmp_path: Path) -> None:
    history.ask_mysql("""UPDATE fraud_labels SET is_fraud = 1, fraud_type = 'a "b", c\n', label_source = ''
                         ORDER BY transaction_id LIMIT 1""")

    result = export(history, tmp_path / "data")

    found = rows(tmp_path / "data", "labels")
    known = history.ask_mysql("""
        SELECT transaction_id, is_fraud, fraud_type, label_source, detected_at
        FROM fraud_labels ORDER BY 1""")
    assert result.frauds == sum(row[1] for row in known) > 1
    for row, (identity, is_fraud, kind, source, detected) in zip(found, known, strict=True):
        told = (kind, source, detected.replace(tzinfo=UTC)) if is_fraud else (None, None, None)
        assert (row["transaction_id"], row["is_fraud"]) == (identity, bool(is_fraud))
        assert (row["fraud_type"], row["label_source"], row["detected_at"]) == told
    transactions = rows(tmp_path / "data", "transactions")
    assert [row["day"] for row in found] == [row["day"] for row in transactions]


def test_as_of_a_moment_later_reports_are_honest_and_later_transactions_have_no_label(
    history: Servers, tmp_path: Path
) -> None:
    [(moment,)] = history.ask_postgres(
        "SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY tx_time) FROM public.transactions"
    )
    history.ask_mysql(
        "UPDATE fraud_labels SET is_fraud = 1, fraud_type = 'x', label_source = 'chargeback',"
        " detected_at = %s ORDER BY transaction_id LIMIT 1",
        (moment + timedelta(seconds=1)).replace(tzinfo=None),
    )

    result = export(history, tmp_path / "data", as_of=moment)

    found = rows(tmp_path / "data", "labels")
    assert result.unlabelled == 3000 - len(found) == 1500
    assert not found[0]["is_fraud"]
    assert found[0]["fraud_type"] is None
    frauds = [row for row in found if row["is_fraud"]]
    assert frauds
    assert all(row["detected_at"] <= moment for row in frauds)


def test_times_without_a_transaction_are_told_with_those_that_there_are(
    history: Servers, tmp_path: Path
) -> None:
    observer = LoadObserver()
    request = ExportRequest(tmp_path / "data", "csv", since=datetime(2300, 1, 1, tzinfo=UTC))

    result = exporting.export(Databases(*history.addresses), request, observer)

    [(first, last)] = history.ask_postgres("SELECT min(tx_time), max(tx_time) FROM public.transactions")
    assert result.transactions == 0
    assert observer.reports == [
        "No transaction is of the times that were asked for: there are those from "
        f"{first.astimezone(UTC):%Y-%m-%d %H:%M} to {last.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    ]
    history.ask_postgres("DELETE FROM public.transactions")
    exporting.export(Databases(*history.addresses), ExportRequest(tmp_path / "more", "csv"), observer)
    assert observer.reports[1:] == ["public.transactions has no row"]


def test_csv_has_the_same_rows_between_two_times(history: Servers, tmp_path: Path) -> None:
    [(since, until)] = history.ask_postgres(
        "SELECT percentile_disc(0.3) WITHIN GROUP (ORDER BY tx_time),"
        " percentile_disc(0.8) WITHIN GROUP (ORDER BY tx_time) FROM public.transactions"
    )

    result = export(history, tmp_path / "csv", "csv", since=since, until=until)
    export(history, tmp_path / "parquet", since=since, until=until)

    text, table = (rows(tmp_path / kind, "transactions", kind) for kind in ("csv", "parquet"))
    assert [row["transaction_id"] for row in text] == [row["transaction_id"] for row in table]
    assert [float(row["amount"]) for row in text] == [float(row["amount"]) for row in table]
    assert [row["tx_time"] for row in text] == [row["tx_time"] for row in table]
    assert all(since <= row["tx_time"] < until for row in table)
    assert result.transactions == len(table) == 1500


def test_what_has_no_label_is_counted_and_orphans_stay_behind(history: Servers, tmp_path: Path) -> None:
    history.ask_mysql("DELETE FROM fraud_labels ORDER BY transaction_id LIMIT 2")
    history.ask_postgres(
        "DELETE FROM public.transactions WHERE transaction_id ="
        " (SELECT max(transaction_id) - 5 FROM public.transactions)"
    )

    result = export(history, tmp_path / "data")

    assert (result.transactions, result.labels, result.unlabelled) == (2999, 2997, 2)


def test_empty_tables_are_an_export_without_rows_and_missing_ones_an_error(
    servers: Servers, tmp_path: Path
) -> None:
    with pytest.raises((UsageError, DatabaseError)):
        export(servers, tmp_path / "data")
    assert list(tmp_path.iterdir()) == []
    servers.run("transaction_generator")
    servers.run("detection_generator")
    later = datetime.now(UTC) + timedelta(days=1)
    assert export(servers, tmp_path / "data", since=later).transactions == 0


def test_a_row_that_no_file_holds_is_named_and_leaves_nothing(history: Servers, tmp_path: Path) -> None:
    history.ask_postgres(
        "UPDATE public.transactions SET tx_time = 'infinity' WHERE transaction_id ="
        " (SELECT max(transaction_id) FROM public.transactions)"
    )

    with pytest.raises(DatabaseError, match="infinity"):
        export(history, tmp_path / "data")

    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_anything_in_it_is_left_alone(history: Servers, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="is not empty"):
        export(history, tmp_path)
    with pytest.raises(UsageError, match="is no folder"):
        export(history, tmp_path / "thesis.txt")
    (tmp_path / ".data.partial").mkdir()
    (tmp_path / ".data.partial" / "mine").touch()
    with pytest.raises(UsageError, match="not pipectl's"):
        export(history, tmp_path / "data")
    assert (tmp_path / ".data.partial" / "mine").exists()
    assert not (tmp_path / "data").exists()


def test_what_a_killed_export_left_is_replaced_and_one_at_work_is_not(
    history: Servers, tmp_path: Path
) -> None:
    draft = tmp_path / ".data.partial"
    (draft / "transactions" / "day=2020-01-01").mkdir(parents=True)
    (draft / "transactions" / "day=2020-01-01" / "part-000001.parquet").write_text("half")
    with (draft / exporting.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="Another export writes"):
            export(history, tmp_path / "data")
    (tmp_path / "data").mkdir()  # empty

    assert export(history, tmp_path / "data").transactions == 3000

    assert len(rows(tmp_path / "data", "transactions")) == 3000
    assert not draft.exists()
    assert not (tmp_path / "data" / exporting.LOCK).exists()
