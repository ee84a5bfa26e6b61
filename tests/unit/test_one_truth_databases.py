"""Facts about the databases that pipectl, the scripts, the stack and the documentation share."""

from __future__ import annotations

import ast
import io
import re
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import history_loader
import sql_checks as script_of_checks
from fraud_pipeline import (
    command,
    connections,
    devices,
    episodes,
    errors,
    places,
    rhythm,
    scenarios,
    schema,
    slots,
    sql_checks,
    transactions,
    world,
)
from fraud_pipeline.connections import mysql_database, postgres_database
from fraud_pipeline.copy_format import TRANSACTION_COLUMNS
from fraud_pipeline.dimensions import CUSTOMER_TYPES, TERMINAL_TYPES
from fraud_pipeline.history import Unfinished
from fraud_pipeline.labels import COLUMNS as LABEL_COLUMNS
from fraud_pipeline.logs import logfmt
from pipectl import published, services
from pipectl.commands import verify_db
from pipectl.models import DatabaseAddress
from pipectl.pipeline import consumers, loading
from pipectl.pipeline.sql_checking import SqlCheck
from support.load_observer import LoadObserver

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ops" / "pipectl"
DATA = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")


def tables_in(folder: str) -> set[str]:
    text = "".join(file.read_text(encoding="utf-8") for file in schema.migrations(folder))
    return set(re.findall(r"CREATE TABLE (?:IF NOT EXISTS )?([\w.]+)", text))


@pytest.mark.parametrize("folder", ["postgres", "mysql"])
def test_migrations_are_numbered_without_a_gap(folder: str) -> None:
    names = [file.name for file in schema.migrations(folder)]
    assert names
    assert [name for name in names if not re.fullmatch(r"\d{4}_[a-z0-9_]+\.sql", name)] == []
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
    assert sorted(path.name for path in (schema.MIGRATIONS / folder).iterdir()) == names


def test_mysql_migrations_are_split_into_whole_statements() -> None:
    for file in schema.migrations("mysql"):
        parts = schema.statements(file)
        assert parts
        for part in parts:
            assert re.match(r"[A-Z]{3,} ", part), part
            assert part.count("(") == part.count(")"), part
            assert ";" not in part, part


def test_tables_and_publication_of_pipectl_are_those_of_the_scripts() -> None:
    made = tables_in("postgres") | tables_in("mysql")
    assert {*published.WRITTEN_IN_ORDER, published.LABELS, published.PROGRESS} <= made
    assert set(published.WRITTEN_IN_ORDER) == tables_in("postgres") - set(published.MIGRATION_RECORDS)
    assert (published.PUBLICATION, published.CAPTURED) == (schema.PUBLICATION, schema.PUBLISHED_TABLES)
    source = Path(schema.__file__).read_text(encoding="utf-8")
    for record in published.MIGRATION_RECORDS:
        assert f"CREATE TABLE IF NOT EXISTS {record} (" in source


def test_only_one_module_of_pipectl_names_the_pipelines_tables() -> None:
    names = {*tables_in("postgres"), *tables_in("mysql"), published.PUBLICATION, published.SLOT}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name == "published.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        written = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        statements = [
            text for text in written if isinstance(text, str) and re.search(r"\b(FROM|LIKE)\b", text)
        ]
        for name in names:
            assert name not in written, f"{path} names {name}"
            assert not [text for text in statements if name in text], f"{path} asks {name}"


def test_columns_that_scripts_write_are_in_the_migrations_and_in_the_documentation() -> None:
    for folder, columns in (
        ("postgres", (*TRANSACTION_COLUMNS, *CUSTOMER_TYPES, *TERMINAL_TYPES)),
        ("mysql", LABEL_COLUMNS),
    ):
        text = "".join(file.read_text(encoding="utf-8") for file in schema.migrations(folder))
        for column in columns:
            assert re.search(rf"\b{column} ", text), column
            assert f"`{column}`" in DATA, column


def test_tables_are_in_the_documentation() -> None:
    for name in (*tables_in("postgres"), *tables_in("mysql"), *published.MIGRATION_RECORDS):
        assert f"`{name}`" in DATA, name


def test_collation_of_mysql_is_the_same_everywhere() -> None:
    collation = connections.MYSQL_COLLATION
    assert collation == published.MYSQL_COLLATION
    places = [*schema.migrations("mysql"), *(ROOT / "stack" / "mysql").iterdir(), *PACKAGE.rglob("*.py")]
    found = {name for path in places for name in re.findall(r"utf8mb4_\w+", path.read_text(encoding="utf-8"))}
    assert found == {collation}


def test_loader_gives_the_script_the_variables_that_it_reads() -> None:
    addresses = (
        DatabaseAddress("airbyte-postgres", "a.example", 1, "b", "c", "d"),
        DatabaseAddress("airbyte-mysql", "e.example", 2, "f", "g", "h"),
    )
    environment = loading._environment(addresses, "5")
    read = postgres_database(environment), mysql_database(environment)
    assert [(each.host, each.port, each.name, each.user, each.password) for each in read] == [
        ("a.example", 1, "b", "c", "d"),
        ("e.example", 2, "f", "g", "h"),
    ]
    assert command.seed_of(environment) == 5
    assert loading.seed_of(environment) == "5"


def test_both_keep_the_same_room_for_what_others_write() -> None:
    assert consumers.RESERVE_BYTES == slots.RESERVE_BYTES


def test_exit_codes_of_the_script_are_those_that_the_loader_tells_apart() -> None:
    told_apart = (loading.SCRIPT_USAGE, loading.SCRIPT_DATABASE, loading.SCRIPT_SLOT)
    assert told_apart == (errors.USAGE, errors.DATABASE, errors.SLOT)


def test_loader_speaks_the_scripts_language(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its options are the script's, and it understands every event that the script tells."""
    tree = ast.parse((ROOT / "scripts" / "history_loader.py").read_text(encoding="utf-8"))
    told: dict[str, dict[str, Any]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_tell":
            [event] = [word.value for word in node.args if isinstance(word, ast.Constant)]
            told[str(event)] = {"event": event, **{str(word.arg): 1 for word in node.keywords}}
    begun = [Unfinished(name, 3, 2, 1, "2026-01-31 06:30")._asdict() for name in ("a load", "another")]
    told["plan"] |= {"load": "a load", "other_seed": None, "unfinished": begun}
    for event in ("short", "waits"):
        told[event]["slots"] = [slots.Slot("a slot", 5, active=False)._asdict()]
    parsed: list[argparse.Namespace] = []

    def run(_: object, *commands: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        for command_line in commands:
            given = history_loader.options().parse_args(command_line)
            parsed.append(given)
            if given.only == "plan":
                yield told["short"]
            elif given.only == "transactions":
                yield told["waits"]
            yield told[given.only] if given.only != "labels" else told["due"]
            if given.only == "labels":
                yield told["labels"]
                yield told["done"]

    monkeypatch.setattr(loading.HistoryLoader, "_run", run)
    observer = LoadObserver()
    addresses = (DatabaseAddress("a", "", 1, "", "", ""), DatabaseAddress("b", "", 2, "", "", ""))
    loader = loading.HistoryLoader(ROOT, addresses, seed=None, observer=observer)

    with pytest.raises(loading.SlotsTooSmallError) as caught:
        loader.load(transactions=3, days=2, shards=2)
    assert caught.value.slots == ("a slot",)
    parsed.clear()
    result = loader.load(transactions=3, days=2, shards=2, wait_for_slots=True)

    assert set(told) == {*history_loader.PARTS, "due", "done", "short", "waits"}
    assert [given.wait_for_slots for given in parsed] == [True, True, True, False]
    assert (result.load, result.transactions, result.labels, result.resumed) == ("a load", 2, 1, 1)
    assert [(given.only, given.transactions, given.days) for given in parsed] == [
        ("plan", 3, 2),
        ("transactions", 3, 2),
        ("transactions", 3, 2),
        ("labels", 3, 2),
    ]
    assert [given.shard for given in parsed[:3]] == [(1, 2), (1, 2), (2, 2)]
    first, taken_up, other, *others = observer.reports
    assert taken_up.endswith("begun on 2026-01-31 06:30 UTC: it goes on from 1 of 3 transactions")
    assert other.endswith("1 are written. Go on with it: pipectl load --transactions 3 --days 2")
    assert [sentence.partition(",")[0] for sentence in (first, *others)] == [
        "Nobody reads a slot now",
        "Waiting for the reader of a slot; what is committed stays. Nobody reads a slot now",
    ]
    assert [given.load for given in parsed[1:]] == ["a load"] * 3
    assert parsed[3].due
    assert observer.seen[-1].done == observer.seen[-1].total == 1


@pytest.mark.parametrize("message", ["plain", 'in "quotes" and = a\\backslash', "two words"])
def test_loader_reads_the_scripts_failure_from_its_log(message: str) -> None:
    log = io.StringIO(f"time=2026 level=error {logfmt('failed', batch='a b', error=message)}\n")
    assert loading.read_failure(log)[1] == message


def test_the_command_reads_what_the_script_says_of_a_check() -> None:
    assert [field.name for field in fields(SqlCheck)] == [field.name for field in fields(sql_checks.Result)]
    assert tuple(verify_db.CHECK_STYLES) == sql_checks.STATES
    assert tuple(service.name for service in services.business_databases()) == sql_checks.DATABASES
    words = ["--timeout=0.5", "--json", "--", "a folder"]
    given = script_of_checks.options().parse_args(words)
    assert (given.timeout, given.json, given.checks) == (0.5, True, "a folder")


def test_numbers_and_names_of_scenarios_are_what_they_were() -> None:
    """Stored rows hold the names, and columns the numbers: neither may change, or be used again."""
    released = {
        1: "unusual_amount",
        2: "compromised_terminal",
        3: "stolen_card",
        4: "card_not_present",
        5: "two_countries",
    }
    assert scenarios.NAMES | released == scenarios.NAMES
    assert len(scenarios.NAMES) == len(scenarios.FRAUDS)
    assert len(set(scenarios.NAMES.values())) == len(scenarios.FRAUDS)
    assert all(0 < number < 128 for number in scenarios.NAMES)
    assert scenarios.SHOPPING_SPREE.number == 0


def test_each_scenario_has_its_number_when_it_is_drawn() -> None:
    """What `episodes` draws for a scenario carries the number of that scenario."""
    there = world.world(1, 1)
    random = np.random.Generator(np.random.PCG64(1))
    for scenario, draw in episodes._DRAW.items():
        since = 10**15
        until = since + 60 * world.DAY
        drawn = draw(there, random, episodes.active(there, scenario, since, until))
        assert len(drawn.when)
        assert set(drawn.scenario.tolist()) - {0} == {scenario.number} - {0}, scenario.name
    assert set(scenarios.FRAUDS) < set(episodes._DRAW)


def table_row(start: str) -> str:
    [line] = [line for line in DATA.splitlines() if line.startswith(f"| {start} |")]
    return line


def duration(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:g} days"
    return "an hour" if hours == 1 else f"{hours:g} hours" if hours > 1 else f"{hours * 60:g} minutes"


@pytest.mark.parametrize("scenario", scenarios.FRAUDS, ids=lambda scenario: scenario.name)
def test_documentation_has_the_rate_and_length_of_a_scenario(scenario: scenarios.Scenario) -> None:
    _, _, share, episode, *_ = (cell.strip() for cell in table_row(f"`{scenario.name}`").split("|"))
    assert share == f"{scenario.share:.2%}".replace("%", " %")
    assert re.match(rf"{scenario.events:g} payments (in|within) {duration(scenario.hours)}\b", episode), (
        episode
    )


def test_documentation_has_the_other_rates() -> None:
    together = sum(scenario.share for scenario in scenarios.FRAUDS)
    assert f"**{together:.2%}**".replace("%", " %") in table_row("together")
    spree = scenarios.SHOPPING_SPREE
    assert f"shopping sprees: {spree.events} payments in two hours, {spree.share:.2%}"[:-1] in DATA
    assert spree.hours == 2
    assert f"furniture and holidays: {scenarios.BIG_PURCHASE_SHARE:.1%}"[:-1] in DATA
    assert f"{1 - episodes.USUALLY_KNOWN:.0%}"[:-1] + " % of honest payments are at a terminal" in DATA
    assert f"{scenarios.TRIP_SHARE:.0%}"[:-1] + " % of customers travel for 2 to 7 days" in DATA
    assert (world.FEWEST_TRIP_DAYS, world.FEWEST_TRIP_DAYS + world.MORE_TRIP_DAYS) == (2, 7)
    later = 1 - scenarios.NOTICED_AT_ONCE - scenarios.NEVER_REPORTED
    assert f"| {scenarios.NOTICED_AT_ONCE:.0%}"[:-1] in table_row("noticed by monitoring at once")
    assert f"| {later:.0%}"[:-1] in table_row("reported by the cardholder")
    assert f"| {scenarios.NEVER_REPORTED:.0%}"[:-1] in table_row("never reported")
    assert f"| {scenarios.FALSE_ALARM_RATE:.2%}"[:-1] in table_row("an honest payment reported as fraud")
    days = scenarios.EARLIEST_REPORT_DAYS, scenarios.LATEST_REPORT_DAYS, scenarios.MEAN_REPORT_DAYS + 1
    assert "after {:g} to {:g} days ({:g} on average)".format(*days) in DATA
    declined = transactions.HONEST_DECLINED, transactions.FRAUD_DECLINED
    assert "declined for {:g} % (of frauds {:g} %)".format(*(100 * share for share in declined)) in DATA


def test_documentation_has_the_size_of_the_world() -> None:
    text = " ".join(DATA.split())
    assert (
        f"A block has {world.BLOCK_CUSTOMERS:,} customers and {world.BLOCK_TERMINALS:,} terminals, and"
        in text
    )
    most = int(world.BLOCK_DAILY * transactions.BUSY)
    assert (
        f"is made for {world.BLOCK_DAILY:,} payments a day. Up to twice that, {most:,}, are of one block"
        in text
    )
    largest = world.MOST_BLOCKS * world.BLOCK_DAILY
    assert f"of {most + 1:,} three, of {largest:,} and more all {world.MOST_BLOCKS}." in text
    day = timedelta(days=1)
    assert transactions.blocks_for(most, day) == 1
    assert transactions.blocks_for(most + 1, day) == 3
    assert transactions.blocks_for(3 * world.BLOCK_DAILY, day) == 3
    assert transactions.blocks_for(100 * world.BLOCK_DAILY, day) == world.MOST_BLOCKS


def test_documentation_has_what_changes_over_time() -> None:
    rise = np.exp(rhythm.paydays())
    ordinals = {1: "1st", 15: "15th", 25: "25th"}
    assert "{}, the {} or the {}:".format(*(ordinals[day] for day in rhythm.PAYDAYS)) in table_row("Paydays")
    assert f"{rise.max() - 1:.0%} above".replace("%", " %") in table_row("Paydays")
    assert f"{1 - rise.min():.0%} below".replace("%", " %") in table_row("Paydays")
    cash = rise**rhythm.PAYDAY_CASH
    assert f"{cash.max():.1f} times as frequent, then {cash.min():.1f} times" in table_row("Paydays")
    assert f"{rhythm.DECEMBER_WEIGHT - 1:.0%} more".replace("%", " %") in table_row("Calendar")
    assert f"{1 - rhythm.HOLIDAY_WEIGHT:.0%} fewer".replace("%", " %") in table_row("Calendar")
    assert f"at least {transactions.HOLIDAY_WEB_SHARE:.0%}".replace("%", " %") in table_row("Calendar")
    assert f"another one after {world.HABIT_DAYS} days" in table_row("Habits")
    assert transactions.FAVOURITES == 8
    assert world.CUSTOMER_DAYS == 10 * 365
    assert world.TERMINAL_DAYS == world.CARD_DAYS == 4 * 365
    assert f"each for {devices.DEVICE_DAYS} days" in table_row("Devices")
    assert f"mostly ({devices.FRAUD_FOREIGN:.0%})".replace("%", " %") in DATA
    assert f"{devices.HONEST_FOREIGN:.0%} of them from a device".replace("%", " %") in DATA
    assert np.datetime64(world.LIVES_BEGIN, "D") == np.datetime64("2024-01-01")
    assert f"higher by {world.MOST_CUSTOMERS:,} (customers) or {world.MOST_TERMINALS:,}" in DATA
    endings = {kind.mcc: kind.cents for kind in places.CATEGORIES}
    assert [endings[5651].count(99), endings[5541].count(0), endings[5815].count(99)] == [3, 3, 6]
