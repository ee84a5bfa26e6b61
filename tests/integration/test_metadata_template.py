"""The template of a metadata database, made of one that Airflow has migrated and put into an empty one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest

import metadata_database
from pipectl.engines.docker import metadata_template
from pipectl.engines.foreground import Command
from pipectl.engines.local import airflow_metadata
from support.airflow_stack import AirflowStack
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration
COUNTS = """
    SELECT relname, (xpath('/row/n/text()', query_to_xml('SELECT count(*) AS n FROM ' || quote_ident(relname),
                                                         false, true, '')))[1]::text
    FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"""
TABLES = """
    SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns
    WHERE table_schema = 'public' ORDER BY 1, 2"""
OTHERS = """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowStack]:
    """A migrated database that nothing has used."""
    made = AirflowStack(tmp_path_factory.mktemp("template") / "project")
    made.prepare()
    made.start("postgres")
    try:
        until(lambda: airflow_metadata.answers(made.site.metadata), "the metadata database")
        yield made
    finally:
        made.stop()


def address(stack: AirflowStack, database: str) -> dict[str, Any]:
    metadata = stack.site.metadata
    return {
        "host": metadata.host,
        "port": metadata.port,
        "user": metadata.user,
        "password": metadata.password,
        "dbname": database,
    }


def ask(stack: AirflowStack, database: str, query: str) -> list[tuple[Any, ...]]:
    connection = psycopg2.connect(**address(stack, database))
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def test_the_tables_that_a_migration_fills_are_those_of_the_template(stack: AirflowStack) -> None:
    counts = ask(stack, "airflow", COUNTS)
    assert {name for name, count in counts if count != "0"} == set(metadata_template.FILLED)
    assert stack.runtime.version.startswith(metadata_template.KNOWN_AIRFLOW)


def test_a_database_from_the_template_is_like_one_that_was_migrated(
    stack: AirflowStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = stack.binaries.bin_dir / "pg_dump"
    if not dump.exists():
        pytest.skip(f"there is no {dump}")
    login = {f"PG{name.upper()}": str(value) for name, value in address(stack, "airflow").items()}
    environment = {**os.environ, **stack.binaries.environment, **login, "PGDATABASE": "airflow"}
    template = tmp_path / "template.sql"
    metadata_template.keep(lambda words: Command((str(dump), *words[1:]), environment, tmp_path), template)
    text = template.read_text(encoding="utf-8")
    assert stack.site.metadata.password not in text

    ask(stack, "airflow", "CREATE DATABASE empty")
    monkeypatch.setattr(metadata_database, "connect", lambda: psycopg2.connect(**address(stack, "empty")))
    head = stack.runtime.migration_head
    # Broken off at any place it leaves nothing, and nothing is put into what is not empty.
    for length in (0, len(text) // 2, len(text) - len(metadata_template.END)):
        assert not metadata_database.fill(text[:length], head)
    assert not metadata_database.fill(text, "another")
    assert metadata_database.current() == ""
    assert metadata_database.fill(text, head)
    assert not metadata_database.fill(text, head)
    rows = [f"SELECT * FROM {name} ORDER BY 1" for name in metadata_template.FILLED]
    for query in (COUNTS, TABLES, OTHERS, *rows):
        assert sorted(ask(stack, "empty", query)) == sorted(ask(stack, "airflow", query))
