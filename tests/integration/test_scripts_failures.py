"""What the scripts say when a database cannot be used, and what they cost when it can."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.script_servers import Servers

pytest_plugins = ["support.script_servers"]
pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("changed", "value", "named"),
    [
        ("PASSWORD", "wrong", "_USER and {}_PASSWORD"),
        ("USER", "stranger", "_USER and {}_PASSWORD"),
        ("DATABASE", "nowhere", "_DATABASE"),
        ("HOST", "no-such-host.invalid", "_HOST"),
        ("PORT", "1", "_HOST and {}_PORT"),
    ],
)
@pytest.mark.parametrize(
    ("script", "prefix"),
    [
        ("transaction_generator", "AIRBYTE_POSTGRES"),
        ("detection_generator", "AIRBYTE_POSTGRES"),
        ("detection_generator", "AIRBYTE_MYSQL"),
    ],
)
def test_unusable_database_is_one_sentence_that_names_what_to_check(
    servers: Servers, script: str, prefix: str, changed: str, value: str, named: str
) -> None:
    code, log = servers.run(script, **{f"{prefix}_{changed}": value})

    kind = prefix.removeprefix("AIRBYTE_")
    used = {
        "HOST": "127.0.0.1",
        "PORT": servers.environment[f"{prefix}_PORT"],
        "DATABASE": {"POSTGRES": "airbyte", "MYSQL": "data"}[kind],
        "USER": "docker",
    } | {changed: value}
    product = {"POSTGRES": "PostgreSQL", "MYSQL": "MySQL"}[kind]
    assert code == 5
    assert (
        f'error="{product} at {used["HOST"]}:{used["PORT"]}'
        f" (database {used['DATABASE']}, user {used['USER']}) "
    ) in log
    assert f"check {prefix}{named.format(prefix)}" in log
    assert "Traceback" not in log
    assert log.strip().splitlines()[-1].startswith("time=")
    assert "wrong" not in log


def test_refused_statement_is_one_sentence_too(servers: Servers) -> None:
    servers.ask_postgres("CREATE TABLE public.transactions (transaction_id bigint PRIMARY KEY)")

    code, log = servers.run("transaction_generator")

    assert code == 5
    assert "PostgreSQL failed migration 0001_tables.sql: " in log
    assert "updated_at" in log
    assert "Traceback" not in log
