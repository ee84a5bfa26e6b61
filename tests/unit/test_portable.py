"""Portable snapshots: dumps that go through Zstandard to a file for each database, and back."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipectl.airflow_health import AirflowHealth
from pipectl.engines.foreground import Command
from pipectl.errors import DatabaseError, UsageError
from pipectl.observer import Observer
from pipectl.pipeline import portable, snapshot_versions, snapshots
from pipectl.pipeline.snapshot_store import DATA, Store
from pipectl.services import databases
from pipectl.settings import Settings
from support.fake_engine import FakeEngine

if TYPE_CHECKING:
    from pathlib import Path

PRINT = "import sys; sys.stdout.buffer.write(open(sys.argv[1], 'rb').read())"
KEEP = "import sys; open(sys.argv[1], 'wb').write(sys.stdin.buffer.read())"
FAIL = "import sys; sys.stdin.close(); sys.exit('no such role')"


class DumpingEngine(FakeEngine):
    """The tools of its databases print a file, or keep what they get in another."""

    fails = ""

    def tool(self, service: str, words: tuple[str, ...], observer: Observer) -> Command:
        del observer
        program = FAIL if self.fails == service else PRINT if words[0].endswith("dump") else KEEP
        suffix = "out" if program == PRINT else "in"
        if words in {portable.EMPTY_SCHEMA, portable.ANSWERS}:
            program = "pass"
        path = self._settings.project / f"{service}.{suffix}"
        return Command((sys.executable, "-c", program, str(path)), {}, self._settings.project)


@pytest.fixture
def engine(tmp_path: Path) -> DumpingEngine:
    for service in databases():
        (tmp_path / f"{service}.out").write_bytes(f"{service}\n".encode() * 1000)
    return DumpingEngine(Settings(project=tmp_path, engine="local", cache_dir=tmp_path, variables={}))


def test_what_is_dumped_is_loaded(engine: DumpingEngine, tmp_path: Path) -> None:
    portable.dump(engine, engine._settings, tmp_path / "dumps", Observer())
    assert sorted(path.name for path in (tmp_path / "dumps").iterdir()) == sorted(
        f"{service}.zst" for service in databases()
    )
    assert all(path.stat().st_size < 200 for path in (tmp_path / "dumps").iterdir())
    portable.load(engine, engine._settings, tmp_path / "dumps", Observer())
    for service in databases():
        assert (tmp_path / f"{service}.in").read_bytes() == (tmp_path / f"{service}.out").read_bytes()


@given(text=st.binary(min_size=1, max_size=3000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10, deadline=None)
def test_any_bytes_come_back(
    engine: DumpingEngine, tmp_path_factory: pytest.TempPathFactory, text: bytes
) -> None:
    folder = tmp_path_factory.mktemp("dumps")
    (engine._settings.project / "airbyte-postgres.out").write_bytes(text)
    portable.dump(engine, engine._settings, folder / "all", Observer())
    portable.load(engine, engine._settings, folder / "all", Observer())
    assert (engine._settings.project / "airbyte-postgres.in").read_bytes() == text


def test_a_line_that_only_mariadb_knows_is_left_out(engine: DumpingEngine, tmp_path: Path) -> None:
    (tmp_path / "airbyte-mysql.out").write_bytes(b"/*M!999999\\- enable the sandbox mode */\nSELECT 1;\n")
    portable.dump(engine, engine._settings, tmp_path / "dumps", Observer())
    portable.load(engine, engine._settings, tmp_path / "dumps", Observer())
    assert (tmp_path / "airbyte-mysql.in").read_bytes() == b"SELECT 1;\n"


@pytest.mark.parametrize("step", ["saved", "loaded"])
def test_a_tool_that_fails_is_shown(engine: DumpingEngine, tmp_path: Path, step: str) -> None:
    if step == "loaded":
        portable.dump(engine, engine._settings, tmp_path / "dumps", Observer())
    engine.fails = "airbyte-mysql"
    act = portable.dump if step == "saved" else portable.load
    with pytest.raises(DatabaseError, match=f"airbyte-mysql could not be {step}") as caught:
        act(engine, engine._settings, tmp_path / "dumps", Observer())
    assert caught.value.detail == "no such role"


def test_no_password_is_in_a_dumps_words(tmp_path: Path) -> None:
    chosen = {"AIRBYTE_MYSQL_PASSWORD": "sesame", "AIRBYTE_POSTGRES_PASSWORD": "sesame"}
    own = Settings(project=tmp_path, engine="local", cache_dir=tmp_path, variables=chosen)
    for service in databases():
        words = portable._dump_words(own, service) + portable._load_words(own, service)
        assert not any("sesame" in word for word in words)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, ""),
        ({"postgres": "18.1", "airflow": "3.4.0", "mysql": "8.4"}, ""),
        ({"postgres": "15.9"}, ""),
        ({"airflow": "3.2.2"}, "Airflow 3.3.2, and here runs 3.2.2, which is older"),
    ],
)
def test_dumps_go_to_an_older_server_and_to_no_older_airflow(changes: dict[str, str], problem: str) -> None:
    made_with = {"airflow": "3.3.2", "postgres": "17.2", "mysql": "MariaDB 10.11.6"}
    found = snapshot_versions.dump_problem(made_with, {**made_with, **changes})
    assert problem in found
    assert bool(problem) == bool(found)


HEADER = b"-- PostgreSQL database dump\n\n%sSET lock_timeout = 0;\n%sSELECT pg_catalog.set_config('', '');\n"


@given(body=st.lists(st.sampled_from([b"SET transaction_timeout = 0;\n", b"\\restrict x\n", b"1\n"])))
@pytest.mark.parametrize("own", [b"\\restrict theirs\n", b""])
def test_an_older_server_gets_no_setting_that_it_does_not_know(body: list[bytes], own: bytes) -> None:
    newer = b"SET transaction_timeout = 0;\n"
    lines = (HEADER % (own, newer)).splitlines(keepends=True) + body
    told = list(portable.for_older_servers(iter(lines)))
    if not own:
        # psql runs no command that the data holds.
        assert told.pop(0).startswith(b"\\restrict ")
    assert b"".join(told) == HEADER % (own, b"") + b"".join(body)


def test_a_script_without_a_statement_is_read_to_its_end() -> None:
    assert (
        list(portable.for_older_servers(iter([b"\\restrict x\n", b"SET a = 1;\n"] * 40)))
        == [
            b"\\restrict x\n",
            b"SET a = 1;\n",
        ]
        * 40
    )


def test_only_dumps_of_a_newer_server_need_a_pg_restore_of_their_own(
    engine: DumpingEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portable, "find_pg_restore", lambda *words: tmp_path / f"pg_restore-{words[2]}")
    for there, here, program in (
        ("17.2", "15.9", "17"),
        ("15.9", "17.2", ""),
        ("17.4", "17.2", ""),
        ("", "15", ""),
    ):
        monkeypatch.setattr(DumpingEngine, "versions", lambda _, here=here: {"postgres": here})
        found = portable.pg_restore_for(engine, engine._settings, {"postgres": there}, Observer())
        assert found == (tmp_path / f"pg_restore-{program}" if program else None)


def _script(folder: Path, text: str) -> Path:
    path = folder / "pg_restore"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("fails", ["", "converter", "server"])
def test_an_older_server_gets_a_script_and_who_fails_is_shown(
    engine: DumpingEngine, tmp_path: Path, fails: str
) -> None:
    for service in databases():
        (tmp_path / f"{service}.out").write_bytes(b"SELECT 1;\n" * 100_000)
    portable.dump(engine, engine._settings, tmp_path / "dumps", Observer())
    converter = _script(tmp_path, "echo 'cannot read it' >&2; exit 1" if fails == "converter" else "exec cat")
    engine.fails = "postgres" if fails == "server" else ""
    if fails:
        with pytest.raises(DatabaseError, match="could not be loaded") as caught:
            portable.load(engine, engine._settings, tmp_path / "dumps", Observer(), converter)
        assert caught.value.detail == ("no such role" if fails == "server" else "cannot read it")
        return
    portable.load(engine, engine._settings, tmp_path / "dumps", Observer(), converter)
    for service in ("postgres", "airbyte-postgres"):
        first, _, rest = (tmp_path / f"{service}.in").read_bytes().partition(b"\n")
        assert first.startswith(b"\\restrict ")
        assert rest == b"SELECT 1;\n" * 100_000
    assert (tmp_path / "airbyte-mysql.in").read_bytes() == b"SELECT 1;\n" * 100_000


def test_a_dump_that_ends_too_soon_ends_the_load(engine: DumpingEngine, tmp_path: Path) -> None:
    portable.dump(engine, engine._settings, tmp_path / "dumps", Observer())
    path = tmp_path / "dumps" / "postgres.zst"
    path.write_bytes(path.read_bytes()[:-3])
    for converter in (None, _script(tmp_path, "exec cat")):
        with pytest.raises(DatabaseError, match="postgres could not be loaded"):
            portable.load(engine, engine._settings, tmp_path / "dumps", Observer(), converter)


def test_a_portable_snapshot_goes_to_another_project_and_holds_no_login(
    engine: DumpingEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "wait_until_healthy", lambda *_, **__: None)
    monkeypatch.setattr(AirflowHealth, "running", lambda _: ())
    monkeypatch.setattr(snapshots, "_rows", lambda _: {})
    monkeypatch.setattr(snapshots, "_data", lambda _: ())
    chosen = {"AIRBYTE_MYSQL_PASSWORD": "sesame", "AIRFLOW_FERNET_KEY": f"{'k' * 43}="}
    own = Settings(project=tmp_path, engine="local", cache_dir=tmp_path, variables=chosen)
    store = Store(own)
    saved = snapshots.save(
        engine, own, store, "mine", portable=True, hold_timeout=0, up_timeout=1, observer=Observer()
    )
    assert saved.away_seconds == 0
    other = Store(Settings(project=tmp_path / "other", engine="docker", cache_dir=tmp_path, variables={}))
    other.folder.mkdir(parents=True)
    store.path("mine").rename(other.path("mine"))
    moved = other.read("mine")
    assert other.settings_of(moved) == {"AIRFLOW_FERNET_KEY": f"{'k' * 43}="}
    other.require_whole(moved)
    path = other.path("mine") / DATA / "postgres.zst"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    with pytest.raises(UsageError, match="files of it have changed"):
        other.require_whole(moved)
