"""Snapshots: names, what each says of itself, what is refused, and how save and restore hold the stack."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pipectl import cli, disk, seen
from pipectl.airflow_health import AirflowHealth
from pipectl.commands import reset, snapshot, up
from pipectl.console import Console
from pipectl.engines.docker import archives
from pipectl.engines.docker.engine import DockerEngine
from pipectl.engines.local import folders
from pipectl.engines.local.data import LocalData
from pipectl.engines.local.engine import LocalEngine
from pipectl.errors import (
    DatabaseError,
    EngineError,
    ExitCode,
    MigrationError,
    UsageError,
    WaitTimeoutError,
)
from pipectl.invocation import Invocation
from pipectl.models import DagRun, Service
from pipectl.observer import Observer
from pipectl.pipeline import lifecycle, snapshot_store, snapshot_versions, snapshots
from pipectl.pipeline.consumers import Consumers
from pipectl.pipeline.doctor import project as doctor_project
from pipectl.pipeline.doctor.checks import Desk
from pipectl.pipeline.snapshot_store import DATA, MANIFEST, SEAL, SETTINGS, Snapshot, Store
from pipectl.services import databases
from pipectl.settings import Settings, load
from support.fake_engine import FakeData, FakeEngine
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

UP = lifecycle.UpResult("local", "", "", "", {}, 0, (), (), {}, {})
MADE = datetime(2026, 5, 4, 22, tzinfo=UTC)
VERSIONS = {"airflow": "3.3.2", "postgres": "17.2", "mysql": "MariaDB 10.11.6"}
SLOT = "airbyte_slot"


def settings_of(project: Path, **variables: str) -> Settings:
    return Settings(project=project, engine="local", cache_dir=project / "cache", variables=variables)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("dags", "stack"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def store(project: Path) -> Store:
    return Store(settings_of(project))


def make(store: Store, name: str, *, slots: tuple[str, ...] = (), **settings: str) -> Snapshot:
    """Make a snapshot whose data is a file for each database, and some slots."""
    with store.making(name) as folder:
        for service in databases():
            (folder / DATA / service / "data").mkdir(parents=True)
            (folder / DATA / service / "data" / "PG_VERSION").write_text("17\n")
        for slot in slots:
            (folder / DATA / "airbyte-postgres" / "data" / "pg_replslot" / slot).mkdir(parents=True)
        return store.finish(
            folder,
            settings,
            created=MADE,
            engine="local",
            pipectl="0.1.0",
            versions=VERSIONS,
            rows={"public.transactions": 3},
            slots=slots,
        )


def manifest(store: Store, name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((store.path(name) / MANIFEST).read_text())
    return value


def rewrite(store: Store, name: str, **changes: object) -> None:
    """Change a manifest that has no seal, as those of earlier builds."""
    facts = {key: value for key, value in manifest(store, name).items() if key != SEAL}
    (store.path(name) / MANIFEST).write_text(json.dumps({**facts, **changes}))


def test_what_is_saved_is_read_again(store: Store) -> None:
    made = make(store, "mine", slots=(SLOT,))
    assert store.read("mine") == made
    assert (made.name, made.files, made.bytes, made.slots) == ("mine", 3, 9, (SLOT,))
    store.require_whole(made)
    assert store.all() == ((made,), {})
    assert store.names() == ("mine",)


def test_a_snapshot_holds_secrets_that_nobody_else_can_read(store: Store) -> None:
    made = make(store, "mine", AIRFLOW_FERNET_KEY="sesame", AIRFLOW_PORT="1")
    assert store.folder.stat().st_mode & 0o777 == 0o700
    assert store.path("mine").stat().st_mode & 0o777 == 0o700
    assert (store.path("mine") / SETTINGS).stat().st_mode & 0o777 == 0o600
    assert "sesame" not in (store.path("mine") / MANIFEST).read_text()
    # A port is none of its business.
    assert store.settings_of(made) == {"AIRFLOW_FERNET_KEY": "sesame"}


@given(text=st.text(max_size=70) | st.from_regex(r"[./\\~a-z-]{1,9}", fullmatch=True))
def test_a_name_is_a_folder_of_the_store_or_refused(text: str) -> None:
    store = Store(settings_of(Path("/srv/project")))
    try:
        path = store.path(text)
    except UsageError:
        return
    assert path.parent == store.folder
    assert os.path.normpath(path) == str(path)
    assert not path.name.startswith((".", "-"))


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../up", "/etc", "-rf", ".hidden", "a\n", "ä", "a" * 65]
)
def test_tricks_with_paths_are_no_names(store: Store, name: str) -> None:
    with pytest.raises(UsageError, match="There can be no snapshot"):
        store.read(name)
    with pytest.raises(UsageError, match="There can be no snapshot"):
        store.remove(name)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=5,
)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    field=st.sampled_from(
        [
            "program",
            "format",
            "created",
            "engine",
            "pipectl",
            "versions",
            "rows",
            "slots",
            "files",
            "bytes",
            "digest",
            "owner",
        ]
    ),
    value=JSON_VALUES,
)
def test_any_manifest_is_read_or_refused(tmp_path: Path, field: str, value: object) -> None:
    store = Store(settings_of(tmp_path))
    if not store.names():
        make(store, "mine")
    before = manifest(store, "mine")
    rewrite(store, "mine", **{field: value})
    try:
        with suppress(UsageError):
            assert store.read("mine").name == "mine"
    finally:
        rewrite(store, "mine", **before)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.binary(max_size=200))
def test_any_file_in_the_place_of_a_manifest_is_refused(tmp_path: Path, text: bytes) -> None:
    store = Store(settings_of(tmp_path))
    if not store.names():
        make(store, "mine")
    (store.path("mine") / MANIFEST).write_bytes(text)
    with pytest.raises(UsageError):
        store.read("mine")


def test_what_is_foreign_newer_or_missing_is_said_so(store: Store, tmp_path: Path) -> None:
    make(store, "mine")
    with pytest.raises(UsageError, match=r"There is no snapshot 'other'\. There are: mine\."):
        store.read("other")
    rewrite(store, "mine", format=2, pipectl="7.0")
    with pytest.raises(UsageError, match=r"made by pipectl 7\.0, newer"):
        store.read("mine")
    rewrite(store, "mine", format=1, program="another")
    with pytest.raises(UsageError, match="no snapshot of pipectl's"):
        store.read("mine")
    (tmp_path / "elsewhere").mkdir()
    other = Store(settings_of(tmp_path / "elsewhere"))
    make(other, "theirs")
    other.path("theirs").rename(store.path("theirs"))
    with pytest.raises(UsageError, match="another project's"):
        store.read("theirs")
    assert set(store.all()[1]) == {"mine", "theirs"}


def test_a_copy_of_the_project_has_its_snapshots(store: Store, tmp_path: Path) -> None:
    make(store, "mine")
    copied = Store(settings_of(tmp_path / "copy"))
    copied.folder.parent.mkdir(parents=True)
    folders.copy_contents((store.folder.parent, copied.folder.parent))
    copied.require_whole(copied.read("mine"))


def damage_size(folder: Path) -> None:
    (folder / "airbyte-mysql/data/PG_VERSION").write_text("17")


def damage_missing(folder: Path) -> None:
    (folder / "airbyte-mysql/data/PG_VERSION").unlink()


def damage_more(folder: Path) -> None:
    (folder / "airbyte-mysql/data/more").touch()


def damage_link(folder: Path) -> None:
    damage_missing(folder)
    (folder / "airbyte-mysql/data/PG_VERSION").symlink_to("/etc/passwd")


def damage_folder(folder: Path) -> None:
    (folder / "airbyte-mysql").rename(folder.parent / "mysql")
    (folder / "airbyte-mysql").symlink_to(folder.parent / "mysql")


def damage_pipe(folder: Path) -> None:
    damage_missing(folder)
    os.mkfifo(folder / "airbyte-mysql/data/PG_VERSION")


def damage_all(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to("elsewhere")


@pytest.mark.parametrize(
    "damage",
    [damage_size, damage_missing, damage_more, damage_link, damage_folder, damage_pipe, damage_all],
)
def test_data_that_has_changed_is_refused(store: Store, damage: Any) -> None:
    made = make(store, "mine")
    damage(store.path("mine") / DATA)
    with pytest.raises(UsageError, match="The snapshot mine is broken") as caught:
        store.require_whole(made)
    assert "pipectl snapshot rm mine" in caught.value.hint


def damage_settings(folder: Path) -> None:
    (folder.parent / SETTINGS).unlink()


def damage_data(folder: Path) -> None:
    folder.rename(folder.with_name(".elsewhere"))


@pytest.mark.parametrize(
    "damage", [damage_size, damage_missing, damage_more, damage_link, damage_settings, damage_data]
)
def test_the_list_and_the_doctor_name_what_is_damaged_without_reading_it(
    engine: NotingEngine, store: Store, monkeypatch: pytest.MonkeyPatch, damage: Any
) -> None:
    make(store, "good")
    make(store, "mine")
    monkeypatch.setattr(snapshot_store, "_digest", Mock(side_effect=AssertionError))
    monkeypatch.setattr(Invocation, "settings", engine._settings)
    assert doctor_project.snapshots(Desk(engine)).found == "2 snapshots"
    damage(store.path("mine") / DATA)
    whole, unusable = store.all()
    assert [each.name for each in whole] == ["good"]
    assert set(unusable) == {"mine"}
    done = CliRunner().invoke(cli.app, ["snapshot", "list", "--json"])
    assert json.loads(done.stdout)["unusable"]["mine"].endswith(": pipectl snapshot rm mine")
    found = doctor_project.snapshots(Desk(engine))
    assert (found.ok, found.is_safe) == (False, False)
    assert "The snapshot mine is broken" in found.found
    assert "pipectl snapshot rm mine" in found.remedy


def test_those_that_are_offered_are_usable_and_few(store: Store) -> None:
    for number in range(7):
        make(store, f"s{number}")
    (store.folder / "a-file").touch()
    (store.folder / "an-empty-folder").mkdir()
    with pytest.raises(UsageError, match=r"There are: s\d, s\d, s\d, s\d, s\d and 2 more\.") as caught:
        store.read("nope")
    assert caught.value.hint == "What there is: pipectl snapshot list"


def damage_text(folder: Path) -> None:
    (folder / "airbyte-mysql/data/PG_VERSION").write_text("18\n")


@pytest.mark.parametrize("engine_name", ["local", "docker", "portable"])
def test_one_changed_byte_is_noticed_before_anything_is_touched(
    engine: NotingEngine, store: Store, monkeypatch: pytest.MonkeyPatch, engine_name: str
) -> None:
    make(store, "mine")
    rewrite(store, "mine", engine=engine_name)
    monkeypatch.setattr(NotingEngine, "name", engine_name)
    damage_text(store.path("mine") / DATA)
    with pytest.raises(UsageError, match=r"The snapshot mine is broken: files of it have changed\."):
        restore(engine, store)
    assert engine.done == []


def test_how_a_snapshot_differs_is_said_to_the_byte(store: Store) -> None:
    made = make(store, "mine")
    damage_size(store.path("mine") / DATA)
    with pytest.raises(UsageError, match="was made of 3 files with 9 bytes, and has 3 files with 8 bytes"):
        store.require_whole(made)
    rewrite(store, "mine", bytes=60_642)
    with pytest.raises(UsageError, match="was made of 3 files with 60,642 bytes, and has"):
        store.require_whole(store.read("mine"))


@pytest.mark.parametrize("engine_name", ["[]", "", [], "podman"])
def test_an_engine_that_there_is_not_is_none_of_a_snapshot(store: Store, engine_name: object) -> None:
    make(store, "mine")
    rewrite(store, "mine", engine=engine_name)
    found, broken = store.all()
    assert found == ()
    assert "not as pipectl wrote it" in broken["mine"].message


@pytest.mark.parametrize(("rows", "shown"), [(None, "unknown"), ({}, "no tables"), ({"t": 1_200}, "t 1,200")])
def test_rows_that_nobody_counted_are_not_those_of_no_table(
    store: Store, rows: dict[str, int] | None, shown: str
) -> None:
    make(store, "mine")
    rewrite(store, "mine", rows=rows)
    read = store.read("mine")
    assert read.rows == rows
    assert snapshot._row(read)[4] == shown


@pytest.mark.parametrize("name", [MANIFEST, SETTINGS])
def test_files_of_a_snapshot_are_no_links(store: Store, name: str) -> None:
    made = make(store, "mine")
    path = store.path("mine") / name
    path.rename(store.folder / ".elsewhere")
    path.symlink_to(store.folder / ".elsewhere")
    with pytest.raises(UsageError, match="cannot be read"):
        store.settings_of(store.read("mine") if name == MANIFEST else made)


def test_a_link_in_the_place_of_a_snapshot_is_neither_read_nor_followed(store: Store, tmp_path: Path) -> None:
    make(store, "mine")
    (tmp_path / "precious").mkdir()
    store.path("trick").symlink_to(tmp_path / "precious")
    with pytest.raises(UsageError, match="is no snapshot"):
        store.read("trick")
    with pytest.raises(UsageError, match="is a link, so it is no snapshot") as caught:
        store.remove("trick")
    subprocess.run(["sh", "-c", caught.value.hint.partition(": ")[2]], check=True)
    assert not store.path("trick").is_symlink()
    assert (tmp_path / "precious").is_dir()


def test_a_file_in_the_place_of_a_snapshot_is_not_deleted(
    engine: NotingEngine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(store, "mine")
    store.path("notes").write_text("mine")
    monkeypatch.setattr(Invocation, "settings", engine._settings)
    monkeypatch.setattr(Invocation, "engine", engine)
    done = CliRunner().invoke(cli.app, ["snapshot", "rm", "notes", "--yes"])
    assert done.exit_code == ExitCode.USAGE
    assert "is no folder, so it is no snapshot" in done.stderr
    assert store.path("notes").read_text() == "mine"


@pytest.mark.parametrize("name", [MANIFEST, SETTINGS])
def test_a_change_of_what_a_snapshot_says_of_itself_is_noticed(store: Store, name: str) -> None:
    make(store, "mine", AIRBYTE_MYSQL_PASSWORD="sesame")
    path = store.path("mine") / name
    changed = path.read_text().replace("sesame", "changed").replace('"17.2"', '"17.1"')
    assert changed != path.read_text()
    path.write_text(changed)
    with pytest.raises(UsageError, match=r"The snapshot mine is broken: .* has changed") as caught:
        store.read("mine")
    assert "pipectl snapshot rm mine" in caught.value.hint


def test_snapshots_of_earlier_builds_have_no_seal_and_are_taken(store: Store) -> None:
    made = make(store, "mine")
    assert SEAL in manifest(store, "mine")
    rewrite(store, "mine")
    assert SEAL not in manifest(store, "mine")
    assert store.read("mine") == made
    store.require_whole(made)


@pytest.mark.parametrize(
    ("version", "is_taken"),
    [("9.0.0", False), ("0.2.1", False), ("0.2.0", True), ("0.2.0.dev0", True), ("0.1.9", True)],
)
def test_a_snapshot_of_a_newer_pipectl_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch, version: str, *, is_taken: bool
) -> None:
    monkeypatch.setattr(snapshot_store, "__version__", "0.2.0.dev0")
    make(store, "mine")
    rewrite(store, "mine", pipectl=version)
    if is_taken:
        assert store.read("mine").pipectl == version
        return
    with pytest.raises(UsageError, match=f"made by pipectl {version}, newer than this one"):
        store.read("mine")


def test_a_name_that_is_taken_is_refused(store: Store) -> None:
    make(store, "mine")
    with pytest.raises(UsageError, match=r"There is a snapshot mine already; nothing was saved\."):
        make(store, "mine")


def test_an_interrupted_save_leaves_nothing_that_counts(store: Store) -> None:
    make(store, "mine")
    (store.folder / ".killed.new-abc" / DATA).mkdir(parents=True)
    (store.folder / ".killed.deleted").mkdir()
    assert store.names() == ("mine",)
    with suppress(ZeroDivisionError), store.making("other") as folder:
        (folder / DATA).mkdir()
        raise ZeroDivisionError
    assert {path.name for path in store.folder.iterdir()} == {"mine", ".owner"}


def test_what_is_removed_is_gone_and_what_is_not_there_is_said(store: Store) -> None:
    make(store, "mine")
    store.remove("mine")
    assert store.names() == ()
    with pytest.raises(UsageError, match="There is no snapshot 'mine'"):
        store.remove("mine")


def test_a_disk_that_cannot_hold_it_is_found_beforehand(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"The snapshot needs 1,000\.0 TB, and the disk of .* has .* left"):
        store.require_space(10**15, "The snapshot", tmp_path)
    store.require_space(1, "The snapshot", tmp_path)


@pytest.mark.parametrize("shared", [False, True])
def test_the_disk_that_counts_is_the_one_that_is_written_to(
    engine: NotingEngine, store: Store, monkeypatch: pytest.MonkeyPatch, *, shared: bool
) -> None:
    """The folder of snapshots may be on a disk of its own."""
    full = store.folder
    monkeypatch.setattr("shutil.disk_usage", lambda path: Mock(free=(path != full) << 40))
    copies: list[tuple[Path, Path]] = []

    def shares(source: Path, target: Path) -> bool:
        copies.append((source, target))
        return shared

    monkeypatch.setattr(snapshots, "shares_blocks", shares)
    state = engine.state_dir
    if shared:
        save(engine, store)
    else:
        with pytest.raises(UsageError, match=rf"The snapshot needs .* the disk of {full} has 0 bytes left"):
            save(engine, store)
        assert engine.done == []
        make(store, "mine")
        restore(engine, store)
        full = state
        engine.done.clear()
        with pytest.raises(UsageError, match=rf"The restore needs .* the disk of {full} has 0 bytes left"):
            restore(engine, store)
        assert engine.done == []
    assert copies[0] == (state, store.folder)
    assert set(copies[1:]) == (set() if shared else {(store.folder, state)})


NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_is_full_only_now_is_no_bug(
    engine: NotingEngine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sync", Mock(side_effect=NO_SPACE))
    with pytest.raises(EngineError, match="No space left on device") as caught:
        save(engine, store)
    assert str(store.folder) in caught.value.hint
    assert store.names() == ()
    # A file that nobody names, on a disk from which what was half written has gone already.
    with pytest.raises(EngineError, match="No space left on device"), disk.explained(lambda: engine.settings):
        raise NO_SPACE
    # Whoever reads the output may go away.
    with pytest.raises(BrokenPipeError), store.making("mine"):
        raise BrokenPipeError


COPY = """
import resource, sys
from pathlib import Path
from pipectl.engines.local.folders import copy_contents
from pipectl.errors import EngineError

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    copy_contents(*[(Path(sys.argv[1]), Path(sys.argv[2]))] * 2)
except EngineError as error:
    print(error.message)
"""


@pytest.mark.parametrize("path", [os.environ["PATH"], "/nowhere"])
def test_a_copy_that_the_system_refuses_says_why_in_one_sentence(tmp_path: Path, path: str) -> None:
    for name in ("from", "to"):
        (tmp_path / name).mkdir()
    for number in range(100):
        (tmp_path / "from" / str(number)).write_bytes(b"a" * 2000)
    places = tmp_path / "from", tmp_path / "to"
    done = subprocess.run(
        [sys.executable, "-c", COPY, *map(str, places)],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == f"{places[0]} cannot be copied to {places[1]}: File too large.\n"


def test_ctrl_c_ends_a_copy_at_once_and_what_copies_with_it(tmp_path: Path) -> None:
    for name in ("from", "to", "bin"):
        (tmp_path / name).mkdir()
    (tmp_path / "from" / "file").touch()
    program = tmp_path / "bin" / "cp"
    program.write_text(f"#!/bin/sh\necho $$ >> '{tmp_path}/pids'\nexec sleep 600\n")
    program.chmod(0o755)
    pids = tmp_path / "pids"
    with subprocess.Popen(
        [sys.executable, "-c", COPY, str(tmp_path / "from"), str(tmp_path / "to")],
        env={**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        until(lambda: pids.exists() and len(pids.read_text().splitlines()) == 2, "both copies")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=200)
    assert "KeyboardInterrupt" in said
    for pid in pids.read_text().split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
    assert list((tmp_path / "to").iterdir()) == []


@given(
    first=st.dictionaries(st.from_regex("[a-z]{1,3}", fullmatch=True), st.binary(max_size=5), max_size=4),
    second=st.dictionaries(st.from_regex("[a-z]{1,3}", fullmatch=True), st.binary(max_size=5), max_size=4),
    in_steps=st.booleans(),
)
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_folders_are_exchanged(
    tmp_path_factory: pytest.TempPathFactory,
    *,
    first: dict[str, bytes],
    second: dict[str, bytes],
    in_steps: bool,
) -> None:
    here = tmp_path_factory.mktemp("exchange")
    for name, files in (("first", first), ("second", second)):
        (here / name).mkdir()
        for file, text in files.items():
            (here / name / file).write_bytes(text)
    with pytest.MonkeyPatch.context() as patch:
        if in_steps:
            patch.setattr("ctypes.CDLL", lambda _: object())
        folders.exchange(here / "first", here / "second")
    for name, files in (("first", second), ("second", first)):
        assert {path.name: path.read_bytes() for path in (here / name).iterdir()} == files
    assert len(list(here.iterdir())) == 2


def test_an_exchange_in_steps_that_was_interrupted_is_put_back(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data").rename(tmp_path / ".data.exchanged")
    folders.restore_exchanged(tmp_path / "data", tmp_path / "beside")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    # Only the last step is missing.
    (tmp_path / ".data.exchanged").mkdir()
    folders.restore_exchanged(tmp_path / "data", tmp_path / "beside")
    assert {path.name for path in tmp_path.iterdir()} == {"data", "beside"}


def archive(path: Path, *members: tarfile.TarInfo) -> None:
    with tarfile.open(path, "w") as file:
        for member in members:
            file.addfile(member, io.BytesIO(b"x" * member.size))


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, target, 3 if kind == tarfile.REGTYPE else 0
    return made


def test_archives_tell_their_slots(tmp_path: Path) -> None:
    slots = [member("./pg_replslot", tarfile.DIRTYPE), member(f"./pg_replslot/{SLOT}", tarfile.DIRTYPE)]
    for service in archives.VOLUMES:
        archive(
            tmp_path / f"{service}.tar", member("./PG_VERSION"), *slots, member(f"./pg_replslot/{SLOT}/state")
        )
    assert archives.slots_in(tmp_path) == (SLOT,)


@pytest.mark.parametrize(
    "trick",
    [
        member("/etc/passwd"),
        member("../../up"),
        member("a/../../up"),
        member("link", tarfile.SYMTYPE, "/etc"),
        member("hard", tarfile.LNKTYPE, "/etc/passwd"),
        member("device", tarfile.BLKTYPE),
        member("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda trick: trick.name,
)
def test_archives_with_tricks_are_refused(tmp_path: Path, trick: tarfile.TarInfo) -> None:
    for service in archives.VOLUMES:
        archive(tmp_path / f"{service}.tar", member("./PG_VERSION"), trick)
    with pytest.raises(UsageError, match="which no data folder has"):
        archives.slots_in(tmp_path)


def test_archives_that_are_none_or_missing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be used"):
        archives.slots_in(tmp_path)
    for service in archives.VOLUMES:
        (tmp_path / f"{service}.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(UsageError, match="cannot be used"):
        archives.slots_in(tmp_path)


@pytest.mark.parametrize(("suffix", "following"), [("", "_2"), ("_2", "_3"), ("_9", "_10"), ("odd", "_2")])
def test_volumes_get_names_that_were_not_used_before(suffix: str, following: str) -> None:
    assert archives.next_suffix(suffix) == following


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, ""),
        ({"postgres": "17.9"}, ""),
        ({"postgres": "18.1"}, "PostgreSQL 17.2's, and here runs 18.1"),
        ({"mysql": "8.4"}, "that of MariaDB 10.11.6, and here runs MySQL 8.4"),
        ({"mysql": "MariaDB 11.4.2"}, ""),
        ({"mysql": "MariaDB 10.6.9"}, "which is older"),
        ({"airflow": "3.4.0"}, ""),
        ({"airflow": "3.2.2"}, "Airflow 3.3.2, and here runs 3.2.2, which is older"),
        ({"airflow": "", "mysql": "", "postgres": ""}, ""),
    ],
)
def test_servers_that_could_not_use_the_data_are_named(changes: dict[str, str], problem: str) -> None:
    found = snapshot_versions.data_problem(VERSIONS, {**VERSIONS, **changes})
    assert problem in found
    assert bool(problem) == bool(found)


class NotingData(FakeData):
    """Notes what is done with the data."""

    def __init__(self, engine: NotingEngine) -> None:
        super().__init__(engine)
        self._noting = engine

    def volumes(self) -> Any:
        path = self._engine.dags_dir
        return tuple(folders.VolumeFolder(name, path).describe() for name in databases())

    def copy_to(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "file").touch()
        self._noting.note("copy")

    def lay_beside(self, folder: Path | None, settings: Any) -> None:
        del settings
        assert folder is None or (folder / "airbyte-mysql").is_dir()
        self._noting.note("lay beside")

    def exchange(self) -> None:
        self._noting.note("exchange")

    def _drop_beside(self) -> None:
        self._noting.note("drop")

    def slots_in(self, folder: Path) -> tuple[str, ...]:
        return LocalData.slots_in(self, folder) if (folder / "airbyte-mysql").exists() else ()  # type: ignore[arg-type]


class NotingEngine(FakeEngine):
    """Notes what it is told to do; its data are small files."""

    name = "local"
    fails_at = interrupted_at = ""
    is_impatient = False

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.done: list[str] = []
        self.resting: set[str] = set()

    def note(self, what: str) -> None:
        self.done.append(what)
        if what == self.fails_at:
            raise EngineError(f"{what} failed.")
        if what == self.interrupted_at or (self.is_impatient and self.interrupted_at in self.done):
            signal.raise_signal(signal.SIGINT)

    def services(self) -> tuple[Service, ...]:
        return tuple(
            replace(service, state="stopped" if service.name in self.resting else service.state)
            for service in super().services()
        )

    @contextmanager
    def lock(self) -> Iterator[None]:
        yield

    @property
    def data(self) -> NotingData:
        return NotingData(self)

    def versions(self) -> dict[str, str]:
        return VERSIONS

    def rest(self, names: Collection[str]) -> tuple[str, ...]:
        self.resting.update(set(names) & set(self._names))
        self.note(f"rest {' '.join(names)}")
        return tuple(names)

    def wake(self, names: Collection[str]) -> None:
        self.resting.difference_update(names)
        self.note(f"wake {' '.join(names)}")

    def stop(self) -> tuple[str, ...]:
        self.resting.update(self._names)
        self.note("stop")
        return ()

    def start(self, observer: Observer, only: Collection[str] = ()) -> tuple[str, ...]:
        del observer
        self.resting.difference_update(only or self._names)
        self.note("start databases" if only else "start")
        return tuple(only) or ("webserver",)


@pytest.fixture
def engine(project: Path, monkeypatch: pytest.MonkeyPatch) -> NotingEngine:
    monkeypatch.setattr(snapshots, "wait_until_healthy", lambda *_, **__: None)
    monkeypatch.setattr(snapshots, "_prepare", lambda *_: True)
    monkeypatch.setattr(snapshots, "_wait_for_databases", lambda _: None)
    monkeypatch.setattr(snapshots, "_sequences", lambda _: {"public.ids": 5})
    monkeypatch.setattr(snapshots, "_counts", lambda _: {"public.transactions": (3, False)})
    monkeypatch.setattr(AirflowHealth, "running", lambda _: ())
    monkeypatch.setattr(lifecycle, "up_locked", lambda *_, **__: UP)
    return NotingEngine(settings_of(project))


def save(engine: NotingEngine, store: Store, name: str = "mine", hold: float = 0) -> Any:
    settings = engine._settings
    return snapshots.save(
        engine, settings, store, name, portable=False, hold_timeout=hold, up_timeout=1, observer=Observer()
    )


class Told(Observer):
    """Keeps what is said, and what had been done by then."""

    def __init__(self, engine: NotingEngine) -> None:
        self._engine = engine
        self.sentences: dict[str, tuple[str, ...]] = {}

    def report(self, sentence: str) -> None:
        self.sentences[sentence] = tuple(self._engine.done)


def restore(engine: NotingEngine, store: Store, *, keep_slots: bool | None = None) -> Any:
    settings = engine._settings
    chosen = snapshots.require_restorable(
        engine, settings, store, "mine", keep_slots=keep_slots, observer=Observer()
    )
    return snapshots.restore(
        engine,
        settings,
        store,
        chosen,
        "a_dag",
        keep_slots=keep_slots,
        up_timeout=1,
        observer=Observer(),
    )


STARTING = "scheduler worker triggerer"
ALL = f"{STARTING} dag-processor {' '.join(databases())}"


def test_a_save_holds_the_schedule_copies_and_wakes_what_rested(engine: NotingEngine, store: Store) -> None:
    saved = save(engine, store)
    assert engine.done == [
        f"rest {STARTING}",
        f"rest dag-processor {' '.join(databases())}",
        "copy",
        f"wake {ALL}",
    ]
    assert store.read("mine") == saved.snapshot
    assert saved.snapshot.versions == VERSIONS


def test_a_save_is_told_as_soon_as_it_is_safe_and_then_what_is_awaited(
    engine: NotingEngine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "wait_until_healthy", lambda *_, **__: engine.note("wait"))
    told = Told(engine)
    snapshots.save(
        engine,
        engine._settings,
        store,
        "mine",
        portable=False,
        hold_timeout=0,
        up_timeout=1,
        observer=told,
    )
    *_, saved, awaited = told.sentences
    assert (saved, awaited) == ("Saved mine: 0 bytes", "Waiting until all services are healthy again")
    assert engine.done[-1] == "wait"
    assert "wait" not in told.sentences[awaited]


def test_what_rested_wakes_also_if_the_copy_fails(engine: NotingEngine, store: Store) -> None:
    engine.fails_at = "copy"
    with pytest.raises(EngineError):
        save(engine, store)
    assert engine.done[-1] == f"wake {ALL}"
    assert store.names() == ()


RUN = DagRun("shop", "manual__1", "manual", "running", MADE, MADE, MADE, None)


def test_a_run_that_stays_active_is_named_and_nothing_rests(
    engine: NotingEngine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(RUN, dag_id="crm", run_id="a b")
    monkeypatch.setattr(AirflowHealth, "running", lambda _: (RUN, other))
    with pytest.raises(WaitTimeoutError, match="manual__1 of shop and a b of crm") as caught:
        save(engine, store)
    assert caught.value.hint.splitlines() == [
        "To wait for longer: --wait SECONDS",
        "What it waits for: pipectl explain shop manual__1",
        "To end it: pipectl cancel shop manual__1",
        "To end it: pipectl cancel crm 'a b'",
    ]
    assert engine.done == []
    assert store.names() == ()


def test_each_run_that_must_end_first_has_its_command(
    engine: NotingEngine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tuple(replace(RUN, run_id=f"manual__{number}") for number in range(6))
    monkeypatch.setattr(AirflowHealth, "running", lambda _: runs)
    with pytest.raises(WaitTimeoutError, match="and 3 more") as caught:
        save(engine, store)
    for run in runs:
        assert f"pipectl cancel shop {run.run_id}" in caught.value.hint


def test_a_restore_ends_active_runs_and_says_so_beforehand(
    engine: NotingEngine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(store, "mine")
    monkeypatch.setattr(AirflowHealth, "running", lambda _: (RUN,))
    monkeypatch.setattr(Invocation, "settings", engine._settings)
    monkeypatch.setattr(Invocation, "engine", engine)
    done = CliRunner().invoke(cli.app, ["snapshot", "restore", "mine"])
    assert done.exit_code == ExitCode.USAGE
    assert "Active now, and ended with the services: manual__1 of shop." in " ".join(done.stderr.split())
    assert engine.done == []
    restore(engine, store)
    assert engine.done[:4] == ["drop", "lay beside", f"rest {STARTING}", "stop"]
    # Nothing is waited for.
    done = CliRunner().invoke(cli.app, ["snapshot", "restore", "mine", "--wait", "5"])
    assert (done.exit_code, "--wait goes with save" in done.stderr) == (ExitCode.USAGE, True)


def test_a_run_that_begins_just_then_is_let_go_on(
    engine: NotingEngine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([(), (RUN,), (RUN,), (), (), ()])
    monkeypatch.setattr(AirflowHealth, "running", lambda _: next(answers))
    save(engine, store, hold=5)
    assert engine.done[:4] == [
        f"rest {STARTING}",
        f"wake {STARTING}",
        f"rest {STARTING}",
        f"rest dag-processor {' '.join(databases())}",
    ]


def test_a_restore_keeps_the_data_of_before_until_the_new_is_up(engine: NotingEngine, store: Store) -> None:
    make(store, "mine")
    kept = engine.state_dir / seen.FILE
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text('{"dags": ["of_before"]}')
    restored = restore(engine, store)
    assert not kept.exists()
    assert engine.done == [
        "drop",
        "lay beside",
        f"rest {STARTING}",
        "stop",
        "exchange",
        "start databases",
        "start",
        "drop",
    ]
    assert restored.slots_dropped == ()
    assert restored.up.started == (*databases(), "webserver")
    assert any("none is used twice" in note for note in restored.notes)


@pytest.mark.parametrize("step", ["start databases", "start"])
def test_if_the_new_does_not_start_the_data_of_before_is_back(
    engine: NotingEngine, store: Store, step: str
) -> None:
    make(store, "mine")
    engine.fails_at = step
    with pytest.raises(EngineError) as caught:
        restore(engine, store)
    assert engine.done[-4:] == [step, "stop", "exchange", "drop"]
    assert "pipectl up" in caught.value.hint


@pytest.mark.parametrize("step", ["lay beside", f"rest {STARTING}", "stop"])
def test_before_the_exchange_a_failure_leaves_the_data_alone(
    engine: NotingEngine, store: Store, step: str
) -> None:
    make(store, "mine")
    engine.fails_at = step
    with pytest.raises(EngineError):
        restore(engine, store)
    assert "exchange" not in engine.done
    assert "drop" in engine.done[1:]


LARGE = 10_000_000


@pytest.mark.parametrize(
    ("saved", "counted", "lost"),
    [
        ({"transactions": 344}, {"transactions": (286, False)}, "transactions has 286 of 344 rows"),
        ({"transactions": 1}, {}, "transactions has 0 of 1 row."),
        ({"transactions": LARGE}, {}, "transactions has 0 of 10,000,000 rows"),
        ({"transactions": 344, "labels": 2}, {"transactions": (344, False), "labels": (1, False)}, "labels"),
        # Nothing is lost.
        ({"transactions": 344}, {"transactions": (344, False)}, ""),
        ({"transactions": 344}, {"transactions": (345, False), "more": (1, False)}, ""),
        # Nothing is known.
        ({"transactions": LARGE}, {"transactions": (LARGE - 1, True)}, ""),
        ({"transactions": LARGE}, {"transactions": (400_000, False)}, ""),
        ({"transactions": 344}, {"transactions": (286, True)}, ""),
        (None, {}, ""),
    ],
)
def test_rows_that_a_restore_does_not_give_back_put_the_data_of_before_back(
    engine: NotingEngine,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    saved: dict[str, int] | None,
    counted: dict[str, tuple[int, bool]],
    lost: str,
) -> None:
    make(store, "mine")
    rewrite(store, "mine", rows=saved)
    monkeypatch.setattr(snapshots, "_counts", lambda _: counted)
    if not lost:
        restore(engine, store)
        assert engine.done.count("exchange") == 1
        return
    with pytest.raises(DatabaseError, match=lost) as caught:
        restore(engine, store)
    assert engine.done[-4:] == ["start databases", "stop", "exchange", "drop"]
    assert "The data of before is in its place again" in caught.value.hint
    assert "pipectl snapshot rm mine" in caught.value.hint


@pytest.mark.parametrize(("keep", "dropped"), [(False, (SLOT,)), (True, ())])
def test_slots_are_kept_or_dropped_by_choice_alone(
    engine: NotingEngine, store: Store, *, keep: bool, dropped: tuple[str, ...]
) -> None:
    make(store, "mine", slots=(SLOT,))
    with pytest.raises(UsageError, match=SLOT) as caught:
        restore(engine, store)
    assert "--drop-slots" in caught.value.hint
    assert "--keep-slots" in caught.value.hint
    assert engine.done == []
    assert restore(engine, store, keep_slots=keep).slots_dropped == dropped


@pytest.fixture
def _ctrl_c() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


RUN_ALL = "All services run that ran before."


@pytest.mark.usefixtures("_ctrl_c")
@pytest.mark.parametrize("is_impatient", [False, True])
@pytest.mark.parametrize(
    ("step", "said"),
    [
        (f"rest {STARTING}", "Nothing was saved."),
        (f"rest dag-processor {' '.join(databases())}", "Nothing was saved."),
        ("copy", "Nothing was saved."),
        (f"wake {ALL}", "Nothing was saved."),
        ("wait", "The snapshot mine is saved."),
    ],
)
def test_ctrl_c_in_a_save_starts_again_what_rested_and_says_what_is_saved(
    engine: NotingEngine,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    said: str,
    *,
    is_impatient: bool,
) -> None:
    monkeypatch.setattr(snapshots, "wait_until_healthy", lambda *_, **__: engine.note("wait"))
    engine.interrupted_at, engine.is_impatient = step, is_impatient
    with pytest.raises(KeyboardInterrupt) as caught:
        save(engine, store)
    assert caught.value.__notes__ == [said, RUN_ALL]
    assert engine.resting == set()
    assert bool(store.names()) == (step == "wait")
    assert {path.name for path in store.folder.iterdir()} <= {".owner", "mine"}


@pytest.mark.usefixtures("_ctrl_c")
@pytest.mark.parametrize("is_impatient", [False, True])
@pytest.mark.parametrize(
    ("step", "is_new", "runs"),
    [
        ("lay beside", False, True),
        (f"rest {STARTING}", False, True),
        ("stop", False, False),
        ("exchange", False, False),
        ("start databases", False, False),
        ("start", False, False),
        ("up", True, True),
    ],
)
def test_ctrl_c_in_a_restore_says_whose_data_it_is(
    engine: NotingEngine,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    *,
    is_new: bool,
    runs: bool,
    is_impatient: bool,
) -> None:
    make(store, "mine")
    monkeypatch.setattr(lifecycle, "up_locked", lambda *_, **__: engine.note("up"))
    engine.interrupted_at, engine.is_impatient = step, is_impatient
    with pytest.raises(KeyboardInterrupt) as caught:
        restore(engine, store)
    of, services = caught.value.__notes__
    assert of == f"All data is that of {'the snapshot mine' if is_new else 'before'}."
    assert engine.done.count("exchange") % 2 == is_new
    assert engine.done.count("drop") == 2
    assert bool(engine.resting) != runs
    if runs:
        assert services == RUN_ALL
    else:
        assert services.startswith("Stopped: airbyte-mysql, airbyte-postgres, ")
        assert services.endswith(". To start what is stopped: pipectl up")


def test_what_was_stopped_before_a_save_is_not_told_as_left_so(
    engine: NotingEngine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.resting = {"triggerer"}
    monkeypatch.setattr(snapshots, "_hold_schedule", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt) as caught:
        save(engine, store)
    assert caught.value.__notes__ == ["Nothing was saved.", RUN_ALL]
    # Nobody knows what runs.
    monkeypatch.setattr(NotingEngine, "services", Mock(side_effect=[(), (), EngineError("Silent.")]))
    with pytest.raises(KeyboardInterrupt) as caught:
        save(engine, store)
    assert caught.value.__notes__ == ["Nothing was saved.", "What runs: pipectl status"]


def test_another_engines_snapshot_and_databases_elsewhere_are_refused(
    engine: NotingEngine, store: Store
) -> None:
    make(store, "mine")
    rewrite(store, "mine", engine="docker")
    with pytest.raises(UsageError, match="docker engine's") as caught:
        restore(engine, store)
    assert "--engine docker snapshot restore mine" in caught.value.hint
    engine._settings = replace(engine._settings, variables={"AIRBYTE_MYSQL_HOST": "db.example.com"})
    for command in (save, restore):
        with pytest.raises(UsageError, match="airbyte-mysql runs elsewhere"):
            command(engine, store)
    assert engine.done == []


def local_engine(project: Path, monkeypatch: pytest.MonkeyPatch, **variables: str) -> LocalEngine:
    monkeypatch.setattr("os.sync", lambda: None)
    for service in databases():
        folder = project / ".pipectl/volumes" / service / "data"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "now").write_text("of now")
    return LocalEngine(settings_of(project, **variables))


def data_files(project: Path) -> set[str]:
    return {path.name for path in (project / ".pipectl/volumes").rglob("*") if path.is_file()}


def test_data_and_what_it_was_made_with_are_exchanged_together(
    project: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = local_engine(project, monkeypatch, AIRBYTE_MYSQL_PASSWORD="new", AIRFLOW_PORT="1")
    make(store, "mine")
    assert engine.data.beside() == ""
    engine.data.lay_beside(store.path("mine") / DATA, {"AIRBYTE_MYSQL_PASSWORD": "old"})
    assert data_files(project) == {"now"}
    assert engine.data.beside() == "copy"
    engine.data.exchange()
    assert data_files(project) == {"PG_VERSION"}
    assert engine.data.beside() == "before"
    assert "AIRBYTE_MYSQL_PASSWORD=old" in (project / "stack/.env").read_text()
    engine.data.exchange()
    assert data_files(project) == {"now"}
    assert engine.data.beside() == "copy"
    assert "AIRBYTE_MYSQL_PASSWORD=new" in (project / "stack/.env").read_text()
    engine.data.drop_beside()
    assert sorted(path.name for path in (project / ".pipectl").iterdir()) == [
        ".gitignore",
        "snapshots",
        "volumes",
    ]


def test_an_exchange_that_was_killed_is_finished_by_the_next_start(
    project: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = local_engine(project, monkeypatch, AIRBYTE_MYSQL_PASSWORD="new")
    make(store, "mine")
    engine.data.lay_beside(store.path("mine") / DATA, {"AIRBYTE_MYSQL_PASSWORD": "old"})
    # Killed as soon as the folders have their new names.
    monkeypatch.setattr(LocalData, "_adopt_settings", lambda _: None)
    engine.data.exchange()
    monkeypatch.undo()
    started = LocalEngine(settings_of(project, AIRBYTE_MYSQL_PASSWORD="new"))
    started.data.finish_exchange()
    assert "AIRBYTE_MYSQL_PASSWORD=old" in (project / "stack/.env").read_text()
    assert data_files(project) == {"PG_VERSION"}


class Killed(BaseException):
    """kill -9: nothing of what comes after is done."""


@pytest.mark.parametrize("in_steps", [False, True])
@pytest.mark.parametrize("renames", [0, 1, 2, 3])
def test_a_restore_that_was_killed_anywhere_is_known_and_whose_the_data_is(
    project: Path, store: Store, monkeypatch: pytest.MonkeyPatch, renames: int, *, in_steps: bool
) -> None:
    engine = local_engine(project, monkeypatch)
    make(store, "mine")
    (project / ".pipectl/volumes.beside").mkdir()
    assert engine.data.beside() == "copy"  # before the first file was there
    engine.data.lay_beside(store.path("mine") / DATA, {})
    with monkeypatch.context() as patch:
        patch.setattr(LocalData, "_adopt_settings", Mock(side_effect=Killed))
        if in_steps:
            done, rename = iter(range(renames)), Path.rename

            def renamed(path: Path, to: Path) -> Path:
                if next(done, None) is None:
                    raise Killed
                return rename(path, to)

            patch.setattr("ctypes.CDLL", lambda _: object())
            patch.setattr(Path, "rename", renamed)
        with pytest.raises(Killed):
            engine.data.exchange()
    is_new = not in_steps or renames > 1
    started = LocalEngine(settings_of(project))
    [leftover] = started.leftovers()
    assert ("all data is that of the snapshot" in leftover.what) == is_new
    assert ("all data is that of before" in leftover.what) != is_new
    assert leftover.remedy == "pipectl up"
    folders.restore_exchanged(started.data._folder, started.data._beside)
    assert started.data.beside() == ("before" if is_new else "copy")
    assert data_files(project) - {SETTINGS} == ({"PG_VERSION"} if is_new else {"now"})
    started.data.drop_beside()
    assert started.leftovers() == ()


@pytest.mark.parametrize("left", [".k1.new-v983veq5", ".k1.deleted", ".owner.new"])
def test_what_a_killed_save_has_left_is_named_and_no_snapshot_is(
    project: Path, store: Store, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    engine = local_engine(project, monkeypatch)
    make(store, "mine")
    assert engine.leftovers() == ()
    (store.folder / left).mkdir()
    [leftover] = engine.leftovers()
    assert leftover.is_safe
    subprocess.run(["sh", "-c", leftover.remedy], check=True)
    assert engine.leftovers() == ()
    assert store.names() == ("mine",)


@pytest.mark.parametrize(
    ("beside", "said"), [("", ""), ("copy", "is that of before"), ("before", "is that of the snapshot")]
)
def test_up_says_what_it_makes_of_a_restore_that_was_killed(
    engine: NotingEngine, monkeypatch: pytest.MonkeyPatch, beside: str, said: str
) -> None:
    monkeypatch.undo()
    for name in ("wait_until_healthy", "wait_until_parsed"):
        monkeypatch.setattr(lifecycle, name, lambda *_, **__: None)
    monkeypatch.setattr(AirflowHealth, "import_failures", lambda *_: ())
    monkeypatch.setattr(NotingData, "beside", lambda _: beside)
    notes = lifecycle.up_locked(engine, "a_dag", timeout=1, observer=Observer()).notes
    told = [note for note in notes if note.startswith("A restore was interrupted")]
    assert len(told) == bool(said)
    assert said in "".join(told)
    assert engine.done == ["start", "drop"]


def test_what_the_environment_sets_must_not_contradict_the_data(
    project: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = local_engine(project, monkeypatch, AIRBYTE_MYSQL_PASSWORD="new")
    engine._settings = replace(engine._settings, from_environment=frozenset({"AIRBYTE_MYSQL_PASSWORD"}))
    make(store, "mine")
    for value, words in (("old", "the environment"), ("a'b", "must name again"), ("a\nPATH=/", "must name")):
        with pytest.raises(UsageError, match="AIRBYTE_MYSQL_PASSWORD") as caught:
            engine.data.lay_beside(store.path("mine") / DATA, {"AIRBYTE_MYSQL_PASSWORD": value})
        assert words in caught.value.message or value == "old"
        engine._settings = replace(engine._settings, from_environment=frozenset())
    assert not (project / ".pipectl/volumes.beside").exists()


class OneEngine:
    """The volumes of a Docker engine; those that somebody uses cannot be removed."""

    host = "unix:///nowhere"

    def __init__(self) -> None:
        self.there: dict[str, dict[str, str]] = {}
        self.unpacked: list[tuple[str, str]] = []

    def volumes(self, labels: dict[str, str]) -> list[dict[str, Any]]:
        return [
            {"Name": name, "Labels": held, "CreatedAt": MADE.isoformat()}
            for name, held in self.there.items()
            if labels.items() <= held.items()
        ]

    def volume_sizes(self) -> dict[str, int]:
        return {}

    def make_volume(self, name: str, labels: dict[str, str]) -> None:
        assert name not in self.there
        self.there[name] = labels

    def remove_volume(self, name: str) -> None:
        del self.there[name]


@pytest.fixture
def docker_engine(project: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[DockerEngine, OneEngine]:
    """A project with its volumes on an engine, beside those of another project."""
    fake: Any = OneEngine()
    chosen = {"PIPECTL_PROJECT_ID": "me", "COMPOSE_PROJECT_NAME": "mine", "AIRBYTE_MYSQL_PASSWORD": "new"}
    engine = DockerEngine(settings_of(project, **chosen), fake)
    monkeypatch.setattr(DockerEngine, "_compose", fake)
    monkeypatch.setattr(DockerEngine, "_described", {"postgres": {"image": "postgres:17"}})
    monkeypatch.setattr(archives, "unpack", lambda *words: fake.unpacked.append((words[2].name, words[3])))
    for owner, name in (("me", "mine"), ("you", "yours")):
        for volume in (*archives.VOLUMES.values(), "airflow_logs"):
            fake.there[f"{name}_{volume}"] = {
                "org.pipectl.project": owner,
                "com.docker.compose.volume": volume,
            }
    return engine, fake


def test_on_docker_one_write_goes_over_to_other_volumes_and_back(
    project: Path, docker_engine: tuple[DockerEngine, OneEngine]
) -> None:
    engine, fake = docker_engine
    before = dict(fake.there)
    engine.data.lay_beside(project, {"AIRBYTE_MYSQL_PASSWORD": "old"})
    new = {f"mine_{volume}_2" for volume in archives.VOLUMES.values()}
    assert fake.there.keys() == before.keys() | new
    assert sorted(fake.unpacked) == sorted(
        (f"{service}.tar", f"mine_{volume}_2") for service, volume in archives.VOLUMES.items()
    )
    assert not (project / "stack/.env").exists()
    assert engine.data.beside() == "copy"
    engine.data.exchange()
    assert engine.data.beside() == "before"
    assert {volume.location for volume in engine.data.volumes()} == new
    text = (project / "stack/.env").read_text()
    assert "PIPECTL_DATA_SUFFIX=_2\n" in text
    assert "AIRBYTE_MYSQL_PASSWORD=old\n" in text
    engine.data.exchange()
    text = (project / "stack/.env").read_text()
    assert "PIPECTL_DATA_SUFFIX=\n" in text
    assert "AIRBYTE_MYSQL_PASSWORD=new\n" in text
    assert engine.data.beside() == "copy"
    engine.data.drop_beside()
    assert engine.data.beside() == ""
    assert fake.there == before


def test_on_docker_a_restore_that_was_killed_leaves_volumes_that_the_next_drops(
    project: Path, docker_engine: tuple[DockerEngine, OneEngine]
) -> None:
    engine, fake = docker_engine
    before = set(fake.there)
    engine.data.lay_beside(project, {})
    engine.data.exchange()
    engine.data.drop_beside()
    old = {f"mine_{volume}" for volume in archives.VOLUMES.values()}
    assert fake.there.keys() == before - old | {f"{name}_2" for name in old}
    engine.data.lay_beside(project, {})
    engine.data.lay_beside(project, {})
    assert {name for name in fake.there if name.endswith("_3")} == {f"{name}_3" for name in old}


def test_lost_settings_still_name_the_volumes_of_a_restore(
    project: Path, docker_engine: tuple[DockerEngine, OneEngine]
) -> None:
    engine, _ = docker_engine
    engine.data.lay_beside(project, {})
    engine.data.exchange()
    (project / "stack/.env").unlink()
    assert load(project).variables["PIPECTL_DATA_SUFFIX"] == "_2"
    engine.data.exchange()
    loaded = load(project)
    assert not loaded.variables.get("PIPECTL_DATA_SUFFIX")
    assert "PIPECTL_DATA_SUFFIX" not in loaded.restored


def test_a_failed_migration_says_what_there_is_to_go_back_to(
    project: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    invocation = Invocation(Console(quiet=True))
    monkeypatch.setattr(Invocation, "settings", settings_of(project))
    for error in (
        MigrationError("It could not."),
        EngineError("The service 'airflow-init' ends.", hint="See."),
    ):
        with pytest.raises(EngineError) as caught, up.naming_snapshots(invocation):
            raise error
        assert "snapshot" not in caught.value.hint
    make(store, "mine")
    with pytest.raises(EngineError) as caught, up.naming_snapshots(invocation):
        raise MigrationError("It could not.", hint="Mend it.")
    assert "Mend it." in caught.value.hint
    assert "pipectl snapshot restore mine" in caught.value.hint
    with pytest.raises(EngineError) as caught, up.naming_snapshots(invocation):
        raise EngineError("The disk is full.")
    assert caught.value.hint == ""


class Answering(Console):
    """Somebody who answers questions."""

    answer: bool | None = True

    def confirm(self, question: str) -> bool | None:
        asked.append(question)
        return self.answer


asked: list[str] = []


@pytest.mark.parametrize(
    ("answer", "yes", "json_wanted", "saves"),
    [
        (True, False, False, 1),
        (False, False, False, 0),
        (None, False, False, 0),
        (True, True, False, 0),
        (True, False, True, 0),
    ],
)
def test_a_snapshot_is_offered_to_who_is_there_to_answer(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    answer: bool | None,
    yes: bool,
    json_wanted: bool,
    saves: int,
) -> None:
    saved: list[str] = []
    monkeypatch.setattr(Invocation, "settings", settings_of(project))
    monkeypatch.setattr(snapshot, "save", lambda _, __, name, **___: saved.append(name))
    monkeypatch.setattr(Answering, "answer", answer)
    asked.clear()
    snapshot.offer_snapshot(Invocation(Answering(json=json_wanted)), "before-reset", yes=yes)
    assert len(saved) == saves
    assert len(asked) == (not yes and not json_wanted)
    assert all(name.startswith("before-reset-") for name in saved)


@pytest.mark.parametrize("words", [("reset",), ("reset", "--data-only")])
def test_reset_offers_one_before_it_asks(
    engine: NotingEngine, store: Store, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    offered: list[str] = []
    make(store, "mine")
    monkeypatch.setattr(Invocation, "settings", engine._settings)
    monkeypatch.setattr(Invocation, "engine", engine)
    monkeypatch.setattr(NotingEngine, "volumes", lambda engine: engine.data.volumes())
    monkeypatch.setattr(reset, "offer_snapshot", lambda *_, **__: offered.append("offered"))
    monkeypatch.setattr(reset, "_consumers", lambda *_: Consumers())
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == ExitCode.USAGE
    assert offered == ["offered"]
    assert "nothing was deleted" in done.stderr
    assert ("Snapshots stay: mine." in done.stderr) == (words == ("reset",))


@pytest.mark.parametrize(("is_live", "rows", "said"), [(True, 5, True), (True, 0, False), (False, 5, False)])
def test_a_load_over_rows_says_how_to_go_back(
    engine: NotingEngine, monkeypatch: pytest.MonkeyPatch, *, is_live: bool, rows: int, said: bool
) -> None:
    there = Mock()
    there.estimated_transactions.return_value = rows
    monkeypatch.setattr(Invocation, "settings", engine._settings)
    monkeypatch.setattr(Invocation, "engine", engine)
    monkeypatch.setattr(Console, "is_live", is_live)
    monkeypatch.setattr("pipectl.pipeline.access.business_databases", lambda _: there)
    monkeypatch.setattr("pipectl.pipeline.consumers.binary_log", lambda _: None)
    monkeypatch.setattr("pipectl.pipeline.loading.HistoryLoader.load", Mock(side_effect=KeyboardInterrupt))
    done = CliRunner().invoke(cli.app, ["load"])
    assert done.exit_code == ExitCode.INTERRUPTED
    assert ("pipectl snapshot save before-the-load" in done.stderr) == said
