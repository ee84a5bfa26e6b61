"""Dumps of a newer PostgreSQL go into the server that is there, whatever its version."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipectl import surroundings
from pipectl.engines import clients
from pipectl.engines.foreground import Command
from pipectl.engines.local import client_programs
from pipectl.observer import Observer
from pipectl.pipeline import portable
from pipectl.settings import Settings, cache_dir
from support import ROOT
from support.fake_engine import FakeEngine
from support.needs import need, need_postgres

if TYPE_CHECKING:
    from pathlib import Path

    from support.script_servers import Servers

pytest_plugins = ["support.script_servers"]
pytestmark = pytest.mark.integration
NEWER = 18
TABLE = """
CREATE TABLE public."of
\\! touch {trap}
all" (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz DEFAULT now(), xid xid8
    DEFAULT pg_current_xact_id(), amount numeric(12, 2), raw bytea, tags text[], facts jsonb, said text)
"""
ROWS = """
INSERT INTO public."of
\\! touch {trap}
all" (amount, raw, tags, facts, said)
SELECT n / 7.0, decode(md5(n::text), 'hex'), ARRAY[n::text, NULL], jsonb_build_object('n', n),
    E'tab\t newline\n \\\\. \\\\! touch {trap} ' || n
FROM generate_series(1, 5000) AS n
"""
SUMMARY = """
SELECT count(*), md5(string_agg(whole::text, ',' ORDER BY id)) FROM public."of
\\! touch {trap}
all" AS whole
"""


class OneDatabase(FakeEngine):
    """Tools from a folder ask the business database; the metadata database is none."""

    servers: Servers
    bin_dir: Path

    def tool(self, service: str, words: tuple[str, ...], observer: Observer) -> Command:
        del observer
        if service != "airbyte-postgres":
            return Command(("true",), {}, self._settings.project)
        login = surroundings.environment(**clients.postgres_login(self.servers.addresses[0]))
        return Command((str(self.bin_dir / words[0]), *words[1:]), login, self._settings.project)


def test_a_newer_servers_dump_is_loaded_and_runs_nothing_on_this_machine(
    servers: Servers, tmp_path: Path
) -> None:
    only = ("airbyte-postgres",)
    settings = Settings(project=ROOT, engine="local", cache_dir=cache_dir(), variables={})
    newer = need("databases", lambda: client_programs.find_pg_restore(settings, Observer(), NEWER))
    engine = OneDatabase(settings)
    engine.servers, engine.bin_dir = servers, newer.parent
    trap = tmp_path / "trap"
    for statement in (TABLE, ROWS):
        servers.ask_postgres(statement.format(trap=trap))
    [before] = servers.ask_postgres(SUMMARY.format(trap=trap))
    portable.dump(engine, settings, tmp_path / "dumps", Observer(), only)
    servers.ask_postgres(f"""DELETE FROM public."of\n\\! touch {trap}\nall" """)
    # As on a server that is older: the bin_dir beside it are of its own version.
    engine.bin_dir = need_postgres().bin_dir
    portable.load(engine, settings, tmp_path / "dumps", Observer(), newer, only)
    assert before[0] == 5000
    assert servers.ask_postgres(SUMMARY.format(trap=trap)) == [before]
    assert not trap.exists()
