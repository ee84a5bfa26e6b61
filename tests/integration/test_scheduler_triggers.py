"""Of which changes a real PostgreSQL tells schedulers that sleep."""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest

import notifications
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.script_servers import Servers

pytest_plugins = ["support.script_servers"]
pytestmark = pytest.mark.integration

SCHEMA = "of_a_scheduler"
# What a scheduler is told last, so that nothing else is still to come.
END = "all"


@pytest.fixture
def connections(servers: Servers) -> Iterator[list[Any]]:
    """Three connections to a schema that has Airflow's tables, or as much of them as matters."""
    with ExitStack() as stack:
        opened = [stack.enter_context(closing(servers.postgres())) for _ in range(3)]
        for connection in opened:
            connection.autocommit = True
        cursor = opened[0].cursor()
        cursor.execute(f"CREATE SCHEMA {SCHEMA}")
        for connection in opened:
            connection.cursor().execute(f"SET search_path = {SCHEMA}")
        for table in notifications.TABLES:
            cursor.execute(f"CREATE TABLE {table} (id int, state text, last_heartbeat_at timestamptz)")
        yield opened
        cursor.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


def told(writer: Any, schedulers: list[Any], statement: str) -> list[set[str]]:
    """Run a statement; return of which tables each of the schedulers is told."""
    writer.cursor().execute(statement)
    writer.cursor().execute(f"NOTIFY {notifications.CHANNEL}, '{END}'")

    def read(scheduler: Any) -> set[str]:
        def has_come() -> bool:
            scheduler.poll()
            return any(each.payload == END for each in scheduler.notifies)

        until(has_come, "the last notification")
        tables = {each.payload for each in scheduler.notifies} - {END}
        scheduler.notifies.clear()
        return tables

    return [read(scheduler) for scheduler in schedulers]


def test_all_schedulers_are_told_of_what_may_be_work_and_of_nothing_else(connections: list[Any]) -> None:
    writer, *schedulers = connections
    for scheduler in schedulers:
        notifications.listen(scheduler)
    work = [
        "INSERT INTO dag_run VALUES (1, 'queued'), (2, 'queued')",
        "UPDATE dag_run SET state = 'success' WHERE id = 1",
        "DELETE FROM dag_run",
        "INSERT INTO task_instance VALUES (1, NULL), (2, 'scheduled')",
        "UPDATE task_instance SET state = 'scheduled' WHERE id = 1",
        "UPDATE task_instance SET state = 'success' WHERE id = 1",
        "UPDATE task_instance SET state = NULL WHERE id = 1",
        "UPDATE slot_pool SET id = 2",
    ]
    expected = [{"dag_run"}] * 3 + [{"task_instance"}] * 4 + [set()]
    assert [told(writer, schedulers, each) for each in work] == [[each] * 2 for each in expected]
    begins = [
        "UPDATE task_instance SET state = 'queued' WHERE id = 2",
        "UPDATE task_instance SET state = 'running' WHERE id = 2",
        "UPDATE task_instance SET last_heartbeat_at = now() WHERE id = 2",
        "UPDATE task_instance SET last_heartbeat_at = now() WHERE id = 1",
    ]
    assert [told(writer, schedulers, each) for each in begins] == [[set(), set()]] * 4


def test_triggers_that_a_restored_database_lacks_are_made_by_whoever_listens_next(
    connections: list[Any],
) -> None:
    writer, first, second = connections
    notifications.listen(first)
    writer.cursor().execute(f"DROP FUNCTION {notifications.FUNCTION} CASCADE")
    assert told(writer, [first], "INSERT INTO dag_run VALUES (1, 'queued')") == [set()]
    notifications.listen(second)
    assert told(writer, [first, second], "INSERT INTO dag_run VALUES (2, 'queued')") == [{"dag_run"}] * 2
