"""Schema migrations on both real servers: of an old database, at once, killed, refused, and without need."""

from __future__ import annotations

import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
from psycopg2.extensions import cursor as PostgresCursor  # noqa: N812

from fraud_pipeline import schema
from fraud_pipeline.connections import mysql_database, open_mysql, open_postgres, postgres_database
from fraud_pipeline.errors import DatabaseError
from pipectl.databases import Databases
from pipectl.pipeline.verification import verify
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.script_servers import Servers

pytest_plugins = ["support.script_servers"]
pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
RELEASE = ROOT / "tests" / "fixtures" / "release-0.1.0"
SCRIPTS = ("transaction_generator", "detection_generator")
# A later release, as these tests imagine it: one migration more in each database.
NEXT = {name: len(schema.migrations(name)) + 1 for name in ("postgres", "mysql")}
MERCHANT, REVIEWED = f"{NEXT['postgres']:04d}_merchant", f"{NEXT['mysql']:04d}_reviewed"
LATER = {
    f"postgres/{MERCHANT}.sql": """\
ALTER TABLE public.transactions ADD COLUMN IF NOT EXISTS merchant text NOT NULL DEFAULT 'unknown';
CREATE TABLE IF NOT EXISTS sim.merchants (name text PRIMARY KEY);
""",
    f"mysql/{REVIEWED}.sql": """\
-- Who looked at a label; and when.
ALTER TABLE fraud_labels ADD COLUMN reviewer VARCHAR(32) NOT NULL DEFAULT 'nobody';
ALTER TABLE fraud_labels ADD COLUMN reviewed_at DATETIME(6) NULL;
CREATE INDEX reviewed_at ON fraud_labels (reviewed_at);
CREATE TABLE reviewers (name VARCHAR(32) NOT NULL PRIMARY KEY);
""",
}
DIES_AFTER = """
import os, sys
sys.path.insert(0, {scripts!r})
from fraud_pipeline import schema
from fraud_pipeline.connections import mysql_database, open_mysql
whole = schema.statements
def cut(file):
    for number, statement in enumerate(whole(file)):
        if file.stem == {name!r} and number == {count}:
            os._exit(9)
        yield statement
    if file.stem == {name!r}:
        os._exit(9)
schema.statements = cut
with open_mysql(mysql_database(os.environ)) as mysql:
    schema.prepare_mysql(mysql)
"""
POSTGRES_SCHEMA = """
    SELECT table_schema || '.' || table_name, string_agg(
        column_name || ' ' || data_type || ' ' || is_nullable || ' ' || coalesce(column_default, ''), ', '
        ORDER BY ordinal_position)
    FROM information_schema.columns WHERE table_schema IN ('public', 'sim') GROUP BY 1
    UNION ALL SELECT indexname, indexdef FROM pg_indexes WHERE schemaname IN ('public', 'sim') ORDER BY 1"""


@pytest.fixture
def old(servers: Servers) -> Servers:
    """Both databases as release 0.1.0 left them: 324 transactions, the last 70 of them without a label."""
    servers.ask_postgres((RELEASE / "postgres.sql").read_text())
    for statement in schema.statements(RELEASE / "mysql.sql"):
        servers.ask_mysql(statement)
    return servers


@pytest.fixture
def later(tmp_path: Path) -> Path:
    """The scripts of a later release."""
    folder = tmp_path / "scripts"
    shutil.copytree(ROOT / "scripts", folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in LATER.items():
        (folder / "fraud_pipeline" / "migrations" / name).write_text(text)
    return folder


def run(servers: Servers, folder: Path = ROOT / "scripts", **environment: str) -> str:
    log = ""
    for script in SCRIPTS:
        code, told = servers.run(str(folder / script), **environment)
        assert code == 0, told
        log += told
    return log


def rows(servers: Servers) -> dict[str, list[tuple[Any, ...]]]:
    columns = "transaction_id, tx_time, customer_id, card_id, terminal_id, mcc, amount, currency, channel"
    return {
        "transactions": servers.ask_postgres(
            f"SELECT {columns}, country, lat, lon, status, created_at, updated_at, xid::text"
            " FROM public.transactions ORDER BY 1"
        ),
        "truth": servers.ask_postgres("SELECT * FROM sim.ground_truth ORDER BY 1"),
        "batches": servers.ask_postgres("SELECT * FROM sim.batches ORDER BY 1"),
        "loads": servers.ask_postgres("SELECT * FROM sim.loads ORDER BY 1"),
        "labels": servers.ask_mysql(
            "SELECT transaction_id, is_fraud, fraud_type, confidence, label_source, detected_at, created_at"
            " FROM fraud_labels ORDER BY 1"
        ),
    }


def mysql_schema(servers: Servers) -> list[str]:
    tables = servers.ask_mysql("SHOW TABLES")
    return [servers.ask_mysql(f"SHOW CREATE TABLE `{name}`")[0][1] for (name,) in tables]


def versions(servers: Servers) -> tuple[list[int], list[int]]:
    asked = "SELECT version FROM {}schema_migrations ORDER BY 1"
    return (
        [row[0] for row in servers.ask_postgres(asked.format("sim."))],
        [row[0] for row in servers.ask_mysql(asked.format(""))],
    )


def applied(last: dict[str, int]) -> tuple[list[int], list[int]]:
    return list(range(1, last["postgres"] + 1)), list(range(1, last["mysql"] + 1))


def reconciled(servers: Servers) -> bool:
    return verify(Databases(*servers.addresses), "reconciled").ok


def test_database_of_the_last_release_is_recognised_and_keeps_every_row(old: Servers) -> None:
    before = rows(old)
    assert [len(before[name]) for name in ("transactions", "labels")] == [324, 254]

    log = run(old, PIPECTL_BATCH_ID="the first of a new release")

    after = rows(old)
    assert {name: set(before[name]) <= set(after[name]) for name in ("transactions", "truth", "batches")} == {
        "transactions": True,
        "truth": True,
        "batches": True,
    }
    assert after["loads"] == before["loads"]
    assert {label[0] for label in before["labels"]} < {label[0] for label in after["labels"]}
    assert len(after["batches"]) == len(before["batches"]) + 1
    people = (
        "SELECT count(DISTINCT customer_id), (SELECT count(*) FROM public.customers) FROM public.transactions"
    )
    [(named, known)] = old.ask_postgres(people)
    assert named == known
    assert log.count("event=schema_migrated database=postgres version=1 migration=0001_tables") == 1
    assert reconciled(old)
    assert "schema_migrated" not in run(old)
    assert reconciled(old)


def test_old_and_new_databases_have_the_same_schema(servers: Servers) -> None:
    run(servers)
    fresh = servers.ask_postgres(POSTGRES_SCHEMA), mysql_schema(servers)
    servers.empty()
    servers.ask_postgres((RELEASE / "postgres.sql").read_text())
    for statement in schema.statements(RELEASE / "mysql.sql"):
        servers.ask_mysql(statement)
    run(servers)

    assert servers.ask_postgres(POSTGRES_SCHEMA) == fresh[0]
    assert mysql_schema(servers) == fresh[1]


def test_column_that_is_added_reaches_an_existing_database_once(old: Servers, later: Path) -> None:
    before = rows(old)
    scripts = [str(later / name) for name in SCRIPTS for _ in range(2)]

    processes = [old.start(script) for script in scripts]
    logs = [process.communicate(timeout=200)[0] for process in processes]

    assert [process.returncode for process in processes] == [0] * len(scripts), logs
    for database, migration in (("postgres", MERCHANT), ("mysql", REVIEWED)):
        told = f"event=schema_migrated database={database} version={NEXT[database]} migration={migration}"
        assert "".join(logs).count(told) == 1
    assert versions(old) == applied(NEXT)
    assert set(before["transactions"]) < set(rows(old)["transactions"])
    old_rows = "SELECT count(*) FROM public.transactions WHERE merchant = 'unknown' AND transaction_id <= 324"
    assert old.ask_postgres(old_rows) == [(324,)]
    assert old.ask_mysql("SELECT COUNT(*) FROM fraud_labels WHERE reviewer = 'nobody'") >= [(324,)]
    run(old, later)
    assert reconciled(old)


def test_table_that_was_dropped_gets_its_later_columns_too(servers: Servers, later: Path) -> None:
    run(servers, later)
    expected = servers.ask_postgres(POSTGRES_SCHEMA), mysql_schema(servers)
    servers.ask_postgres("DROP TABLE public.transactions")
    servers.ask_mysql("DROP TABLE fraud_labels")

    run(servers, later)

    assert (servers.ask_postgres(POSTGRES_SCHEMA), mysql_schema(servers)) == expected
    assert reconciled(servers)


@pytest.mark.parametrize("count", range(5))
def test_mysql_migration_that_dies_between_two_statements_is_taken_up(
    old: Servers, later: Path, count: int
) -> None:
    run(old, later)
    expected = mysql_schema(old)
    old.ask_mysql("DROP TABLE fraud_labels, label_progress, schema_migrations, reviewers")
    for statement in schema.statements(RELEASE / "mysql.sql"):
        old.ask_mysql(statement)
    labels = old.ask_mysql("SELECT COUNT(*) FROM fraud_labels")
    program = DIES_AFTER.format(scripts=str(later), name=REVIEWED, count=count)
    died = subprocess.run((sys.executable, "-c", program), env=old.environment, check=False)
    assert died.returncode == 9
    assert versions(old)[1] == list(range(1, NEXT["mysql"]))

    with open_mysql(mysql_database(old.environment)) as mysql, pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", later / "fraud_pipeline" / "migrations")
        schema.prepare_mysql(mysql)

    assert mysql_schema(old) == expected
    assert old.ask_mysql("SELECT COUNT(*) FROM fraud_labels") == labels


def test_postgres_migration_that_fails_leaves_nothing(
    old: Servers, later: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = old.ask_postgres(POSTGRES_SCHEMA)
    folder = later / "fraud_pipeline" / "migrations"
    with (folder / "postgres" / f"{MERCHANT}.sql").open("a") as file:
        file.write("SELECT 1 / 0;\n")
    monkeypatch.setattr(schema, "MIGRATIONS", folder)

    with (
        pytest.raises(
            DatabaseError, match=rf"^PostgreSQL failed migration {MERCHANT}\.sql: division by zero"
        ),
        open_postgres(postgres_database(old.environment), "test") as postgres,
    ):
        schema.prepare_postgres(postgres)

    after = dict(old.ask_postgres(POSTGRES_SCHEMA))
    # The migrations before it have made more tables, and more columns behind those that there were.
    assert len(after) > len(before)
    assert all(after[name].startswith(text) for name, text in before)
    assert "merchant" not in str(after)
    assert versions_of(old, "postgres") == list(range(1, NEXT["postgres"]))


def test_all_migrations_run_again_over_their_result(servers: Servers, later: Path) -> None:
    run(servers, later)
    expected = servers.ask_postgres(POSTGRES_SCHEMA), mysql_schema(servers), rows(servers)
    servers.ask_postgres("TRUNCATE sim.schema_migrations")
    servers.ask_mysql("TRUNCATE TABLE schema_migrations")
    with (
        open_postgres(postgres_database(servers.environment), "test") as postgres,
        open_mysql(mysql_database(servers.environment)) as mysql,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(schema, "MIGRATIONS", later / "fraud_pipeline" / "migrations")
        schema.prepare_postgres(postgres)
        schema.prepare_mysql(mysql)

    assert (servers.ask_postgres(POSTGRES_SCHEMA), mysql_schema(servers), rows(servers)) == expected
    assert versions(servers) == applied(NEXT)


@pytest.mark.parametrize(
    ("script", "name", "ask"),
    [
        ("transaction_generator", "PostgreSQL", "ask_postgres"),
        ("history_loader", "PostgreSQL", "ask_postgres"),
        ("detection_generator", "MySQL", "ask_mysql"),
    ],
)
def test_database_of_a_newer_release_is_not_touched(
    servers: Servers, script: str, name: str, ask: str
) -> None:
    run(servers)
    known = len(schema.migrations("postgres" if name == "PostgreSQL" else "mysql"))
    record = "sim.schema_migrations" if name == "PostgreSQL" else "schema_migrations"
    getattr(servers, ask)(f"INSERT INTO {record} (version, name) VALUES (7, '0007_later')")
    # Also a part that these scripts would make.
    getattr(servers, ask)("DROP TABLE " + ("sim.loads" if name == "PostgreSQL" else "label_progress"))
    before = servers.ask_postgres(POSTGRES_SCHEMA), mysql_schema(servers)

    code, log = servers.run(script)

    assert code == 5
    sentence = (
        f"{name}'s schema has version 7, but these scripts know only {known}: update the project's scripts"
    )
    assert sentence in log
    assert "Traceback" not in log
    assert (servers.ask_postgres(POSTGRES_SCHEMA), mysql_schema(servers)) == before


@pytest.mark.parametrize(
    ("script", "prefix"),
    [("transaction_generator", "AIRBYTE_POSTGRES"), ("detection_generator", "AIRBYTE_MYSQL")],
)
def test_missing_rights_are_one_sentence(servers: Servers, script: str, prefix: str) -> None:
    code, log = servers.run(script, **{f"{prefix}_USER": "airbyte", f"{prefix}_PASSWORD": "sesame"})

    assert code == 5
    assert "denied" in log
    assert "Traceback" not in log
    assert len([line for line in log.splitlines() if "event=failed" in line]) == 1


@pytest.mark.parametrize("name", ["postgres", "mysql"])
def test_migration_behind_an_open_transaction_gives_up_in_one_sentence(
    old: Servers, later: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(schema, "LOCK_SECONDS", 1)
    monkeypatch.setattr(schema, "MIGRATIONS", later / "fraud_pipeline" / "migrations")
    holder = old.postgres() if name == "postgres" else old.mysql()
    holder.autocommit = False
    table = "public.transactions" if name == "postgres" else "fraud_labels"
    cursor = holder.cursor()
    cursor.execute(f"SELECT transaction_id FROM {table}")
    cursor.fetchall()

    def migrate() -> None:
        if name == "postgres":
            with open_postgres(postgres_database(old.environment), "test") as postgres:
                schema.prepare_postgres(postgres)
        else:
            with open_mysql(mysql_database(old.environment)) as mysql:
                schema.prepare_mysql(mysql)

    try:
        with pytest.raises(DatabaseError, match="others have locked it for 1 seconds: run again"):
            migrate()
    finally:
        holder.close()
    migrate()
    assert versions_of(old, name) == list(range(1, NEXT[name] + 1))


def versions_of(servers: Servers, name: str) -> list[int]:
    ask: Callable[[str], list[tuple[Any, ...]]] = (
        servers.ask_postgres if name == "postgres" else servers.ask_mysql
    )
    record = "sim.schema_migrations" if name == "postgres" else "schema_migrations"
    return [row[0] for row in ask(f"SELECT version FROM {record} ORDER BY 1")]


def test_record_is_neither_counted_nor_emptied(servers: Servers) -> None:
    run(servers)
    databases = Databases(*servers.addresses)

    before = databases.empty()

    assert not [table for database in before for table in database.tables if "migrations" in table.name]
    assert verify(databases, "empty").ok
    assert versions(servers) == applied({name: number - 1 for name, number in NEXT.items()})
    assert "schema_migrated" not in run(servers)
    assert reconciled(servers)


class Counting(PostgresCursor):
    asked: list[str]

    def execute(self, query: Any, values: Any = None) -> None:
        self.asked.append(str(query))
        super().execute(query, values)


def test_one_query_finds_that_nothing_is_to_do(servers: Servers) -> None:
    run(servers)
    Counting.asked = []
    address = postgres_database(servers.environment)
    connection = psycopg2.connect(
        host=address.host,
        port=address.port,
        user=address.user,
        password=address.password,
        dbname=address.name,
        cursor_factory=Counting,
    )
    writer = servers.postgres()
    writer.cursor().execute("UPDATE public.transactions SET country = 'XX'")
    try:
        schema.prepare_postgres(connection)
    finally:
        writer.close()
        connection.close()
    assert len(Counting.asked) == 1
    count = "SHOW SESSION STATUS LIKE 'Questions'"
    with open_mysql(mysql_database(servers.environment)) as mysql, mysql.cursor() as cursor:
        cursor.execute(count)
        before = int(cursor.fetchall()[0][1])  # type: ignore[index,arg-type]
        schema.prepare_mysql(mysql)
        cursor.execute(count)
        after = int(cursor.fetchall()[0][1])  # type: ignore[index,arg-type]
    # The query, the COMMIT, and the question itself.
    assert after - before == 3


def test_list_of_objects_is_what_the_migrations_make(servers: Servers) -> None:
    run(servers)

    relations = servers.ask_postgres(
        """SELECT c.oid::regclass::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
           WHERE nspname IN ('public', 'sim') AND relkind IN ('r', 'i') AND relname NOT LIKE '%%pkey'"""
    )
    names = {name if "." in name else f"public.{name}" for (name,) in relations}
    assert names == {*schema.POSTGRES_RELATIONS, "sim.schema_migrations"}
    assert {name for (name,) in servers.ask_mysql("SHOW TABLES")} == {
        *schema.MYSQL_TABLES,
        "schema_migrations",
    }


def test_updated_at_moves_with_a_change_of_a_row_and_with_nothing_else(servers: Servers) -> None:
    servers.run("transaction_generator")
    first = "SELECT transaction_id, updated_at FROM public.transactions ORDER BY 1 LIMIT 1"
    [(identity, before)] = servers.ask_postgres(first)
    change = "UPDATE public.transactions SET {} WHERE transaction_id = %s RETURNING updated_at"
    [(same,)] = servers.ask_postgres(change.format("status = status"), identity)
    [(later,)] = servers.ask_postgres(change.format("status = 'reversed'"), identity)
    [(chosen,)] = servers.ask_postgres(change.format("updated_at = '2026-01-01Z', status = 'x'"), identity)
    assert same == before < later
    assert chosen == datetime(2026, 1, 1, tzinfo=UTC)


def test_the_publication_has_every_column_but_the_one_that_no_consumer_reads(servers: Servers) -> None:
    published = (
        "SELECT attnames::text[] FROM pg_publication_tables"
        " WHERE pubname = 'airbyte_publication' AND tablename = 'transactions'"
    )
    columns = (
        "SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute"
        " WHERE attrelid = 'public.transactions'::regclass AND attnum > 0"
    )
    # As an earlier release published it.
    servers.run("transaction_generator")
    servers.ask_postgres("ALTER PUBLICATION airbyte_publication DROP TABLE public.transactions")
    servers.ask_postgres("ALTER PUBLICATION airbyte_publication ADD TABLE public.transactions")
    servers.run("transaction_generator")
    [(all_columns,)] = servers.ask_postgres(columns)
    assert servers.ask_postgres(published) == [([name for name in all_columns if name != "xid"],)]
    # With a list PostgreSQL would refuse every UPDATE and DELETE of a table of this replica identity.
    change = "UPDATE public.transactions SET status = 'x' WHERE transaction_id = 1 RETURNING 1"
    servers.ask_postgres("ALTER TABLE public.transactions REPLICA IDENTITY FULL")
    with pytest.raises(psycopg2.errors.InvalidColumnReference):
        servers.ask_postgres(change)
    servers.run("transaction_generator")
    assert servers.ask_postgres(published) == [(all_columns,)]
    assert servers.ask_postgres(change) == [(1,)]


@pytest.mark.parametrize(
    "published",
    [
        "FOR ALL TABLES",
        "FOR TABLES IN SCHEMA public",
        "FOR TABLE public.transactions WHERE (transaction_id > 7)",
        "FOR TABLES IN SCHEMA public, TABLE public.transactions",
    ],
)
def test_a_publication_of_the_users_own_making_stays_as_it_is(servers: Servers, published: str) -> None:
    servers.run("transaction_generator")
    servers.ask_postgres("DROP PUBLICATION airbyte_publication")
    servers.ask_superuser(f"CREATE PUBLICATION airbyte_publication {published}")
    servers.ask_superuser("ALTER PUBLICATION airbyte_publication OWNER TO postgres")
    # Where it is a list of tables it gets those that are new.
    stored = """
        SELECT p.*, t.* FROM pg_publication AS p JOIN pg_publication_tables AS t USING (pubname)
        WHERE tablename = 'transactions'"""
    before = servers.ask_postgres(stored)
    servers.ask_superuser("ALTER ROLE docker SUPERUSER")
    try:
        code, log = servers.run("transaction_generator")
        after = servers.ask_postgres(stored)
    finally:
        servers.ask_superuser("ALTER ROLE docker NOSUPERUSER")
        servers.ask_superuser("DROP PUBLICATION airbyte_publication")
    assert code == 0, log
    assert after == before
    assert ("publication_refused" in log) == ("SCHEMA" in published and "TABLE public" in published)


def test_a_script_that_waits_for_a_migration_does_not_block_it(servers: Servers) -> None:
    """MySQL called it a deadlock: whoever waited had asked the table before, in the same transaction."""
    run(servers)
    servers.ask_mysql("DELETE FROM schema_migrations WHERE version > 1")
    migrating = servers.mysql()
    cursor = migrating.cursor()
    cursor.execute("SELECT GET_LOCK('fraud_pipeline.schema', 0)")
    assert cursor.fetchall() == [(1,)]
    script = servers.start("detection_generator")
    waiting = "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT GET_LOCK%%'"
    try:
        until(lambda: servers.ask_mysql(waiting) == [(1,)], "a script that waits")
        cursor.execute("SET SESSION lock_wait_timeout = 1")
        cursor.execute("ALTER TABLE label_progress DROP COLUMN system_identifier")
        migrating.close()
        log, _ = script.communicate(timeout=200)
    finally:
        script.kill()
    assert script.returncode == 0, log
    assert versions(servers)[1] == list(range(1, NEXT["mysql"]))
