"""Checks in SQL on real servers: what they find, what the servers refuse, and how long they may take."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from fraud_pipeline import sql_checks
from fraud_pipeline.errors import DatabaseError
from fraud_pipeline.sql_checks import ERROR, FAILED, MYSQL, PASSED, POSTGRES, TIMED_OUT, Result, parse, run
from support.sql_checks import EVIL_SLOT, FORBIDDEN, MYSQL_TABLE, OUTSIDE, POSTGRES_TABLE
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.script_servers import Servers

pytest_plugins = ["support.script_servers"]
pytestmark = pytest.mark.integration

TENS = " UNION ALL ".join(f"SELECT {digit} AS digit" for digit in range(10))
MANY = f"SELECT 1 AS one FROM {', '.join(f'({TENS}) AS t{place}' for place in range(5))}"


# Accounts beside the one that owns the database, and the variables that choose them.
SUPERUSER = {"AIRBYTE_POSTGRES_USER": "postgres", "AIRBYTE_POSTGRES_PASSWORD": "random"}
STRANGER = {"AIRBYTE_POSTGRES_USER": "stranger", "AIRBYTE_POSTGRES_PASSWORD": "stranger"}


def answer(
    servers: Servers, database: str, query: str, seconds: float = 20.0, account: dict[str, str] | None = None
) -> Result:
    [check] = parse("a.sql", f"-- check: a sentence\n-- database: {database}\n{query}")
    return run(check, servers.environment | (account or {}), seconds)


@pytest.fixture
def kept(servers: Servers) -> Iterator[Servers]:
    """Both databases with a table, and a function that empties it."""
    for statement in POSTGRES_TABLE:
        servers.ask_postgres(statement)
    for statement in MYSQL_TABLE:
        servers.ask_mysql(statement)
    yield servers
    servers.ask_postgres("DROP FUNCTION empties")
    servers.ask_mysql("DROP PROCEDURE empties")


@pytest.fixture
def slot(servers: Servers) -> Iterator[str]:
    """A replication slot that checks try to change."""
    servers.ask_postgres("SELECT pg_create_physical_replication_slot('pipectl_kept', true)")
    yield "pipectl_kept"
    servers.ask_postgres("SELECT pg_drop_replication_slot('pipectl_kept')")


@pytest.mark.parametrize("account", [{}, SUPERUSER])
def test_what_no_transaction_forbids_is_refused_by_rights(
    kept: Servers, slot: str, account: dict[str, str]
) -> None:
    slots = "SELECT slot_name, restart_lsn FROM pg_replication_slots"
    before = kept.ask_postgres(slots)
    other = kept.postgres(**({"user": "postgres", "password": "random"} if account else {}))
    try:
        for attempt in (
            *FORBIDDEN[POSTGRES],
            f"SELECT pg_drop_replication_slot('{slot}')",
            f"SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())",
            f"SELECT pg_copy_physical_replication_slot('{slot}', 'pipectl_evil')",
            f"SELECT pg_terminate_backend({other.info.backend_pid})",
            f"SELECT pg_cancel_backend({other.info.backend_pid})",
        ):
            result = answer(kept, POSTGRES, attempt, account=account)
            assert (result.state, bool(result.error)) == (ERROR, True), (attempt, result)
        assert kept.ask_postgres(slots) == before
        with other.cursor() as cursor:
            cursor.execute("SELECT id FROM kept")
            assert cursor.fetchall() == [(1,), (2,)]
    finally:
        other.close()


def test_what_a_check_leaves_in_its_session_ends_with_it(kept: Servers) -> None:
    # A large object, a setting, a lock, a temporary view and its function.
    query = "SELECT lo_create(0), set_config('work_mem', '1MB', false), pg_advisory_lock(1)"
    answer(kept, POSTGRES, query)
    locks = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"
    until(lambda: not kept.ask_postgres(locks), "the session's end")
    until(
        lambda: not kept.ask_postgres("SELECT 1 FROM pg_class WHERE relname LIKE 'pipectl%%'"),
        "its view's end",
    )
    assert not kept.ask_postgres("SELECT 1 FROM pg_proc WHERE proname LIKE 'pipectl%%'")
    assert not kept.ask_postgres("SELECT 1 FROM pg_largeobject_metadata")


def test_a_check_holds_up_no_labels(kept: Servers) -> None:
    """Its query has no transaction id, which those who label wait for."""
    query = "SELECT pg_current_xact_id_if_assigned()"
    assert answer(kept, POSTGRES, query).rows == ((None,),)


def test_an_account_without_a_lesser_role_must_have_no_replication(kept: Servers) -> None:
    kept.ask_superuser("CREATE ROLE stranger LOGIN PASSWORD 'stranger'")
    kept.ask_postgres("GRANT SELECT ON kept TO stranger")
    try:
        result = answer(kept, POSTGRES, "SELECT id, current_user FROM kept WHERE id = 1", account=STRANGER)
        assert (result.rows, result.error) == ((("1", "stranger"),), "")
        for query in ("DELETE FROM kept RETURNING id", EVIL_SLOT):
            assert answer(kept, POSTGRES, query, account=STRANGER).state == ERROR
        kept.ask_superuser("ALTER ROLE stranger REPLICATION")
        with pytest.raises(DatabaseError, match="GRANT pg_read_all_data TO stranger"):
            answer(kept, POSTGRES, "SELECT id FROM kept", account=STRANGER)
        kept.ask_superuser("GRANT pg_read_all_data TO stranger")
        assert answer(kept, POSTGRES, "SELECT id FROM kept WHERE id > 5", account=STRANGER).state == PASSED
        assert answer(kept, POSTGRES, EVIL_SLOT, account=STRANGER).state == ERROR
    finally:
        kept.ask_superuser("DROP OWNED BY stranger")
        kept.ask_superuser("DROP ROLE stranger")


def test_a_sequence_of_mariadb_is_not_advanced(servers: Servers) -> None:
    if not servers.is_mariadb():
        pytest.skip("only MariaDB has sequences")
    servers.ask_mysql("CREATE SEQUENCE counter")
    try:
        for query in ("SELECT NEXTVAL(counter)", "SELECT SETVAL(counter, 100)"):
            assert answer(servers, MYSQL, query).state == ERROR
        assert servers.ask_mysql("SELECT NEXTVAL(counter)") == [(1,)]
    finally:
        servers.ask_mysql("DROP SEQUENCE counter")


@pytest.mark.parametrize(
    ("database", "value", "shown"),
    [
        (POSTGRES, "'4713-01-01 BC'::date", "4713-01-01 BC"),
        (POSTGRES, "'infinity'::date", "infinity"),
        (POSTGRES, "'24:00'::time", "24:00:00"),
        (POSTGRES, "'2026-01-31 00:00'::timestamptz", "2026-01-31 00:00:00+00"),
        (POSTGRES, r"'\x00ff'::bytea", r"\x00ff"),
        (POSTGRES, "true", "true"),
        (POSTGRES, "ARRAY[1, NULL]", "{1,NULL}"),
        (POSTGRES, "ROW(1, 'a b')", '(1,"a b")'),
        (POSTGRES, "'a{b}%s' /* ; */; -- ;", "a{b}%s"),
        (POSTGRES, "';' /* a */;;\n/* b; */ -- c", ";"),
        (MYSQL, "CAST('838:59:59' AS TIME)", "838:59:59"),
        (MYSQL, "CAST('-01:00:00' AS TIME)", "-01:00:00"),
        (MYSQL, "CAST('9999-12-31' AS DATE)", "9999-12-31"),
        (MYSQL, "X'00FF'", "0x00FF"),
        (MYSQL, "1.50", "1.50"),
        (MYSQL, "';' AS a, 1 AS a LIMIT 1; # a", ";"),
        (MYSQL, "'ä'", "ä"),
    ],
)
def test_values_are_as_the_server_writes_them(
    servers: Servers, database: str, value: str, shown: str
) -> None:
    result = answer(servers, database, f"SELECT {value}")
    assert ([row[0] for row in result.rows], result.error) == ([shown], "")


def test_rows_without_columns_are_counted(kept: Servers) -> None:
    result = answer(kept, POSTGRES, "SELECT FROM kept")
    assert (result.rows, result.columns, result.found) == (((), ()), (), 2)


def test_no_name_or_error_is_long(servers: Servers) -> None:
    """MariaDB names a column by its whole expression, and PostgreSQL tells the whole value that is wrong."""
    long = "x" * 10_000
    named = answer(servers, MYSQL, f"SELECT '{long}'")
    wrong = answer(servers, POSTGRES, f"SELECT CAST('{long}' AS integer)")
    assert (named.state, wrong.state) == (FAILED, ERROR)
    assert all(len(text) <= sql_checks.MOST_CHARACTERS + 1 for text in (*named.columns, wrong.error))


@pytest.mark.parametrize(
    "query", ["SELECT 1; SELECT 2", "DELETE FROM kept", "SHOW work_mem", "EXPLAIN SELECT 1"]
)
def test_what_is_no_query_is_told_in_the_projects_words(kept: Servers, query: str) -> None:
    assert answer(kept, POSTGRES, query).error == sql_checks.NOT_A_QUERY


@pytest.mark.parametrize("query", ["SHOW TABLES", "EXPLAIN SELECT 1", "CALL empties()", "ANALYZE TABLE kept"])
def test_what_is_no_query_is_told_by_mysql_alike(kept: Servers, query: str) -> None:
    assert answer(kept, MYSQL, query).error == sql_checks.NOT_A_QUERY


@pytest.mark.parametrize("database", FORBIDDEN)
def test_what_changes_data_or_is_no_single_query_is_refused(kept: Servers, database: str) -> None:
    results = {query: answer(kept, database, query, seconds=5) for query in FORBIDDEN[database]}

    assert {query: result for query, result in results.items() if result.state != ERROR} == {}
    assert all(result.error for result in results.values())
    for ask in (kept.ask_postgres, kept.ask_mysql):
        assert ask("SELECT id FROM kept") == [(1,), (2,)]
    assert not OUTSIDE.exists()


@pytest.mark.parametrize("database", [POSTGRES, MYSQL])
@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("SELECT id FROM kept WHERE id > 5", ()),
        ("SELECT id FROM kept ORDER BY 1;", (("1",), ("2",))),
        ("SELECT id FROM kept ORDER BY 1; -- a comment", (("1",), ("2",))),
        ("SELECT NULL, 'a;b', '100%', id FROM kept WHERE id = 1", ((None, "a;b", "100%", "1"),)),
        (
            "-- a comment\n\nWITH k AS (SELECT id FROM kept)"
            " SELECT a.*, b.* FROM k AS a JOIN k AS b ON b.id > a.id",
            (("1", "2"),),
        ),
        ("(SELECT 1)", (("1",),)),
    ],
)
def test_a_check_finds_the_rows_that_its_query_returns(
    kept: Servers, database: str, query: str, rows: tuple[tuple[str | None, ...], ...]
) -> None:
    result = answer(kept, database, query)

    assert (result.error, result.state) == ("", FAILED if rows else PASSED)
    assert (result.rows, result.found, result.more) == (rows, len(rows), False)
    assert all(len(result.columns) == len(row) for row in rows)


@pytest.mark.parametrize("database", [POSTGRES, MYSQL])
def test_rows_and_values_are_bounded(servers: Servers, database: str) -> None:
    many, some, wide = (
        answer(servers, database, query)
        for query in (MANY, f"{MANY} LIMIT 2345", "SELECT repeat('ä', 100000) AS wide")
    )

    assert (many.found, many.more, len(many.rows)) == (10_000, True, 10)
    assert (some.found, some.more, len(some.rows)) == (2_345, False, 10)
    assert wide.rows == ((f"{'ä' * 500}…",),)


def test_an_error_is_at_its_line_of_the_file(servers: Servers) -> None:
    for database, query, line, said in (
        (POSTGRES, "SELECT 1\nFROM (SELECT 2) AS two\nWHERE nonsense", 6, '"nonsense" does not exist'),
        (POSTGRES, "SELECT 1\nFROM FROM", 5, "syntax error"),
        (POSTGRES, "SELECT 1 / (SELECT 0)", 4, "division by zero"),
        (MYSQL, "SELECT 1\nFROM (SELECT 2) AS two\nWHER 3", 6, "syntax"),
        (MYSQL, "SELECT nonsense", 4, "nonsense"),
    ):
        result = answer(servers, database, f"-- a comment\n{query}")
        assert (result.state, result.line, said in result.error) == (ERROR, line, True), result
        assert not result.no_table
    for database in (POSTGRES, MYSQL):
        assert answer(servers, database, "SELECT 1\nFROM nowhere").no_table


@pytest.mark.parametrize(
    ("database", "query"),
    [
        (POSTGRES, "SELECT pg_sleep(200)"),
        (POSTGRES, "SELECT set_config('statement_timeout', '0', false), pg_sleep(200)"),
        (MYSQL, "SELECT SLEEP(200) /* a check */"),
        (MYSQL, f"SELECT /* a check */ COUNT(*) FROM ({MANY}) AS a, ({MANY}) AS b"),
        (MYSQL, "SELECT /*+ MAX_EXECUTION_TIME(0) */ SLEEP(200) /* a check */"),
    ],
)
def test_a_check_ends_when_its_time_is_over(
    servers: Servers, database: str, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_checks, "GRACE_SECONDS", 0.5)

    result = answer(servers, database, query, seconds=0.3)

    assert (result.state, result.error) == (TIMED_OUT, "It took longer than 0.3 s.")
    at_work = {
        POSTGRES: "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sql_checks'",
        MYSQL: "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE '%a check%'"
        " AND id <> CONNECTION_ID()",
    }
    ask = servers.ask_postgres if database == POSTGRES else servers.ask_mysql
    until(lambda: ask(at_work[database]) == [(0,)], "the statement's end in the server")


@pytest.mark.parametrize("database", [POSTGRES, MYSQL])
def test_a_lock_is_not_waited_for_longer(kept: Servers, database: str) -> None:
    connection = kept.postgres() if database == POSTGRES else kept.mysql()
    try:
        lock = "LOCK TABLE kept" if database == POSTGRES else "LOCK TABLES kept WRITE"
        connection.cursor().execute(lock)
        assert answer(kept, database, "SELECT id FROM kept", seconds=0.3).state == TIMED_OUT
    finally:
        connection.close()


def test_the_script_logs_what_was_found_and_ends_with_the_worst_code(kept: Servers, tmp_path: Path) -> None:
    def check(database: str, query: str) -> str:
        return f"-- check: {query}\n-- database: {database}\n{query}\n"

    holds, found = check(MYSQL, "SELECT id FROM kept WHERE id > 9"), check(POSTGRES, "SELECT id FROM kept")
    slow, wrong = check(POSTGRES, "SELECT pg_sleep(200)"), check(MYSQL, "SELECT nonsense")
    for texts, expected in (
        ((holds,), 0),
        ((holds, found), 6),
        ((found, slow), 8),
        ((wrong, found, slow), 5),
    ):
        (tmp_path / "a.sql").write_text("\n".join(texts), encoding="utf-8")
        code, log = kept.run("sql_checks", str(tmp_path), "--timeout=0.3")
        assert code == expected, log
    assert f"place={tmp_path}/a.sql:5 rows=2" in log
    assert 'event=row values="id=1"' in log or "event=row values=id=1" in log
    assert "Traceback" not in log
    code, log = kept.run("sql_checks", "--json", str(tmp_path), "--timeout=0.3")
    assert code == 0
    assert [json.loads(line)["state"] for line in log.splitlines()] == ["error", "failed", "timed out"]


def test_a_database_that_is_not_there_is_one_sentence(kept: Servers, tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text("-- check: a\n-- database: airbyte-mysql\nSELECT 1", encoding="utf-8")
    code, log = kept.run("sql_checks", str(tmp_path), AIRBYTE_MYSQL_PORT="1")
    assert code == 5
    assert "cannot be reached: check AIRBYTE_MYSQL_HOST and AIRBYTE_MYSQL_PORT" in log
    assert "Traceback" not in log
