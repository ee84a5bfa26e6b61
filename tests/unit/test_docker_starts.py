"""A start that finds all as it was, a first start from a template, and a stop; Docker is a fake here."""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

import initialise
import metadata_database
from pipectl.engines.docker import bytecode_template, metadata_template, started
from pipectl.engines.docker.api import DockerApi
from pipectl.engines.docker.engine import DockerEngine
from pipectl.engines.foreground import Command
from pipectl.observer import Observer
from support import ROOT
from support.engine_socket import engine as engine_at
from support.engine_socket import http
from support.fake_docker import FakeApi, container, engine, settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipectl.settings import Settings

AIRFLOW = Path("stack", "airflow")
MIGRATED = "CREATE TABLE public.job ();\nINSERT INTO public.slot_pool VALUES (1, 'default_pool', 128);\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The files that containers are made of, and an empty cache."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    shutil.copytree(ROOT / "stack", tmp_path / "stack", ignore=shutil.ignore_patterns(".env", "user.env"))
    return settings(tmp_path)


# --- What runs already.


def made_of(project: Settings) -> str:
    files = [project.project / "stack" / name for name in ("docker-compose.yml", "docker-compose.celery.yml")]
    return started.digest(project.project, files, project.env_path)


@pytest.mark.parametrize("name", ["docker-compose.yml", ".env", "airflow/airflow.env", "airflow/user.env"])
def test_each_file_that_compose_reads_counts(project: Settings, name: str) -> None:
    before = made_of(project)
    assert made_of(project) == before
    with (project.project / "stack" / name).open("a") as file:
        file.write("A=1\n")
    assert made_of(project) != before


@pytest.mark.parametrize("name", ["AIRFLOW_IMAGE", "COMPOSE_PROFILES", "DOCKER_DEFAULT_PLATFORM"])
def test_each_variable_that_compose_reads_counts_and_no_other(
    project: Settings, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = made_of(project)
    monkeypatch.setenv("EDITOR", "ed")
    assert made_of(project) == before
    monkeypatch.setenv(name, "other")
    assert made_of(project) != before


def test_the_docker_clients_proxies_count(project: Settings, tmp_path: Path) -> None:
    before = made_of(project)
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "config.json").write_text('{"proxies": {}}')
    assert made_of(project) != before


RUNNING = (
    container("webserver", image="sha256:1", image_name="airflow"),
    container("airflow-init", "exited"),
)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (RUNNING, True),
        (RUNNING[:1], False),
        ((*RUNNING, container("worker")), False),
        ((container("webserver", "exited"), RUNNING[1]), False),
        ((RUNNING[0], container("airflow-init", "exited", exit_code=1)), False),
        ((RUNNING[0], container("airflow-init")), True),
    ],
)
def test_a_start_needs_compose_unless_its_containers_run(
    tmp_path: Path, now: tuple[Any, ...], *, expected: bool
) -> None:
    assert not started.all_run(tmp_path, RUNNING, "airflow-init")
    started.note(tmp_path, "x", RUNNING)
    assert started.all_run(tmp_path, now, "airflow-init") == expected


def test_an_image_that_was_built_anew_counts(tmp_path: Path) -> None:
    started.note(tmp_path, "x", RUNNING)
    assert started.is_same(tmp_path, "x", RUNNING[:1], lambda _: "sha256:1")
    assert not started.is_same(tmp_path, "x", RUNNING[:1], lambda _: "sha256:2")
    assert not started.is_same(tmp_path, "y", RUNNING[:1], lambda _: "sha256:1")


def test_an_up_of_what_runs_asks_no_docker_command(
    project: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the second of these two does: whatever it would ask of Compose is an error."""
    api: Any = FakeApi(RUNNING)
    api.get, api.stop = lambda _: {}, None
    api.image = lambda _: ("sha256:1", {})
    monkeypatch.setattr(DockerEngine, "_configure", lambda *_: None)
    monkeypatch.setattr(DockerEngine, "_create", lambda _: None)
    values = settings(project.project, PIPECTL_PROJECT_ID="me")
    DockerEngine(values, api).start(Observer())
    monkeypatch.delattr(DockerEngine, "_compose")
    monkeypatch.delattr(DockerEngine, "_create")
    api.found = (RUNNING[0], container("airflow-init", "exited", image="sha256:1", image_name="airflow"))
    again = DockerEngine(values, api)
    again.install(Observer())
    assert again.start(Observer()) == ()


# --- The template of the metadata database.


def place(project: Settings, airflow: str = "3.3.2", images: tuple[str, ...] = ("a", "p")) -> Path | None:
    return metadata_template.place(project, images, airflow)


def test_a_template_belongs_to_images_and_to_what_initialises(project: Settings) -> None:
    found = {place(project), place(project, images=("b", "p")), place(project, images=("a", "q"))}
    for name in ("airflow.env", "initialise.py"):
        with (project.project / AIRFLOW / name).open("a") as file:
            file.write("# changed\n")
        found.add(place(project))
    assert len(found) == 5
    assert None not in found
    assert {path.parent for path in found if path} == {project.cache_dir}


@pytest.mark.parametrize(
    "line",
    ["AIRFLOW__CORE__DEFAULT_POOL_TASK_SLOT_COUNT=7", "export AIRFLOW__DATABASE__SQL_ENGINE_ENCODING=x"],
)
def test_settings_that_a_migration_reads_do_without_a_template(project: Settings, line: str) -> None:
    own = project.project / AIRFLOW / "user.env"
    own.write_text("AIRFLOW__SMTP__SMTP_HOST=mail\n")
    assert place(project)
    own.write_text(f"{line}\n")
    assert place(project) is None


def test_another_airflow_or_login_does_without_a_template(project: Settings) -> None:
    assert place(project, "3.4.0") is None
    fab = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
    assert place(settings(project.project, AIRFLOW_AUTH_MANAGER=fab)) is None


def dumping(*outputs: str, code: int = 0) -> Callable[[tuple[str, ...]], Command]:
    """Return what gives a program that prints these, one a call, in the place of pg_dump."""
    left = list(outputs)
    script = "import sys; sys.stdout.write(sys.argv[1]); sys.exit(int(sys.argv[2]))"
    return lambda _: Command((sys.executable, "-c", script, left.pop(0), str(code)), {}, Path("/"))


def test_a_template_has_no_commands_of_psqls_and_says_that_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "template.sql"
    metadata_template.keep(dumping("\\restrict x\nSET x = 0;\n", f"{MIGRATED}\\unrestrict x\n"), path)
    assert path.read_text() == f"SET x = 0;\n{MIGRATED}{metadata_template.END}"
    assert path.stat().st_mode & 0o077 == 0
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("data", "code"),
    [(MIGRATED, 1), ("", 0), (MIGRATED + "INSERT INTO public.slot_pool VALUES (2, 'secret');\n", 0)],
)
def test_a_failed_dump_and_one_with_a_pool_of_the_users_is_no_template(
    tmp_path: Path, data: str, code: int
) -> None:
    metadata_template.keep(dumping("", data, code=code), tmp_path / "template.sql")
    assert list(tmp_path.iterdir()) == []


def test_a_first_start_gives_init_the_template_and_keeps_one_if_there_is_none(
    project: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, str, bytes]] = []
    api: Any = FakeApi()
    api.image = lambda name: (name, {"AIRFLOW_VERSION": "3.3.2"})
    api.put = lambda *words: given.append(words)
    api.start, api.stop = lambda _: None, None

    def create(_: object) -> None:
        api.found = (container("airflow-init", "created"), container("postgres", "created"))

    described = {"airflow-init": {"image": "a"}, "webserver": {"image": "a"}}
    described |= {name: {"image": "p"} for name in ("postgres", "airbyte-postgres", "airbyte-mysql")}
    monkeypatch.setattr(DockerEngine, "_create", create)
    monkeypatch.setattr(DockerEngine, "_described", described)
    monkeypatch.setattr(DockerEngine, "tool", lambda *_: dumping(MIGRATED)(()))
    monkeypatch.setattr(metadata_template, "DUMPS", (("pg_dump",),))
    values = settings(project.project, PIPECTL_PROJECT_ID="me")

    def start() -> DockerEngine:
        api.found = ()
        made = DockerEngine(values, api)
        assert made.start(Observer()) == ("postgres",)
        return made

    first = start()
    assert given == []
    path = place(project, images=("a", "p"))
    assert path
    first.keep_for_later()
    kept = path.read_bytes()
    # Of another image.
    bytecode_template.place(project.cache_dir, "b").write_bytes(b"other")
    start()
    [(target, folder, archive)] = given
    assert (target, folder) == ("airflow-init", "/tmp")  # noqa: S108  in a container
    with tarfile.open(fileobj=BytesIO(archive)) as file:
        [member] = file.getmembers()
        content = file.extractfile(member)
        assert content
        assert content.read() == kept

    # Data that are there are left alone.
    api.volume_list = [{"Name": "pipectl_postgres_airflow_data"}]
    start()
    assert len(given) == 1


LIBRARY = "bytecode/airflow:3/usr/lib/python3/site-packages/airflow.pyc"
OWN = ("dags/own.pyc", "packages/1/lib/python3/site-packages/bought.pyc", "stack/launcher.pyc")


def packed(files: dict[str, bytes]) -> bytes:
    archive = BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as file:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.uid, entry.mode = len(content), 50000, 0o664
            file.addfile(entry, BytesIO(content))
    return archive.getvalue()


def test_a_first_start_gives_the_byte_code_of_the_image_and_keeps_none_of_the_projects(
    project: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, str, bytes]] = []
    api: Any = FakeApi()
    api.image = lambda name: (name, {"AIRFLOW_VERSION": "3.4.0"})  # of which there is no other template
    api.put = lambda *words: given.append(words)
    api.start, api.stop = lambda _: None, None
    own = {f"bytecode/airflow:3/opt/airflow/{name}": b"own" for name in OWN}
    api.archive = lambda *_: packed({LIBRARY: b"library", "bytecode/airflow:3/tmp/venv/a.pyc": b"own"} | own)

    def create(_: object) -> None:
        api.found = (container("airflow-init", "created"), container("webserver", "created"))

    monkeypatch.setattr(DockerEngine, "_create", create)
    services = ("airflow-init", "webserver", "postgres", "airbyte-postgres", "airbyte-mysql")
    described = {name: {"image": "airflow:3"} for name in services}
    monkeypatch.setattr(DockerEngine, "_described", described)
    values = settings(project.project, PIPECTL_PROJECT_ID="me")

    def start() -> DockerEngine:
        api.found = ()
        made = DockerEngine(values, api)
        made.start(Observer())
        return made

    start().keep_for_later()
    assert given == []
    start().keep_for_later()
    [(target, folder, archive)] = given
    assert (target, folder) == ("airflow-init", "/opt/airflow")
    with tarfile.open(fileobj=BytesIO(archive)) as file:
        assert [(entry.name, entry.uid, entry.mode) for entry in file] == [(LIBRARY, 50000, 0o664)]

    # A volume that is there is left alone.
    api.volume_list = [{"Name": "pipectl_airflow_bytecode"}]
    start().keep_for_later()
    assert len(given) == 1


@pytest.mark.parametrize("archive", [b"", b"no archive", packed({LIBRARY: b"x" * 2000})[:1500]])
def test_byte_code_that_cannot_be_had_is_not_kept(tmp_path: Path, archive: bytes) -> None:
    api: Any = FakeApi()
    api.archive = lambda *_: archive
    bytecode_template.keep(api, "webserver", tmp_path / "cache" / "bytecode.tar")
    assert list(tmp_path.iterdir()) == []


class Server:
    """The metadata database, empty at first, as psycopg2 shows it; `error` is what statements end with."""

    def __init__(self, relations: int = 0, migration: str = "new", error: Exception | None = None) -> None:
        self.relations, self.migration, self.error = relations, migration, error
        self.committed = self.closed = False
        self.ran: list[str] = []

    def cursor(self) -> Server:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def execute(self, statement: str) -> None:
        self.ran.append(statement)
        if statement.startswith("CREATE") and self.error:
            raise self.error

    def fetchone(self) -> tuple[int]:
        return (self.relations,)

    def fetchall(self) -> list[tuple[str]]:
        return [(self.migration,)]

    def commit(self) -> None:
        self.committed = True

    def close(self) -> None:
        self.closed = True


WHOLE = f"{MIGRATED}{metadata_template.END}\n"


@pytest.mark.parametrize(
    ("server", "statements", "expected"),
    [
        (Server(), WHOLE, True),
        (Server(relations=1), WHOLE, False),
        (Server(), MIGRATED, False),
        (Server(migration="old"), WHOLE, False),
        (Server(error=ValueError("syntax")), WHOLE, False),
    ],
    ids=["whole", "not empty", "cut off", "of another version", "unusable"],
)
def test_a_template_fills_an_empty_database_or_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server, statements: str, *, expected: bool
) -> None:
    monkeypatch.setattr(metadata_database, "connect", lambda: server)
    monkeypatch.setattr(metadata_database, "TEMPLATE", tmp_path / "template.sql")
    assert not initialise.filled_from_template("new")
    assert server.ran == []
    (tmp_path / "template.sql").write_text(statements)
    assert initialise.filled_from_template("new") == expected
    assert server.committed == expected
    assert server.closed


def test_both_sides_name_the_same_file_and_last_line() -> None:
    assert str(metadata_database.TEMPLATE) == f"{metadata_template.FOLDER}/{metadata_template.NAME}"
    assert metadata_database.TEMPLATE_END == metadata_template.END


# --- A stop, and a program in a container.


def test_tasks_end_before_what_they_tell_it_to(tmp_path: Path) -> None:
    names = ("postgres", "airbyte-mysql", "webserver", "redis", "scheduler", "worker", "triggerer")
    made = engine(tmp_path, *map(container, names), container("airflow-init", "exited"))
    api: Any = made._api
    steps: list[tuple[str, str]] = []
    api.stop = lambda each: steps.append(("stop", each))
    api.remove = lambda each: steps.append(("remove", each))
    api.remove_networks = lambda labels: steps.append(("networks", json.dumps(labels)))
    assert set(made.stop()) == {
        "postgres",
        "airbyte-mysql",
        "webserver",
        "redis",
        "scheduler",
        "worker",
        "triggerer",
    }
    assert set(steps[:3]) == {("stop", name) for name in ("scheduler", "worker", "triggerer")}
    # Each of the others is removed as soon as it has ended.
    removed = [each for step, each in steps if step == "remove"]
    assert set(removed) == {*names, "airflow-init"}
    for name in names:
        assert steps.index(("stop", name)) < steps.index(("remove", name))
    assert [step for step, _ in steps].count("stop") == len(names)
    assert steps[-1][0] == "networks"
    assert '"org.pipectl.project": "me"' in steps[-1][1]


def test_a_programs_output_and_exit_code_are_read(socket_path: Path) -> None:
    parts = ((1, b"one "), (2, b"two\n"))
    stream = b"".join(bytes([kind, 0, 0, 0]) + len(text).to_bytes(4) + text for kind, text in parts)
    answers = {
        "/containers/c/exec": http({"Id": "e"}, "201 Created"),
        "/exec/e/start": http(stream),
        "/exec/e/json": http({"ExitCode": 3}),
    }
    with engine_at(socket_path, answers=answers):
        assert DockerApi(f"unix://{socket_path}").run("c", ("true",)) == (3, "one two\n")


def test_a_network_that_somebody_elses_container_is_in_stays(socket_path: Path) -> None:
    answers = {
        "/networks": http([{"Id": "free"}, {"Id": "used"}]),
        "/networks/free": http({"Id": "free", "Containers": {}}),
        "/networks/used": http({"Id": "used", "Containers": {"mine": {}}}),
    }
    with engine_at(socket_path, answers=answers) as asked:
        DockerApi(f"unix://{socket_path}").remove_networks({"a": "b"})
    assert [path.rpartition("/")[2] for path in asked[2:]] == ["free", "free", "used"]
