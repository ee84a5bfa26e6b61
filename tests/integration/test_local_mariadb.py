"""The local engine's MySQL-protocol server, on the real one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipectl.engines.local import mariadb, privileges
from pipectl.engines.local.binaries import find_mariadb
from pipectl.errors import EngineError
from support.needs import need
from support.server_process import free_port, start_program, until_it_answers
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipectl.engines.local.binaries import MariadbBinaries

pytestmark = pytest.mark.integration

PASSWORD = "it's a\\secret"
FILES = Path(__file__).parents[2] / "stack" / "mysql"
CONFIG = FILES / "server.cnf"
LOGIN = {"user": "docker", "password": PASSWORD, "database": "da_ta"}


@pytest.fixture(scope="module")
def binaries(tmp_path_factory: pytest.TempPathFactory) -> MariadbBinaries:
    cache = tmp_path_factory.mktemp("cache")
    return need("databases", lambda: find_mariadb(cache, print))


@pytest.fixture
def data_dir(binaries: MariadbBinaries, tmp_path: Path) -> Path:
    assert mariadb.prepare(binaries, tmp_path / "mysql", FILES, **LOGIN)
    return tmp_path / "mysql"


def connect(port: int, **changes: str) -> Any:
    import mysql.connector

    login: dict[str, Any] = {**LOGIN, "collation": "utf8mb4_unicode_ci", "use_pure": True, **changes}
    return mysql.connector.connect(host="127.0.0.1", port=port, **login)


def query(port: int, statement: str, **changes: str) -> list[tuple[Any, ...]]:
    connection = connect(port, **changes)
    try:
        cursor = connection.cursor()
        cursor.execute(statement)
        rows = list(cursor.fetchall()) if cursor.with_rows else []
        connection.commit()
    finally:
        connection.close()
    return rows


def start(
    binaries: MariadbBinaries, data_dir: Path, port: int, config: Path = CONFIG
) -> subprocess.Popen[bytes]:
    """Start the server as the supervisor does, and wait until it answers."""
    program = mariadb.program(binaries, "airbyte-mysql", data_dir, port, config)
    log = data_dir.parent / f"{data_dir.name}.log"
    server = start_program(program, log)
    until_it_answers(server, lambda: connect(port), log)
    return server


def stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        server.terminate()
    server.wait(timeout=200)


@contextmanager
def running(binaries: MariadbBinaries, data_dir: Path, config: Path = CONFIG) -> Iterator[int]:
    port = free_port()
    server = start(binaries, data_dir, port, config)
    try:
        yield port
    finally:
        stop(server)


def test_another_server_that_starts_leaves_temporary_tables_alone(
    binaries: MariadbBinaries, data_dir: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    mariadb.prepare(binaries, other, FILES, **LOGIN)
    with running(binaries, data_dir) as port:
        connection = connect(port)
        cursor = connection.cursor()
        cursor.execute("CREATE TEMPORARY TABLE t (id INT PRIMARY KEY) ENGINE=MyISAM")
        cursor.execute("INSERT INTO t VALUES (1)")
        with running(binaries, other):
            cursor.execute("ALTER TABLE t ADD COLUMN more INT")
            cursor.execute("SELECT id FROM t")
            assert cursor.fetchall() == [(1,)]
            cursor.execute("DROP TEMPORARY TABLE t")
        connection.close()


def test_server_is_ready_for_change_data_capture(binaries: MariadbBinaries, data_dir: Path) -> None:
    names = (
        *("log_bin", "binlog_format", "binlog_row_image", "server_id", "binlog_expire_logs_seconds"),
        *("local_infile", "time_zone", "collation_server", "bind_address", "socket"),
    )
    with running(binaries, data_dir) as port:
        found = dict(query(port, "SHOW GLOBAL VARIABLES"))
        grants = " ".join(row[0] for row in query(port, "SHOW GRANTS"))
        query(port, "CREATE TABLE t (id INT PRIMARY KEY)")
        query(port, "INSERT INTO t VALUES (1)")
        events = [row[2] for row in query(port, "SHOW BINLOG EVENTS")]

    assert [found[name] for name in names] == [
        *("ON", "ROW", "FULL", "1", "604800"),
        *("ON", "+00:00", "utf8mb4_unicode_ci", "127.0.0.1", ""),
    ]
    assert "REPLICATION SLAVE" in grants
    assert any(event.startswith("Write_rows") for event in events)


def test_only_the_right_user_and_password_log_in(binaries: MariadbBinaries, data_dir: Path) -> None:
    import mysql.connector

    with running(binaries, data_dir) as port:
        for changes in (
            {"password": "wrong"},
            {"password": ""},
            {"user": "root", "password": "", "database": ""},
            {"user": "", "password": "", "database": ""},
        ):
            with pytest.raises(mysql.connector.Error, match="denied"):
                connect(port, **changes)


def test_user_owns_its_database_alone(binaries: MariadbBinaries, data_dir: Path) -> None:
    import mysql.connector

    with running(binaries, data_dir) as port:
        query(port, "CREATE TABLE da_ta.t (id INT)")
        for statement in (
            "CREATE DATABASE daxta",
            "SELECT * FROM mysql.user",
            "SELECT 1 INTO OUTFILE '/tmp/written'",
            "LOAD DATA INFILE '/etc/passwd' INTO TABLE da_ta.t",
            "SET GLOBAL general_log_file = '/tmp/written'",
            "INSTALL PLUGIN any SONAME 'any.so'",
            "CREATE USER another",
        ):
            with pytest.raises(mysql.connector.Error, match="denied"):
                query(port, statement)


def test_local_files_and_all_of_unicode_load(
    binaries: MariadbBinaries, data_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("1,ж😀\n")
    with running(binaries, data_dir) as port:
        query(port, "CREATE TABLE t (id INT, name VARCHAR(10))")
        connection = connect(port, allow_local_infile="1")
        connection.cursor().execute(
            f"LOAD DATA LOCAL INFILE '{tmp_path}/rows.csv' INTO TABLE t FIELDS TERMINATED BY ','"
        )
        connection.commit()
        connection.close()
        assert query(port, "SELECT * FROM t") == [(1, "ж😀")]


def test_password_reaches_neither_arguments_nor_log(binaries: MariadbBinaries, data_dir: Path) -> None:
    program = mariadb.program(binaries, "airbyte-mysql", data_dir, 1, CONFIG)
    with running(binaries, data_dir):
        pass

    assert PASSWORD not in " ".join((*program.command, *program.environment.values()))
    assert PASSWORD not in (data_dir.parent / "mysql.log").read_text()


def test_committed_rows_survive_a_kill_and_an_immediate_restart(
    binaries: MariadbBinaries, data_dir: Path
) -> None:
    port = free_port()
    server = start(binaries, data_dir, port)
    try:
        query(port, "CREATE TABLE t (id INT)")
        query(port, "INSERT INTO t VALUES (1), (2), (3)")
        busy = connect(port)
        busy.cursor().execute("INSERT INTO t VALUES (4)")
        server.kill()
        server.wait()
        server = start(binaries, data_dir, port)
        rows = query(port, "SELECT COUNT(*) FROM t")
    finally:
        stop(server)

    assert rows == [(3,)]


def test_stale_pid_file_that_names_somebody_elses_process_does_no_harm(
    binaries: MariadbBinaries, data_dir: Path
) -> None:
    stale = data_dir / mariadb.PID_FILE
    stale.write_text(f"{os.getpid()}\n")
    # An earlier server wrote it.
    os.chown(stale, data_dir.stat().st_uid, data_dir.stat().st_gid)

    assert mariadb.running_pid(data_dir) is None
    with running(binaries, data_dir) as port:
        assert query(port, "SELECT 1") == [(1,)]


def test_supervised_process_is_the_server_itself(binaries: MariadbBinaries, data_dir: Path) -> None:
    server = start(binaries, data_dir, free_port())
    try:
        assert mariadb.running_pid(data_dir) == server.pid
    finally:
        stop(server)

    assert server.returncode == 0
    assert mariadb.running_pid(data_dir) is None


def test_preparing_twice_changes_nothing(binaries: MariadbBinaries, data_dir: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in data_dir.rglob("*"))

    assert not mariadb.prepare(binaries, data_dir, FILES, **LOGIN)
    assert sorted((path, path.stat().st_mtime_ns) for path in data_dir.rglob("*")) == before


def test_interrupted_preparation_leaves_nothing_in_the_way(binaries: MariadbBinaries, tmp_path: Path) -> None:
    data_dir = tmp_path / "mysql"
    script = (
        "import sys; from pathlib import Path; from pipectl.engines.local import mariadb;"
        "from pipectl.engines.local.binaries import inspect_mariadb;"
        "binaries = inspect_mariadb(Path(sys.argv[1]), sys.argv[2]);"
        "login = {'user': 'docker', 'password': 'x', 'database': 'data'};"
        "mariadb.prepare(binaries, Path(sys.argv[3]), Path(sys.argv[4]), **login)"
    )
    libraries = binaries.environment.get("LD_LIBRARY_PATH", "")
    arguments = (str(binaries.server), libraries, str(data_dir), str(FILES))
    child = subprocess.Popen((sys.executable, "-c", script, *arguments), start_new_session=True)
    until(
        lambda: child.poll() is not None or list(tmp_path.glob(".mysql.new-*/ibdata1")),
        "a folder that is being filled",
    )
    assert child.poll() is None
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert not data_dir.exists()

    assert mariadb.prepare(binaries, data_dir, FILES, **LOGIN)
    assert [path.name for path in tmp_path.iterdir()] == ["mysql"]
    with running(binaries, data_dir) as port:
        assert query(port, "SELECT 1") == [(1,)]


def test_long_project_path_with_odd_characters_works(binaries: MariadbBinaries, tmp_path: Path) -> None:
    data_dir = tmp_path / ("a long; 50% odd 'name' " + "x" * 150) / "mysql"
    mariadb.prepare(binaries, data_dir, FILES, **LOGIN)

    with running(binaries, data_dir) as port:
        assert query(port, "SELECT 1") == [(1,)]


def test_two_servers_run_side_by_side(binaries: MariadbBinaries, data_dir: Path, tmp_path: Path) -> None:
    mariadb.prepare(binaries, tmp_path / "second", FILES, **LOGIN)

    with running(binaries, data_dir) as first, running(binaries, tmp_path / "second") as second:
        query(first, "CREATE TABLE t (id INT)")
        assert query(second, "SHOW TABLES") == []


def test_data_of_the_other_flavour_is_refused_with_what_to_do(
    binaries: MariadbBinaries, data_dir: Path
) -> None:
    marker = data_dir / "aria_log_control"
    marker.unlink() if marker.exists() else marker.touch()

    with pytest.raises(EngineError, match="was made by") as failure:
        mariadb.prepare(binaries, data_dir, FILES, **LOGIN)
    assert "pipectl reset" in failure.value.hint


def test_failed_preparation_leaves_nothing_and_shows_the_servers_words_without_the_password(
    binaries: MariadbBinaries, tmp_path: Path
) -> None:
    with pytest.raises(EngineError) as failure:
        mariadb.prepare(
            binaries, tmp_path / "mysql", FILES, user="u" * 200, password="swordfish", database="data"
        )

    assert "too long" in failure.value.detail
    assert "swordfish" not in f"{failure.value} {failure.value.detail}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops privileges")
def test_a_server_that_root_starts_has_a_uid_of_its_own(binaries: MariadbBinaries, data_dir: Path) -> None:
    if privileges.privileges().prefix != privileges.MOUNT_NAMESPACE:
        pytest.skip("this machine allows no mount namespace")
    server = start(binaries, data_dir, port := free_port())
    try:
        status = Path(f"/proc/{server.pid}/status").read_text()
        assert query(port, "SELECT 1") == [(1,)]
    finally:
        stop(server)
    uid = privileges.own_uid(data_dir)
    assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}" in status
    assert {path.lstat().st_uid for path in (data_dir, *data_dir.rglob("*"))} == {uid}


@pytest.fixture
def no_user_namespaces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A container that forbids them."""
    with monkeypatch.context() as container:
        container.setattr(privileges, "MOUNT_NAMESPACE", ("false",))
        container.setattr(privileges, "USER_NAMESPACE", ("false",))
        privileges.privileges.cache_clear()
        yield
    privileges.privileges.cache_clear()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="root with setpriv only")
@pytest.mark.usefixtures("no_user_namespaces")
def test_root_without_user_namespaces_runs_the_server_as_nobody(
    binaries: MariadbBinaries, data_dir: Path
) -> None:
    server = start(binaries, data_dir, port := free_port())
    try:
        status = Path(f"/proc/{server.pid}/status").read_text()
        assert query(port, "SELECT 1") == [(1,)]
    finally:
        stop(server)

    assert "Uid:\t65534\t65534\t65534\t65534" in status
