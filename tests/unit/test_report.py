"""`report`: for people at a terminal, as a page, and the file that the page goes to."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipectl.commands.report.command import ROUTE
from pipectl.commands.report.page import Target, page
from pipectl.commands.report.text import report_text, seconds
from pipectl.documents import dump
from pipectl.errors import UsageError
from pipectl.pipeline.reporting import AmountBin, Amounts, Hour, LabelLag, Labels, Report
from support.json_schemas import validate

START = datetime(2026, 5, 4, 22, tzinfo=UTC)
HONEST = Amounts(
    "", 97, 98, 1.0, 10.0, 20.0, 40.0, 100.0, (AmountBin(1.0, 10.0, 25), AmountBin(10.0, 100.0, 72))
)
STOLEN = Amounts("stolen_card", 3, 2, 50.0, 60.0, 80.0, 90.0, 400.0, (AmountBin(10.0, 1000.0, 3),))
FULL = Report(
    created=datetime(2026, 5, 6, 12, 30, tzinfo=UTC),
    transactions=100,
    frauds=3,
    has_ground_truth=True,
    labels=Labels(labels=100, frauds=2, revised=1),
    unlabelled=0,
    orphans=0,
    hours=(Hour(START, 60, 1), Hour(START + timedelta(hours=3), 40, 2)),
    amounts=(HONEST, STOLEN),
    lag=LabelLag(100, tuple(percent / 10 for percent in range(101))),
)
EMPTY = Report(
    created=FULL.created,
    transactions=0,
    frauds=0,
    has_ground_truth=False,
    labels=Labels(0, 0, 0),
    unlabelled=0,
    orphans=0,
    hours=(),
    amounts=(),
    lag=None,
)


def text(report: Report, width: int = 100) -> list[str]:
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=width).print(report_text(report))
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_the_whole_report() -> None:
    assert text(FULL) == [
        "Transactions  100, 3 of them frauds (3.00%)",
        "              2026-05-04 22:00 to 2026-05-05 02:00 UTC",
        "Labels        100, 2 say fraud (2.00%), 1 were revised",
        "Reconciled    every transaction has exactly one label",
        "Label lag     5.00 s in the median, 95 % within 9.50 s",
        "",
        "Transactions per hour (UTC)",
        "60 █████████",
        "   █████████                  ▃▃▃▃▃▃▃▃▃",
        "   █████████                  █████████",
        "   █████████                  █████████",
        " 0 █████████                  █████████",
        "   2026-05-04 22:00    2026-05-05 01:00",
        "",
        "Frauds per hour (UTC)",
        "2                            █████████",
        "  ▄▄▄▄▄▄▄▄▄                  █████████",
        "0 █████████                  █████████",
        "  2026-05-04 22:00    2026-05-05 01:00",
        "",
        "Amounts by scenario, each in its currency, on a logarithmic scale",
        "",
        " scenario      number   labelled     5 %   median     95 %   1.00                            400.00",
        " ──────────────────────────────────────────────────────────────────────────────────────────────────",
        " honest            97         98    1.00    20.00   100.00   ──────────────━━━━┃━━━━━─────",
        " stolen card        3          2   50.00    80.00   400.00                           ─━━┃━─────────",
        "",
        "",
        "Label lag of the latest 100 scheduled transactions",
        "  50 % within     5.00 s  ██████████████████████",
        "  90 % within     9.00 s  ████████████████████████████████████████",
        "  95 % within     9.50 s  ██████████████████████████████████████████",
        "  99 % within     9.90 s  ████████████████████████████████████████████",
        "  longest        10.00 s  ████████████████████████████████████████████",
    ]


def test_an_hour_that_is_not_over_ends_now() -> None:
    report = replace(FULL, created=START + timedelta(hours=3, minutes=39))
    assert text(report)[1].strip() == "2026-05-04 22:00 to 2026-05-05 01:39 UTC"


@pytest.mark.parametrize("width", [60, 80])
def test_the_report_fits_a_narrow_terminal(width: int) -> None:
    lines = text(FULL, width)
    assert max(map(len, lines)) <= width
    assert [line.split()[0] for line in lines[-5:]] == ["50", "90", "95", "99", "longest"]


@pytest.mark.parametrize("report", [FULL, EMPTY])
def test_the_json_is_as_its_schema_says(report: Report) -> None:
    written = json.loads(dump(report))
    validate("report", written)
    assert written["created"] == "2026-05-06T12:30:00+00:00"
    assert written["labels"] == {
        "labels": report.labels.labels,
        "frauds": report.labels.frauds,
        "revised": report.labels.revised,
    }


def test_the_page_in_airflow_has_the_address_that_is_printed() -> None:
    plugin = Path(__file__).parents[2] / "stack" / "airflow" / "plugins" / "report_page.py"
    assert f'"url_route": "{ROUTE}"' in plugin.read_text(encoding="utf-8")


def test_empty_databases_are_one_sentence_with_the_next_step() -> None:
    assert text(EMPTY) == ["There are no transactions yet. Make some: pipectl trigger"]


def test_transactions_without_a_label_say_how_to_label_them() -> None:
    found = text(replace(FULL, labels=Labels(0, 0, 0), unlabelled=100, lag=None))
    assert "Reconciled    no transaction has a label yet; label them: pipectl trigger" in found
    assert not [line for line in found if "Label lag" in line]


def test_a_load_has_a_lag_of_its_own() -> None:
    loaded = LabelLag(10, tuple(60.0 for _ in range(101)))
    found = text(replace(FULL, load_lag=loaded))
    assert "Label lag     5.00 s in the median, 95 % within 9.50 s" in found
    assert "Label lag     1.0 min in the median, 95 % within 1.0 min, of a load" in found
    assert "Label lag of the latest 10 loaded transactions" in found
    assert list(charts(page(replace(FULL, load_lag=loaded), "shop")))[-2:] == ["lag", "load-lag"]


@pytest.mark.parametrize(
    ("unlabelled", "orphans", "expected"),
    [
        (0, 0, "as many labels as transactions"),
        (2, 0, "2 fewer labels than transactions"),
        (0, 1, "1 more labels than transactions"),
    ],
)
def test_a_sample_says_what_it_is_of_and_claims_no_comparison(
    unlabelled: int, orphans: int, expected: str
) -> None:
    report = replace(FULL, sampled=50, unlabelled=unlabelled, orphans=orphans)
    found = "\n".join(text(report, 200))
    assert f"Reconciled    {expected}; compare each: pipectl verify-db --expect reconciled" in found
    assert "Sampled       50 of 97 honest transactions were read: their numbers per hour and amounts" in found
    assert "Sampled: 50 of 97 honest transactions" in page(report, "shop")


def test_a_few_hours_are_shown_by_five_minutes() -> None:
    spans = (Hour(START, 30, 0), Hour(START + timedelta(minutes=10), 30, 1))
    found = text(replace(FULL, hours=FULL.hours[:1], spans=spans))
    assert "Transactions per 5 minutes (UTC)" in found
    assert any("2026-05-04 22:00" in line and line.endswith("2026-05-04 22:10") for line in found)


def test_missing_and_orphaned_labels_are_counted() -> None:
    found = text(replace(FULL, unlabelled=1200, orphans=3), 200)
    assert (
        "Reconciled    1,200 transactions have no label; why: pipectl verify-db --expect reconciled. "
        "3 labels have no transaction; mend it: pipectl verify-db --repair"
    ) in found
    found = text(replace(FULL, unlabelled=1, orphans=1), 200)
    assert any(
        "1 transaction has no label; " in line and "1 label has no transaction; " in line for line in found
    )


def test_without_ground_truth_nothing_is_said_of_frauds_but_the_labels() -> None:
    found = text(replace(FULL, has_ground_truth=False, frauds=0, amounts=FULL.amounts[:1]))
    assert found[0] == "Transactions  100, without a ground truth of frauds"
    assert "Frauds per hour (UTC)" not in found


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.004, "0.00 s"), (59.0, "59.00 s"), (90, "1.5 min"), (7200, "2.0 h"), (1e6, "11.6 d")],
)
def test_durations_have_the_unit_people_would_take(value: float, expected: str) -> None:
    assert seconds(value) == expected


def charts(text: str) -> dict[str, dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="charts">(.*?)</script>', text, re.DOTALL)
    assert found
    return {chart["id"]: chart for chart in json.loads(found[1])}


def test_page_loads_nothing_and_forbids_it() -> None:
    text = page(FULL, "shop")
    # Everything before the library, whose own text names addresses that it never opens.
    head = text[: text.index('id="charts"')]
    assert "default-src 'none'" in head
    assert not re.findall(r"(?:src|href)=", head)


def test_page_has_every_chart_with_units_and_the_numbers() -> None:
    found = charts(page(FULL, "shop"))
    assert list(found) == ["over-time", "amounts", "labelled", "time-of-day", "lag"]
    assert [trace["y"] for trace in found["over-time"]["data"]] == [
        [60, 0, 0, 40],
        [1, 0, 0, 2],
        [60, 40],
        [1, 2],
    ]
    assert [trace["visible"] for trace in found["over-time"]["data"]] == [True, True, False, False]
    assert [(trace["name"], trace["x"]) for trace in found["labelled"]["data"]] == [
        ("labels", [2]),
        ("ground truth", [3]),
    ]
    assert found["amounts"]["data"][1]["y"] == [25 / 97, 25 / 97, 72 / 97, 72 / 97]
    assert found["lag"]["layout"]["xaxis"]["title"]["text"] == "seconds from transaction to label"
    assert found["time-of-day"]["data"][1]["y"][22] == 1 / 60


def test_charts_are_what_the_library_accepts() -> None:
    from plotly.graph_objects import Figure

    for chart in charts(page(FULL, "shop")).values():
        Figure(data=chart["data"], layout=chart["layout"])  # raises for a property that it does not know


def test_a_single_hour_has_an_axis_of_hours() -> None:
    shown = charts(page(replace(FULL, hours=FULL.hours[:1]), "shop"))["over-time"]
    assert shown["layout"]["xaxis"]["range"] == ["2026-05-04 11:00", "2026-05-04 23:00"]
    assert shown["layout"]["yaxis2"]["dtick"] == 1
    assert "range" not in shown["layout"]["yaxis2"]
    honest = tuple(replace(hour, frauds=0) for hour in FULL.hours)
    without = charts(page(replace(FULL, hours=honest), "shop"))["over-time"]
    assert without["layout"]["yaxis2"]["range"] == [0, 1]
    assert "views" not in shown


def test_long_histories_open_by_day() -> None:
    hours = (FULL.hours[0], replace(FULL.hours[1], start=FULL.hours[0].start + timedelta(days=20)))
    shown = charts(page(replace(FULL, hours=hours), "shop"))["over-time"]
    assert [trace["visible"] for trace in shown["data"]] == [False, False, True, True]
    assert shown["views"] == {
        "per hour": [True, True, False, False],
        "per day": [False, False, True, True],
    }
    assert [button["label"] for button in shown["layout"]["xaxis"]["rangeselector"]["buttons"]] == [
        "24 h",
        "7 days",
        "all",
    ]


def test_names_from_the_database_cannot_become_markup() -> None:
    evil = replace(STOLEN, scenario="</script><script>alert(1)</script>")
    text = page(replace(FULL, amounts=(HONEST, evil)), "<b>shop</b>")
    assert "<script>alert" not in text
    assert "<b>shop" not in text
    assert "</script><script>alert(1)</script>" in charts(text)["labelled"]["data"][0]["y"][0]


def test_empty_databases_give_a_page_that_says_so() -> None:
    text = page(EMPTY, "shop")
    assert "There are no transactions yet" in text
    assert charts(text) == {}
    assert len(text) < 10_000


def test_without_labels_and_ground_truth_their_charts_are_left_out() -> None:
    bare = replace(
        FULL, labels=Labels(0, 0, 0), unlabelled=100, lag=None, has_ground_truth=False, amounts=(HONEST,)
    )
    text = page(bare, "shop")
    found = charts(text)
    assert list(found) == ["over-time", "amounts", "time-of-day"]
    assert [trace["name"] for trace in found["over-time"]["data"]] == ["transactions", "transactions"]
    assert "no transaction has a label yet" in text


def test_a_report_made_before_is_replaced(tmp_path: Path) -> None:
    target = Target(tmp_path / "report.html")
    target.check()
    target.write(page(EMPTY, "first"))
    target.check()
    target.write(page(EMPTY, "second"))
    assert "second" in target.path.read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_file_that_is_no_report_is_kept_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "thesis.html"
    path.write_text("<html>years of work</html>")
    with pytest.raises(UsageError, match=r"thesis.html exists and is no report of pipectl\."):
        Target(path).check()
    assert "years of work" in path.read_text()
    Target(path, replace_foreign=True).check()


def test_a_folder_that_is_missing_and_one_that_is_named_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no folder"):
        Target(tmp_path / "nowhere" / "report.html").check()
    with pytest.raises(UsageError, match="is no ordinary file"):
        Target(tmp_path).check()


def test_a_page_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250 + ".html")  # its draft's name is too long for any file system
    with pytest.raises(UsageError, match="cannot be written: "):
        Target(path).write("text")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_a_narrow_table_loses_its_charts_and_no_number(width: int) -> None:
    large = replace(HONEST, transactions=1_234_567, p95=98_765.43)
    shown = "\n".join(text(replace(FULL, transactions=1_234_570, amounts=(large, STOLEN)), width))
    assert "…" not in shown
    assert "1,234,567" in shown
    assert "98,765.43" in shown


def test_a_page_goes_to_a_file_and_not_to_stdout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="nothing to stdout"):
        Target(Path("-")).check()
    assert list(tmp_path.iterdir()) == []
