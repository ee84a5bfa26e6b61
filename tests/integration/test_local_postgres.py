"""PostgreSQL clusters of the local engine, on the real server."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipectl.engines.local import postgres, privileges
from pipectl.engines.local.binaries import WHEEL, find_postgres
from pipectl.errors import EngineError
from pipectl.models import ReplicationLogin
from support.needs import POSTGRES_REQUIREMENTS, need
from support.server_process import free_port, start_program, until_it_answers
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipectl.engines.local.binaries import PostgresBinaries

pytestmark = pytest.mark.integration

STACK = Path(__file__).parents[2] / "stack"
BUSINESS = STACK / "postgres" / "business.conf"
METADATA = STACK / "postgres" / "metadata.conf"
PASSWORD = "it's a\\secret"
ACCOUNTS = postgres.Accounts("docker", PASSWORD, "airbyte")
REPLICATION = ReplicationLogin("airbyte", "ses'ame"), STACK / "postgres" / "replication-account.sql"
APART = replace(ACCOUNTS, superuser_password="random", replication=REPLICATION)


@pytest.fixture(scope="module", params=["machine", "wheel"])
def binaries(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PostgresBinaries:
    choice = WHEEL if request.param == "wheel" else ""
    cache = tmp_path_factory.mktemp("cache")
    found = need("databases", lambda: find_postgres(cache, print, POSTGRES_REQUIREMENTS, choice=choice))
    if request.param == "machine" and "wheel" in found.origin:
        pytest.skip("this machine has no PostgreSQL of its own")
    return found


@pytest.fixture(scope="module")
def template(binaries: PostgresBinaries, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template") / "airbyte"
    assert postgres.prepare(binaries, folder, ACCOUNTS)
    return folder


@pytest.fixture
def data_dir(binaries: PostgresBinaries, template: Path, tmp_path: Path) -> Path:
    postgres.clone(binaries, template, tmp_path / "airbyte")
    return tmp_path / "airbyte"


def connect(port: int, **changes: str) -> Any:
    import psycopg2

    login: dict[str, Any] = {"user": "docker", "password": PASSWORD, "dbname": "airbyte", **changes}
    return psycopg2.connect(host="127.0.0.1", port=port, **login)


def query(port: int, statement: str, **changes: str) -> list[tuple[Any, ...]]:
    connection = connect(port, **changes)
    try:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []
    finally:
        connection.close()


def start(
    binaries: PostgresBinaries,
    data_dir: Path,
    port: int,
    config: Path = BUSINESS,
    password: str = PASSWORD,
) -> subprocess.Popen[bytes]:
    """Start the server as the supervisor does, and wait until it answers."""
    program = postgres.program(binaries, "airbyte-postgres", data_dir, port, config)
    log = data_dir.parent / f"{data_dir.name}.log"
    server = start_program(program, log)
    until_it_answers(server, lambda: connect(port, password=password), log)
    return server


def stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        server.send_signal(signal.SIGINT)
    server.wait(timeout=200)


@contextmanager
def running(
    binaries: PostgresBinaries,
    data_dir: Path,
    config: Path = BUSINESS,
    password: str = PASSWORD,
) -> Iterator[int]:
    port = free_port()
    server = start(binaries, data_dir, port, config, password)
    try:
        yield port
    finally:
        stop(server)


def test_cluster_is_ready_for_change_data_capture(binaries: PostgresBinaries, data_dir: Path) -> None:
    with running(binaries, data_dir) as port:
        query(port, "CREATE TABLE t (id int PRIMARY KEY)")
        query(port, "CREATE PUBLICATION everything FOR ALL TABLES")
        query(port, "SELECT pg_create_logical_replication_slot('airbyte', 'pgoutput')")
        query(port, "INSERT INTO t VALUES (1)")
        changes = query(
            port,
            "SELECT data FROM pg_logical_slot_get_binary_changes("
            "'airbyte', NULL, NULL, 'proto_version', '1', 'publication_names', 'everything')",
        )

    assert [bytes(row[0])[:1] for row in changes] == [b"B", b"R", b"I", b"C"]


def test_only_the_right_password_opens_the_cluster(binaries: PostgresBinaries, data_dir: Path) -> None:
    import psycopg2

    with running(binaries, data_dir) as port:
        for changes in ({"password": "wrong"}, {"password": ""}, {"user": "postgres"}):
            with pytest.raises(psycopg2.OperationalError):
                connect(port, **changes)
        [(verifier, superuser)] = query(
            port, "SELECT rolpassword, rolsuper FROM pg_authid WHERE rolname = 'docker'"
        )

    assert verifier.startswith("SCRAM-SHA-256$")
    assert superuser


FORBIDDEN = (
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "COPY transactions FROM PROGRAM 'id'",
    "COPY transactions FROM '/etc/passwd'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT lo_import('/etc/passwd')",
    "CREATE ROLE another",
    "ALTER ROLE docker SUPERUSER",
    "ALTER SYSTEM SET work_mem = '8MB'",
    "SELECT rolpassword FROM pg_authid",
)
ALLOWED = (
    "CREATE TABLE IF NOT EXISTS transactions (id int PRIMARY KEY)",
    "CREATE SCHEMA IF NOT EXISTS sim",
    "CREATE PUBLICATION airbyte_publication FOR TABLE transactions",
    "SELECT pg_create_logical_replication_slot('airbyte', 'pgoutput')",
    "INSERT INTO transactions VALUES (100)",
    "SELECT pg_drop_replication_slot('airbyte')",
    "DROP PUBLICATION airbyte_publication",
    "DELETE FROM transactions WHERE id = 100",
)


def require_an_ordinary_owner(port: int) -> None:
    import psycopg2

    for statement in ALLOWED:
        query(port, statement)
    for statement in FORBIDDEN:
        with pytest.raises(psycopg2.Error):
            query(port, statement)
    [(owner,)] = query(port, "SELECT datdba::regrole::text FROM pg_database WHERE datname = 'airbyte'")
    assert owner == "docker"
    connect(port, user="postgres", password="random").close()
    with pytest.raises(psycopg2.OperationalError):
        connect(port, user="postgres", password="docker")
    # Airbyte's account reads what the owner makes.
    reader = connect(port, user="airbyte", password="ses'ame")
    reader.cursor().execute("SELECT * FROM transactions")
    reader.close()


def test_the_pipelines_user_owns_its_database_and_reads_no_file_of_the_machine(
    binaries: PostgresBinaries, tmp_path: Path
) -> None:
    assert postgres.prepare(binaries, tmp_path / "airbyte", APART)
    with running(binaries, tmp_path / "airbyte") as port:
        require_an_ordinary_owner(port)


def test_a_cluster_whose_owner_was_its_superuser_is_brought_along(
    binaries: PostgresBinaries, data_dir: Path
) -> None:
    with running(binaries, data_dir) as port:
        query(
            port, "CREATE TABLE transactions (id int PRIMARY KEY, n bigint GENERATED BY DEFAULT AS IDENTITY)"
        )
        query(port, "INSERT INTO transactions VALUES (1), (2)")
        query(port, "CREATE SCHEMA sim")
        query(port, "CREATE TABLE sim.batches (id serial, kind text)")
        query(port, "CREATE TYPE mood AS ENUM ('well')")
        query(port, "CREATE VIEW two AS SELECT 2")
        query(port, "CREATE FUNCTION three() RETURNS int LANGUAGE sql AS 'SELECT 3'")
        query(port, "CREATE PUBLICATION airbyte_publication FOR TABLE transactions")

    assert not postgres.prepare(binaries, data_dir, APART)

    with running(binaries, data_dir) as port:
        query(port, "ALTER PUBLICATION airbyte_publication SET TABLE transactions")
        query(port, "DROP PUBLICATION airbyte_publication")
        query(port, "ALTER TABLE sim.batches ADD COLUMN more int")
        query(port, "DROP VIEW two")
        query(port, "DROP FUNCTION three()")
        query(port, "DROP TYPE mood")
        assert query(port, "SELECT id FROM transactions ORDER BY id") == [(1,), (2,)]
        require_an_ordinary_owner(port)
    # And once more, with another password: accounts follow the settings.
    assert not postgres.prepare(binaries, data_dir, replace(APART, password="changed"))
    with running(binaries, data_dir, password="changed") as port:
        connect(port, password="changed").close()


def test_nobody_copies_the_clusters_files(binaries: PostgresBinaries, tmp_path: Path) -> None:
    import psycopg2
    from psycopg2.extras import PhysicalReplicationConnection

    postgres.prepare(binaries, tmp_path / "airbyte", APART)
    with running(binaries, tmp_path / "airbyte") as port, pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(
            host="127.0.0.1",
            port=port,
            user="docker",
            password=PASSWORD,
            connection_factory=PhysicalReplicationConnection,
        )


def test_server_listens_on_the_loopback_address_alone_and_on_no_socket(
    binaries: PostgresBinaries, data_dir: Path
) -> None:
    with running(binaries, data_dir) as port:
        answers = query(
            port,
            "SELECT current_setting('listen_addresses'), current_setting('unix_socket_directories'), "
            "current_setting('synchronous_commit'), current_setting('server_encoding'), "
            "current_setting('timezone')",
        )

    assert answers == [("127.0.0.1", "", "on", "UTF8", "UTC")]


def test_password_reaches_neither_arguments_nor_log(binaries: PostgresBinaries, data_dir: Path) -> None:
    program = postgres.program(binaries, "airbyte-postgres", data_dir, 1, BUSINESS)
    with running(binaries, data_dir):
        pass

    assert PASSWORD not in " ".join((*program.command, *program.environment.values()))
    assert PASSWORD not in (data_dir.parent / "airbyte.log").read_text()


def test_committed_rows_survive_a_kill_and_an_immediate_restart(
    binaries: PostgresBinaries, data_dir: Path
) -> None:
    port = free_port()
    server = start(binaries, data_dir, port)
    try:
        query(port, "CREATE TABLE t (id int)")
        query(port, "INSERT INTO t SELECT generate_series(1, 1000)")
        busy = connect(port)
        busy.cursor().execute("INSERT INTO t VALUES (0)")
        server.kill()
        server.wait()
        server = start(binaries, data_dir, port)
        rows = query(port, "SELECT count(*), min(id) FROM t")
    finally:
        stop(server)

    assert rows == [(1000, 1)]


def test_stale_pid_file_that_names_somebody_elses_process_does_no_harm(
    binaries: PostgresBinaries, data_dir: Path
) -> None:
    port = free_port()
    server = start(binaries, data_dir, port)
    server.kill()
    server.wait()
    lock = data_dir / postgres.PID_FILE
    lines = lock.read_text().split("\n")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        lock.write_text("\n".join([str(stranger.pid), *lines[1:]]))

        assert postgres.running_pid(data_dir) is None
        with running(binaries, data_dir) as other:
            assert query(other, "SELECT 1") == [(1,)]
        assert stranger.poll() is None
        stranger.communicate(b"\n")


def test_accounts_change_beside_a_stale_pid_file_that_names_somebody_elses_process(
    binaries: PostgresBinaries, data_dir: Path
) -> None:
    # Of the server's user: PostgreSQL takes those of others for dead.
    user = data_dir.stat().st_uid
    with subprocess.Popen(("cat",), stdin=subprocess.PIPE, user=user) as stranger:
        (data_dir / postgres.PID_FILE).write_text(f"{stranger.pid}\n{data_dir}\n1\n")
        assert not postgres.prepare(binaries, data_dir, replace(ACCOUNTS, password="another"))
        assert stranger.poll() is None
        stranger.communicate()
    with running(binaries, data_dir, password="another") as port:
        assert query(port, "SELECT 1", password="another") == [(1,)]


@pytest.mark.parametrize("content", ["", "\n", "not a number\n", "99999999\n"])
def test_damaged_pid_file_does_no_harm(binaries: PostgresBinaries, data_dir: Path, content: str) -> None:
    (data_dir / postgres.PID_FILE).write_text(content)

    with running(binaries, data_dir) as port:
        assert query(port, "SELECT 1") == [(1,)]


def test_second_server_leaves_the_living_one_alone(binaries: PostgresBinaries, data_dir: Path) -> None:
    with running(binaries, data_dir) as port:
        pid = postgres.running_pid(data_dir)
        program = postgres.program(binaries, "second", data_dir, free_port(), BUSINESS)
        second = subprocess.run(
            program.command,
            cwd=program.directory,
            env={"PATH": os.environ["PATH"], **program.environment},
            capture_output=True,
            check=False,
            timeout=20,
        )

        assert second.returncode != 0
        assert b"already exists" in second.stderr
        assert query(port, "SELECT 1") == [(1,)]
        assert postgres.running_pid(data_dir) == pid


def test_supervised_process_is_the_server_itself(binaries: PostgresBinaries, data_dir: Path) -> None:
    server = start(binaries, data_dir, free_port())
    try:
        assert postgres.running_pid(data_dir) == server.pid
    finally:
        stop(server)

    assert server.returncode == 0
    assert postgres.running_pid(data_dir) is None


def test_preparing_twice_changes_nothing(binaries: PostgresBinaries, data_dir: Path) -> None:
    postgres.prepare(binaries, data_dir, ACCOUNTS)
    before = sorted((path, path.stat().st_mtime_ns) for path in data_dir.rglob("*"))

    assert not postgres.prepare(binaries, data_dir, ACCOUNTS)
    assert sorted((path, path.stat().st_mtime_ns) for path in data_dir.rglob("*")) == before


def test_interrupted_preparation_leaves_nothing_in_the_way(
    binaries: PostgresBinaries, tmp_path: Path
) -> None:
    data_dir = tmp_path / "airbyte"
    script = (
        "import sys; from pathlib import Path; from pipectl.engines.local import postgres;"
        "from pipectl.engines.local.binaries import PostgresBinaries;"
        "binaries = PostgresBinaries(Path(sys.argv[1]), (int(sys.argv[2]), 0), '');"
        "postgres.prepare(binaries, Path(sys.argv[3]), postgres.Accounts('docker', 'x', 'airbyte'))"
    )
    arguments = (str(binaries.bin_dir), str(binaries.version[0]), str(data_dir))
    child = subprocess.Popen((sys.executable, "-c", script, *arguments), start_new_session=True)
    until(
        lambda: child.poll() is not None or list(tmp_path.glob(".airbyte.new-*/global")),
        "a folder that is being filled",
    )
    assert child.poll() is None
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert not data_dir.exists()

    assert postgres.prepare(binaries, data_dir, ACCOUNTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["airbyte", "airbyte.accounts"]
    with running(binaries, data_dir) as port:
        assert query(port, "SELECT 1") == [(1,)]


def test_long_project_path_and_odd_characters_work(
    binaries: PostgresBinaries, template: Path, tmp_path: Path
) -> None:
    data_dir = tmp_path / ("a long; 50% odd 'name' " + "x" * 150) / "airbyte"
    postgres.clone(binaries, template, data_dir)

    with running(binaries, data_dir) as port:
        assert query(port, "SELECT 1") == [(1,)]


def test_two_clusters_run_side_by_side_with_passwords_of_their_own(
    binaries: PostgresBinaries, data_dir: Path, tmp_path: Path
) -> None:
    import psycopg2

    metadata = tmp_path / "metadata"
    postgres.clone(binaries, data_dir, metadata)
    postgres.set_password(binaries, metadata, user="docker", password="another")

    with (
        running(binaries, data_dir) as first,
        running(binaries, metadata, METADATA, "another") as second,
    ):
        query(first, "CREATE TABLE only_here (id int)")
        tables = query(second, "SELECT to_regclass('only_here')", password="another")
        with pytest.raises(psycopg2.OperationalError):
            connect(second)

    assert tables == [(None,)]


def test_running_cluster_is_not_copied(binaries: PostgresBinaries, data_dir: Path, tmp_path: Path) -> None:
    with running(binaries, data_dir), pytest.raises(EngineError, match="while it runs"):
        postgres.clone(binaries, data_dir, tmp_path / "copy")

    assert not (tmp_path / "copy").exists()


def test_data_of_another_major_version_is_refused_with_what_to_do(
    binaries: PostgresBinaries, data_dir: Path
) -> None:
    (data_dir / "PG_VERSION").write_text("11\n")

    with pytest.raises(EngineError, match=r"made by PostgreSQL 11, but .* is PostgreSQL \d+") as failure:
        postgres.prepare(binaries, data_dir, ACCOUNTS)
    assert "pipectl reset" in failure.value.hint


def test_failing_statement_is_an_error_that_does_not_repeat_it(
    binaries: PostgresBinaries, data_dir: Path
) -> None:
    with pytest.raises(EngineError) as failure:
        postgres.execute(binaries, data_dir, ["ALTER ROLE nobody_knows PASSWORD 'swordfish'"])

    assert "nobody_knows" in failure.value.detail
    assert "swordfish" not in f"{failure.value} {failure.value.detail}"


def require_mount_namespace() -> None:
    if privileges.privileges().prefix != privileges.MOUNT_NAMESPACE:
        pytest.skip("this machine allows no mount namespace")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops privileges")
def test_a_server_that_root_starts_has_a_uid_of_its_own_and_reads_no_file_of_root(
    binaries: PostgresBinaries, data_dir: Path, tmp_path: Path
) -> None:
    import psycopg2

    require_mount_namespace()
    secret = tmp_path / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    postgres.prepare(binaries, data_dir, ACCOUNTS)
    server = start(binaries, data_dir, port := free_port())
    try:
        assert query(port, "SELECT 1") == [(1,)]
        status = Path(f"/proc/{server.pid}/status").read_text()
        for path in (secret, "/etc/shadow"):
            with pytest.raises(psycopg2.Error, match=r"No such file|Permission denied"):
                query(port, f"SELECT pg_read_file('{path}')")  # as a superuser
    finally:
        stop(server)
    uid = privileges.own_uid(data_dir)
    with pytest.raises(KeyError):
        pwd.getpwuid(uid)
    assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}" in status
    assert f"Gid:\t{uid}\t{uid}\t{uid}\t{uid}" in status
    assert "CapEff:\t0000000000000000" in status


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops privileges")
def test_nobody_does_not_reach_the_cluster_of_a_server_that_root_starts(
    binaries: PostgresBinaries, data_dir: Path
) -> None:
    require_mount_namespace()
    for parent, folders, files in os.walk(data_dir):
        for name in (*folders, *files):
            os.chown(Path(parent, name), privileges.NOBODY, privileges.NOBODY)
    os.chown(data_dir, privileges.NOBODY, privileges.NOBODY)  # as an earlier release left it
    assert not postgres.prepare(binaries, data_dir, ACCOUNTS)

    server = start(binaries, data_dir, port := free_port())
    try:
        ways = (f"cat /proc/{server.pid}/cwd/PG_VERSION", f"cat /proc/{server.pid}/environ")
        opened = [
            way
            for way in (*ways, f"kill -0 {server.pid}")
            for user in (privileges.NOBODY, privileges.FIRST_UID)
            if subprocess.run(
                ("sh", "-c", way), user=user, group=user, extra_groups=[], capture_output=True, check=False
            ).returncode
            == 0
        ]
        assert query(port, "SELECT 1") == [(1,)]
    finally:
        stop(server)
    assert opened == []
    owners = {path.lstat().st_uid for path in (data_dir, *data_dir.rglob("*"))}
    assert owners == {privileges.own_uid(data_dir)}


@pytest.fixture
def no_user_namespaces(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A container that forbids them."""
    with monkeypatch.context() as container:
        container.setattr(privileges, "MOUNT_NAMESPACE", ("false",))
        container.setattr(privileges, "USER_NAMESPACE", ("false",))
        privileges.privileges.cache_clear()
        yield container
    privileges.privileges.cache_clear()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="root with setpriv only")
def test_root_without_user_namespaces_runs_the_server_as_nobody(
    binaries: PostgresBinaries, data_dir: Path, no_user_namespaces: pytest.MonkeyPatch
) -> None:
    fresh = data_dir.with_name("fresh")
    postgres.prepare(binaries, data_dir, ACCOUNTS)  # hands the folder over
    server = start(binaries, data_dir, port := free_port())
    try:
        status = Path(f"/proc/{server.pid}/status").read_text()
        assert query(port, "SELECT 1") == [(1,)]
    finally:
        stop(server)
    assert postgres.prepare(binaries, fresh, ACCOUNTS)

    assert "Uid:\t65534\t65534\t65534\t65534" in status
    assert fresh.stat().st_uid == privileges.NOBODY
    no_user_namespaces.undo()
    privileges.privileges.cache_clear()
    assert not postgres.prepare(binaries, fresh, ACCOUNTS)
    assert fresh.stat().st_uid != privileges.NOBODY
