"""Customers and terminals on a real PostgreSQL: no payment names one without a row, whoever writes how."""

from __future__ import annotations

import random
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from pipectl.databases import Databases
from pipectl.observer import Observer
from pipectl.pipeline.loading import HistoryLoader
from pipectl.pipeline.repairing import Repairer, plan
from pipectl.pipeline.verification import verify
from support import ROOT
from support.load_observer import LoadObserver
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.script_servers import Servers

pytest_plugins = ["support.script_servers"]
pytestmark = pytest.mark.integration

# Payments that no row stands behind, that are elsewhere than their terminal, or by a card that there is not.
WRONG = """
    SELECT count(*) FILTER (WHERE c.customer_id IS NULL), count(*) FILTER (WHERE x.terminal_id IS NULL),
           count(*) FILTER (WHERE (t.mcc, t.channel) <> (x.mcc, x.channel)
                               OR t.channel <> 'web'
                                  AND (t.country, t.lat, t.lon) <> (x.country, x.lat, x.lon)),
           count(*) FILTER (WHERE t.card_id - 10 * t.customer_id NOT BETWEEN 1 AND 8
                               OR t.card_id %% 2 = 0 AND c.cards = 1)
    FROM public.transactions AS t
    LEFT JOIN public.customers AS c USING (customer_id) LEFT JOIN public.terminals AS x USING (terminal_id)"""
# Rows that no payment names.
UNUSED = """
    SELECT (SELECT count(*) FROM public.customers AS c WHERE NOT EXISTS (
                SELECT FROM public.transactions AS t WHERE t.customer_id = c.customer_id)),
           (SELECT count(*) FROM public.terminals AS c WHERE NOT EXISTS (
                SELECT FROM public.transactions AS t WHERE t.terminal_id = c.terminal_id))"""
ROWS = {
    table: f"SELECT to_jsonb(d) - 'created_at' FROM public.{table} AS d ORDER BY {key}"
    for table, key in (("customers", "customer_id"), ("terminals", "terminal_id"))
}


def databases(servers: Servers) -> Databases:
    return Databases(*servers.addresses)


def rows(servers: Servers) -> dict[str, list[tuple[Any, ...]]]:
    return {table: servers.ask_postgres(statement) for table, statement in ROWS.items()}


def run(servers: Servers, script: str, *arguments: str, **environment: str) -> str:
    code, log = servers.run(script, *arguments, **environment)
    assert code == 0, log
    return log


def test_any_sequence_of_writers_leaves_no_name_without_a_row_and_no_row_twice(servers: Servers) -> None:
    """Batches, retries, loads in shards, kills, resets of both kinds and repairs, drawn by chance."""
    chance = random.Random(11)  # noqa: S311 -- a test that can be repeated
    load = ("--transactions", "4000", "--days", "2", "--chunk", "700")
    steps: list[Callable[[], object]] = [
        lambda: run(servers, "transaction_generator", PIPECTL_BATCH_ID=f"run {chance.randint(1, 4)}"),
        lambda: run(servers, "transaction_generator", "--count", str(chance.randint(1, 900))),
        lambda: run(servers, "history_loader", *load),
        lambda: kill(servers, 0.1 + chance.random(), *load),
        lambda: servers.ask_postgres("TRUNCATE public.customers"),
        lambda: run(servers, "detection_generator", "--repair"),
        lambda: databases(servers).empty(propagate=chance.random() < 0.5),
        lambda: beside_each_other(servers, load),
    ]
    run(servers, "transaction_generator")
    for number in range(len(steps) + 2):
        step = steps[number if number < len(steps) else chance.randrange(len(steps))]
        step()
        if step is steps[4]:
            # The next batch sees that the table is empty, and what all payments before it name.
            run(servers, "transaction_generator")
        assert servers.ask_postgres(WRONG) == [(0, 0, 0, 0)], number
        assert servers.ask_postgres(UNUSED) == [(0, 0)], number
    run(servers, "detection_generator")
    assert verify(databases(servers), "reconciled").ok


def kill(servers: Servers, seconds: float, *load: str) -> None:
    process = servers.start("history_loader", *load)
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    process.kill()
    process.communicate()


def beside_each_other(servers: Servers, load: tuple[str, ...]) -> None:
    """Two shards and two batches at once, which all bring the same people."""
    load = (*load[:3], "3", *load[4:])
    run(servers, "history_loader", *load, "--load", "beside", "--only", "plan")
    with ThreadPoolExecutor() as pool:
        shards = [
            pool.submit(
                run,
                servers,
                "history_loader",
                *load,
                "--load",
                "beside",
                "--only",
                "transactions",
                "--shard",
                shard,
            )
            for shard in ("1/2", "2/2")
        ]
        batches = [pool.submit(run, servers, "transaction_generator", "--count", "3000") for _ in range(2)]
        for done in (*shards, *batches):
            done.result()


def test_rows_follow_from_the_seed_whoever_writes_them(servers: Servers) -> None:
    run(servers, "history_loader", "--transactions", "20000", "--days", "30", "--chunk", "3000")
    loaded = rows(servers)
    assert len(loaded["customers"]) > 4_000
    assert len(loaded["terminals"]) > 2_000
    servers.ask_postgres("TRUNCATE public.customers, public.terminals")
    run(servers, "transaction_generator", PIPECTL_BATCH_ID="after the upgrade")
    batched = rows(servers)
    for table, before in loaded.items():
        known = {tuple(sorted(row.items())) for (row,) in batched[table]}
        assert {tuple(sorted(row.items())) for (row,) in before} <= known


def test_a_batch_writes_only_rows_that_are_new(servers: Servers) -> None:
    run(servers, "transaction_generator", PIPECTL_BATCH_ID="first")
    [(customers, terminals)] = servers.ask_postgres(
        "SELECT count(DISTINCT customer_id), count(DISTINCT terminal_id) FROM public.transactions"
    )
    versions = "SELECT xmin::text::bigint, count(*) FROM public.{} GROUP BY 1 ORDER BY 1"
    [(first, count)] = servers.ask_postgres(versions.format("customers"))
    assert (count, len(rows(servers)["terminals"])) == (customers, terminals)
    run(servers, "transaction_generator", PIPECTL_BATCH_ID="first")
    assert servers.ask_postgres(versions.format("customers")) == [(first, count)]
    run(servers, "transaction_generator", PIPECTL_BATCH_ID="second")
    again = servers.ask_postgres(versions.format("customers"))
    assert again[0] == (first, count)
    assert len(again) == 2


def test_another_seed_keeps_the_people_who_are_there_and_is_warned_of(servers: Servers) -> None:
    log = run(servers, "transaction_generator", "--count", "3000", PIPECTL_SEED="1")
    assert "seeds_mixed" not in log
    before = rows(servers)
    log = run(servers, "transaction_generator", "--count", "3000", PIPECTL_SEED="2")
    assert "level=warning event=seeds_mixed seed=2 other=1 " in log
    after = rows(servers)
    for table, known in before.items():
        assert [row for row in after[table] if row in known] == known
    found = verify(databases(servers), "reconciled")
    assert found.dangling == 0


def test_a_load_of_another_seed_says_so(servers: Servers) -> None:
    def said(seed: str) -> list[str]:
        observer = LoadObserver()
        loader = HistoryLoader(ROOT, servers.addresses, seed=seed, observer=observer)
        loader.load(transactions=100, days=1, shards=1)
        return observer.reports

    assert said("1") == []
    [sentence] = said("2")
    assert "have customers and terminals of seed 1, which stay: seed 2 means others" in sentence
    assert "pipectl reset --data-only" in sentence


def test_what_is_missing_is_named_and_repaired_as_far_as_the_world_has_it(servers: Servers) -> None:
    run(servers, "transaction_generator", "--count", "2000")
    run(servers, "detection_generator")
    before = rows(servers)
    [(dangling,)] = servers.ask_postgres(
        "SELECT count(*) FROM public.transactions"
        " WHERE customer_id %% 200000 <= 500 OR terminal_id %% 100000 <= 300"
    )
    servers.ask_postgres("DELETE FROM public.customers WHERE customer_id %% 200000 <= 500")
    servers.ask_postgres("DELETE FROM public.terminals WHERE terminal_id %% 100000 <= 300")
    found = verify(databases(servers), "reconciled")
    assert found.reasons == (f"{dangling} transactions name a customer or terminal without a row",)
    assert plan(found).dangling == dangling
    assert not plan(found).is_empty
    missing = sum(map(len, before.values())) - sum(map(len, rows(servers).values()))
    # Numbers that no world has are the user's own.
    servers.ask_postgres("UPDATE public.transactions SET customer_id = 999999999 WHERE transaction_id = 1")

    done = Repairer(ROOT, servers.addresses, seed=None, observer=Observer()).repair()

    assert missing - 1 <= done.dimensions <= missing
    assert verify(databases(servers), "reconciled").dangling == 1


def test_a_batch_behind_another_that_brings_the_same_people_waits_and_both_are_whole(
    servers: Servers,
) -> None:
    run(servers, "transaction_generator")
    servers.ask_postgres("DELETE FROM public.customers")
    holder = servers.postgres()
    holder.cursor().execute(
        "INSERT INTO public.customers (customer_id, country, lat, lon, segment, cards, opened_on)"
        " SELECT n + 200000 * life, 'DE', 0, 0, 'basic', 1, '2000-01-01'"
        " FROM generate_series(1, 5000) AS n, generate_series(0, 9) AS life"
    )
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    script = servers.start("transaction_generator")
    try:
        until(lambda: servers.ask_postgres(waiting) == [(1,)], "a batch that waits")
    finally:
        holder.rollback()
        holder.close()
    log, _ = script.communicate(timeout=200)
    assert script.returncode == 0, log
    assert servers.ask_postgres(WRONG) == [(0, 0, 0, 0)]


def test_a_table_of_the_same_name_that_is_the_users_own_is_named(servers: Servers) -> None:
    servers.ask_postgres("CREATE TABLE public.customers (name text)")
    code, log = servers.run("transaction_generator")
    assert code == 5
    assert "public.customers or public.terminals is another program's table: rename it" in log
    servers.ask_postgres("DROP TABLE public.customers")
    run(servers, "transaction_generator")
