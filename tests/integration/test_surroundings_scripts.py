"""The pipeline's scripts among variables that are meant for other clients of the databases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.script_servers import Servers

pytest_plugins = ["support.script_servers"]
pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    "setting",
    [
        "PGHOSTADDR=192.0.2.1",
        "PGSSLMODE=verify-full",
        "PGSERVICE=nowhere",
        "PGOPTIONS=-c statement_timeout=1 -c nonsense=1",
        "PGTZ=nonsense",
        "PGCLIENTENCODING=nonsense",
        "PGGSSENCMODE=require",
        "MYSQL_HOST=192.0.2.1",
        "http_proxy=http://127.0.0.1:9",
        "LC_ALL=xx",
    ],
)
def test_both_scripts_write_what_they_write_without(servers: Servers, setting: str) -> None:
    variable = dict([setting.split("=", 1)])
    for script in ("transaction_generator", "detection_generator"):
        code, log = servers.run(script, **variable)
        assert code == 0, log
    [(transactions,)] = servers.ask_postgres("SELECT count(*) FROM public.transactions")
    [(labels,)] = servers.ask_mysql("SELECT COUNT(*) FROM fraud_labels")
    assert transactions == labels > 0


def test_times_are_utc_whatever_the_client_is_told(servers: Servers) -> None:
    """PGTZ would count more than the option with which the scripts ask for UTC."""
    code, log = servers.run("transaction_generator", PGTZ="Asia/Tokyo")
    assert code == 0, log
    [(seconds,)] = servers.ask_postgres(
        "SELECT extract(epoch FROM now() - max(tx_time))::float8 FROM public.transactions"
    )
    assert -60 < seconds < 3600


@pytest.mark.parametrize(("mode", "code"), [("disable", 0), ("prefer", 0), ("require", 5), ("on", 2)])
def test_encryption_is_as_the_setting_says(servers: Servers, mode: str, code: int) -> None:
    """These servers offer none to PostgreSQL's clients."""
    found, log = servers.run("transaction_generator", AIRBYTE_POSTGRES_SSLMODE=mode)
    assert found == code, log
