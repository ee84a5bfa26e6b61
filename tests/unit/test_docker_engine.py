"""What the docker engine makes of what Docker says; Docker itself is a fake here."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from pipectl import cli
from pipectl.engines import choice
from pipectl.engines.claims import Claims
from pipectl.engines.docker import identity
from pipectl.engines.docker.api import DockerApi, EngineVersion
from pipectl.engines.docker.compose import Compose
from pipectl.engines.docker.engine import DockerEngine
from pipectl.engines.docker.pull import pull_all, variables_of
from pipectl.engines.local.engine import LocalEngine
from pipectl.engines.project import SECRETS, forget_engine, remember_engine
from pipectl.env_file import EnvFile
from pipectl.errors import EngineError, ExitCode, LoginError, UsageError
from pipectl.invocation import Invocation
from pipectl.observer import Observer
from pipectl.settings import folder_text
from support import ROOT, engine_socket
from support.fake_docker import DOCKER, PODMAN, FakeApi, container, engine, settings
from support.project_copy import copy_project

if TYPE_CHECKING:
    from pathlib import Path


def chosen(folder: Path) -> str:
    return choice.automatic(settings(folder))


def test_auto_takes_docker_where_an_engine_answers(
    tmp_path: Path, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{socket_path}")
    with engine_socket.engine(socket_path):
        assert chosen(tmp_path) == "docker"
    assert chosen(tmp_path) == "local"


def test_auto_stays_with_the_local_engines_data(
    tmp_path: Path, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{socket_path}")
    (tmp_path / ".pipectl" / "volumes" / "postgres" / "data").mkdir(parents=True)
    with engine_socket.engine(socket_path):
        assert chosen(tmp_path) == "local"


def test_auto_goes_on_with_the_engine_that_ran_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/engine.sock")
    (tmp_path / ".pipectl" / "volumes" / "postgres" / "data").mkdir(parents=True)
    remember_engine(settings(tmp_path), "docker")
    assert chosen(tmp_path) == "docker"
    forget_engine(settings(tmp_path), "docker")
    assert chosen(tmp_path) == "local"


def test_an_engine_that_is_named_is_taken(tmp_path: Path) -> None:
    remember_engine(settings(tmp_path), "docker")
    assert isinstance(choice.choose(settings(tmp_path, "local")), LocalEngine)
    assert isinstance(choice.choose(settings(tmp_path, "docker")), DockerEngine)


def test_the_first_project_gets_the_plain_names(tmp_path: Path) -> None:
    api: Any = FakeApi()
    with Claims(tmp_path) as claims:
        names, in_the_way = identity.choose(api, {}, claims)
    assert {name: names[name] for name in identity.DEFAULT_NAMES} == identity.DEFAULT_NAMES
    assert not in_the_way


@pytest.mark.parametrize(
    "api",
    [
        FakeApi(names={"airbyte-postgres": {}}),
        FakeApi(network_names=("airbyte_net",)),
        FakeApi(volume_list=[{"Name": "v", "Labels": {identity.COMPOSE_LABEL: "pipectl"}}]),
    ],
    ids=["container", "network", "volumes of a stopped project"],
)
def test_a_project_beside_another_gets_names_of_its_own(api: Any, tmp_path: Path) -> None:
    with Claims(tmp_path) as claims:
        names, in_the_way = identity.choose(api, {}, claims)
    assert names["COMPOSE_PROJECT_NAME"] == "pipectl-2"
    assert names["AIRBYTE_POSTGRES_CONTAINER"] == "airbyte-postgres-2"
    assert names["AIRBYTE_NETWORK"] == "airbyte_net-2"
    assert in_the_way


def test_two_projects_that_start_at_once_differ_in_identity_and_names(tmp_path: Path) -> None:
    api: Any = FakeApi()
    with Claims(tmp_path) as first, Claims(tmp_path) as second:
        found = [identity.choose(api, {}, claims)[0] for claims in (first, second)]
    for name in (identity.PROJECT_ID, identity.PROJECT_NAME, *identity.CONTAINERS, identity.NETWORK):
        assert found[0][name] != found[1][name]


@pytest.mark.parametrize(
    ("state", "exit_code", "shown"),
    [
        ("running", 0, "running"),
        ("created", 0, "stopped"),
        ("exited", 0, "stopped"),
        ("exited", 143, "stopped"),
        ("exited", 1, "crashed"),
        ("restarting", 1, "crashed"),
    ],
)
def test_the_state_of_a_container_is_put_into_the_words_of_all_engines(
    tmp_path: Path, state: str, exit_code: int, shown: str
) -> None:
    services = engine(tmp_path, container("scheduler", state, exit_code=exit_code)).services()
    assert next(service for service in services if service.name == "scheduler").state == shown


def test_a_failed_migration_is_a_service_that_crashed(tmp_path: Path) -> None:
    fine = engine(tmp_path, container("airflow-init", "exited")).services()
    assert "airflow-init" not in {service.name for service in fine}
    failed = engine(tmp_path, container("airflow-init", "exited", exit_code=1)).services()
    assert failed[-1].name == "airflow-init"
    assert failed[-1].state == "crashed"


def test_what_airflow_waits_for_is_known_from_the_last_look(tmp_path: Path) -> None:
    initialising = engine(tmp_path, container("airflow-init"), container("postgres", health="healthy"))
    assert not initialising.metadata_answers()
    initialising.services()
    assert initialising.metadata_answers()
    assert initialising.awaited == "Waiting until airflow-init has made Airflow's metadata database ready"
    ready = engine(tmp_path, container("airflow-init", "exited"), container("postgres", health="starting"))
    ready.services()
    assert (ready.metadata_answers(), ready.awaited) == (False, "")


def test_each_worker_is_a_service(tmp_path: Path) -> None:
    number = "com.docker.compose.container-number"
    workers = [container("worker", id=each, name=f"w{each}", labels={number: each}) for each in "12"]
    services = engine(tmp_path, *workers, PIPECTL_EXECUTOR="celery").services()
    assert [service.name for service in services][-2:] == ["worker-1", "worker-2"]


@pytest.mark.parametrize("poor", ["1", "2"])
def test_each_worker_is_asked_whether_its_tasks_reach_the_api(tmp_path: Path, poor: str) -> None:
    number = "com.docker.compose.container-number"
    workers = [container("worker", id=each, name=f"w{each}", labels={number: each}) for each in "12"]
    api: Any = FakeApi(tuple(workers), answers={poor: (1, "no route\n")})
    found = DockerEngine(settings(tmp_path, PIPECTL_PROJECT_ID="me", PIPECTL_EXECUTOR="celery"), api)
    assert found.tasks_api_problem() == f"worker-{poor}: no route"
    api.answers.clear()
    assert found.tasks_api_problem() == ""


def test_workers_that_a_start_takes_away_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = "com.docker.compose.container-number"
    workers = [container("worker", id=each, name=f"w{each}", labels={number: each}) for each in "12"]
    api: Any = FakeApi((*workers, container("webserver")))
    api.stop = None
    variables = {"PIPECTL_PROJECT_ID": "me", "PIPECTL_EXECUTOR": "celery"}
    scaled = DockerEngine(settings(tmp_path, **variables), api)

    def create(_: object) -> None:
        api.found = (workers[0], container("webserver"))

    monkeypatch.setattr(DockerEngine, "_create", create)
    assert scaled.start(Observer()) == ()
    assert scaled.removed() == ("worker-2",)


def test_a_dry_run_makes_the_checks_of_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_UID", raising=False)
    copy = copy_project(tmp_path / "project")
    (copy.folder / "dags").chmod(0o700)
    api: Any = FakeApi()
    api.get = lambda _: {}
    monkeypatch.setattr(Compose, "version", lambda _: "2.40")
    checked = DockerEngine(settings(copy.folder), api)
    monkeypatch.setattr(Invocation, "engine", checked)
    done = CliRunner().invoke(cli.app, ["--project", str(copy.folder), "up", "--dry-run"])
    assert done.exit_code == ExitCode.ENGINE
    assert "Airflow's containers may not read" in done.stderr


def test_a_plan_of_what_runs_moves_a_changed_port_that_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as used, socket.create_server(("127.0.0.1", 0)) as taken:
        old, wanted = (each.getsockname()[1] for each in (used, taken))
        web = container("webserver", published={8080: old}, image="sha256:1")
        found = engine(tmp_path, web, AIRFLOW_PORT=str(wanted), AIRFLOW_POSTGRES_PASSWORD="x")

        def planned(changed: dict[str, str]) -> dict[str, Any]:
            port = changed.get("AIRFLOW_PORT", str(wanted))
            return {"webserver": {"image": "airflow", "ports": [{"target": 8080, "published": port}]}}

        monkeypatch.setattr(DockerEngine, "_compose", SimpleNamespace(planned=planned))
        monkeypatch.setattr(found, "check", lambda _: None)
        monkeypatch.setattr(found._api, "image", lambda _: ("sha256:1", {}), raising=False)
        monkeypatch.setattr("pipectl.engines.base._ports_of_containers", lambda _: ())
        plan = found.plan(Observer(), executor=None, workers=None)
    assert plan.restarts == {"webserver": f"AIRFLOW_PORT ({old} → {wanted}) changed"}
    asked, instead = plan.moves["webserver"]
    assert asked == wanted
    assert instead not in {old, wanted}


def test_a_failed_pull_names_the_variables_of_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [ROOT / "stack" / name for name in ("docker-compose.yml", "docker-compose.celery.yml")]
    monkeypatch.setenv("MYSQL_IMAGE", "mine:1")
    images = {
        image: variables_of(image, files, {"REDIS_IMAGE": "postgres:17", "MYSQL_IMAGE": "other:1"})
        for image in ("postgres:17", "mine:1", "redis:7", "other:1")
    }
    assert images == {
        "postgres:17": ("POSTGRES_IMAGE", "REDIS_IMAGE"),
        "mine:1": ("MYSQL_IMAGE",),
        "redis:7": (),
        "other:1": (),
    }
    api: Any = DockerApi(f"unix://{tmp_path}/none.sock")

    def fail(_: object, image: str) -> tuple[()]:
        if image != "redis:7":
            raise EngineError(f"The image {image} could not be pulled.", hint=f"docker pull {image}.")
        return ()

    monkeypatch.setattr(DockerApi, "pull", fail)
    unused: Any = None
    with pytest.raises(EngineError) as caught:
        pull_all(api, unused, images, Observer().see_progress)
    assert caught.value.hint == (
        "docker pull postgres:17. Another image or a mirror's: "
        "POSTGRES_IMAGE and REDIS_IMAGE and MYSQL_IMAGE in stack/.env."
    )


def test_a_database_elsewhere_is_no_service_of_the_stack(tmp_path: Path) -> None:
    services = engine(tmp_path, AIRBYTE_MYSQL_HOST="db.example.com").services()
    assert "airbyte-mysql" not in {service.name for service in services}


def test_workers_need_the_celery_executor(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="need the Celery executor"):
        engine(tmp_path).resize(executor=None, workers=2)


def test_executor_and_workers_are_remembered(tmp_path: Path) -> None:
    changed = engine(tmp_path)
    changed.resize(executor="celery", workers=3)
    assert changed.executor == "CeleryExecutor"
    assert (tmp_path / "stack" / ".env").read_text() == "PIPECTL_EXECUTOR=celery\nAIRFLOW_WORKERS=3\n"


def test_stack_env_gets_names_secrets_and_free_ports_once(tmp_path: Path) -> None:
    api: Any = FakeApi()
    first = DockerEngine(settings(tmp_path, AIRBYTE_MYSQL_HOST="db.example.com", AIRBYTE_MYSQL_PORT="1"), api)
    with first.lock(), socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        taken = server.getsockname()[1]
        first.change_settings({"AIRFLOW_PORT": str(taken)})
        first._configure(Observer())
    written = EnvFile(tmp_path / "stack" / ".env").read()
    assert written.pop("AIRFLOW_PORT") != str(taken)
    written.pop("AIRBYTE_POSTGRES_PORT", None)  # where 5432 is taken
    assert written.pop("AIRBYTE_MYSQL_SCALE") == "0"
    assert written.pop("PIPECTL_PROJECT_FOLDER") == folder_text(tmp_path)
    assert set(written) == {
        identity.PROJECT_ID,
        *identity.DEFAULT_NAMES,
        *SECRETS,
        "AIRBYTE_MYSQL_ROOT_PASSWORD",
    }
    again = DockerEngine(settings(tmp_path, **written, AIRFLOW_PORT=str(taken)), api)
    with again.lock():
        again._configure(Observer())
    unchanged = EnvFile(tmp_path / "stack" / ".env").read()
    assert {name: unchanged[name] for name in written} == written


def test_a_database_on_loopback_is_refused_since_containers_do_not_reach_it(tmp_path: Path) -> None:
    refused = engine(tmp_path, AIRBYTE_POSTGRES_HOST="localhost")
    with pytest.raises(UsageError, match="another place inside a container"):
        refused._configure(Observer())


def test_a_reset_stands_for_commands_that_name_this_projects_volumes(tmp_path: Path) -> None:
    labels = {"com.docker.compose.volume": "data"}
    created = "2026-01-02T03:04:05Z"
    api: Any = FakeApi(volume_list=[{"Name": "mine_data", "Labels": labels, "CreatedAt": created}])
    commands = DockerEngine(settings(tmp_path, PIPECTL_PROJECT_ID="me"), api).equivalent("reset")
    assert commands == (
        "docker compose -f stack/docker-compose.yml down --remove-orphans",
        "docker volume rm mine_data",
        "docker compose -f stack/docker-compose.yml up --detach --wait",
    )


def test_podman_gets_a_file_without_what_its_api_lacks(tmp_path: Path) -> None:
    api: Any = FakeApi(engine=PODMAN)
    (command,) = DockerEngine(settings(tmp_path), api).equivalent("up")
    assert command == (
        "docker compose -f stack/docker-compose.yml -f stack/docker-compose.podman.yml up --detach --wait"
    )
    newer: Any = FakeApi(engine=replace(PODMAN, api=(1, 44)))
    assert "podman" not in DockerEngine(settings(tmp_path), newer).equivalent("up")[0]


def test_podmans_file_names_every_service_that_is_checked_often_at_its_start() -> None:
    names = ("docker-compose.yml", "docker-compose.podman.yml")
    text, reset = ((ROOT / "stack" / name).read_text(encoding="utf-8") for name in names)
    services = text.split("\nservices:\n")[1].split("\nnetworks:\n")[0]
    blocks = re.findall(r"^  ([\w-]+):\n((?:    .*\n|\n)+)", services, re.MULTILINE)
    checked = {name for name, block in blocks if "<<: *check" in block}
    assert checked
    assert set(re.findall(r"^  ([\w-]+): .*start_interval: !reset null", reset, re.MULTILINE)) == checked


@pytest.mark.parametrize(
    ("version", "variables", "message"),
    [
        (
            replace(DOCKER, version="20.10.24", api=(1, 41)),
            {},
            "The Docker engine 20.10.24 is older than 25.0.",
        ),
        (replace(PODMAN, version="4.3.1"), {}, "Podman 4.3.1 is older than 5.0."),
        (
            PODMAN,
            {"PIPECTL_EXECUTOR": "celery"},
            "Celery's services wait for health checks, which Podman 5.4.2 runs too seldom.",
        ),
    ],
)
def test_an_engine_that_the_stack_does_not_run_on_is_refused(
    tmp_path: Path, version: EngineVersion, variables: dict[str, str], message: str
) -> None:
    api: Any = FakeApi(engine=version)
    with pytest.raises(EngineError) as caught:
        DockerEngine(settings(tmp_path, **variables), api).install(Observer())
    assert caught.value.message == message


def test_volumes_are_measured_for_who_lists_them_alone(tmp_path: Path) -> None:
    """The engine measures those of all projects: 0.1 s and more, which `up` on a running stack has not."""
    made = engine(tmp_path)
    api: Any = made._api
    api.volume_list = [
        {"Name": "data", "CreatedAt": "2026-11-01T00:00:00Z", "Labels": {identity.VOLUME_LABEL: "postgres"}}
    ]
    [volume] = made.volumes()
    api.volume_sizes = None
    made._require_replaceable((), ())
    assert (volume.bytes, "docker volume rm data") == (7, made.equivalent("down --volumes")[-1])


def test_a_project_without_an_identity_has_neither_containers_nor_volumes(tmp_path: Path) -> None:
    api: Any = FakeApi((container("scheduler"),), volume_list=[{"Name": "someone-elses"}])
    fresh = DockerEngine(settings(tmp_path), api)
    assert {service.state for service in fresh.services()} == {"stopped"}
    assert fresh.volumes() == ()


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Host, container and words of programs that are run in containers."""
    calls: list[tuple[str, ...]] = []

    def execute(host: str, container: str, words: tuple[str, ...]) -> int:
        calls.append((host, container, *words))
        return 9

    monkeypatch.setattr("pipectl.engines.docker.engine.execute", execute)
    return calls


def test_a_program_runs_in_the_services_container(tmp_path: Path, executed: list[tuple[str, ...]]) -> None:
    workers = [
        container("worker", id=f"w{number}", labels={"com.docker.compose.container-number": number})
        for number in ("1", "2")
    ]
    found = engine(tmp_path, container("redis"), container("webserver", "exited"), *workers)
    assert found.execute("worker-2", ("ls",)) == 9
    assert found.execute("redis", ("redis-cli",)) == 9
    assert [(call[0], call[1], call[-1]) for call in executed] == [
        ("unix:///fake.sock", "w2", "ls"),
        ("unix:///fake.sock", "redis", "redis-cli"),
    ]
    for service in ("webserver", "scheduler"):
        with pytest.raises(EngineError, match=f"{service} has no container that runs"):
            found.execute(service, ("ls",))


def test_a_database_elsewhere_is_asked_by_a_client_of_this_machine(
    tmp_path: Path, executed: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("pipectl.engines.docker.engine.prove", lambda address: asked.append(address.host))
    monkeypatch.setattr(
        "pipectl.engines.clients.run",
        lambda _, address, arguments, __: asked.append((address.host, arguments)),
    )
    found = engine(tmp_path, container("airbyte-postgres"), AIRBYTE_MYSQL_HOST="db.example")
    found.client("airbyte-postgres", ("-c", "x"), Observer())
    assert executed[0][-3:] == ("psql", "-c", "x")
    with pytest.raises(EngineError):
        found.client("airbyte-mysql", ("-e", "x"), Observer())
    assert asked == ["db.example", ("db.example", ("-e", "x"))]


def test_a_docker_command_that_takes_composes_options_for_its_own_has_no_compose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\nprintf \"unknown flag: --file\\nSee 'docker --help'.\\n\" >&2\nexit 125\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    file = tmp_path / "docker-compose.yml"
    file.touch()
    with pytest.raises(EngineError, match="Docker has no Compose plugin"):
        Compose("unix:///nowhere", "x", (file,), tmp_path / ".env").version()


# Takes the password "right", and notes its own arguments.
LOGGING_IN = """#!/bin/sh
echo "$@" >>"$0.arguments"
read -r password
case "$*-$password" in
*-right) exit 0 ;;
*psql*) echo 'psql: error: FATAL:  password authentication failed for user "airflow"' >&2; exit 2 ;;
*) echo "ERROR 1045 (28000): Access denied for user 'root'@'localhost'" >&2; exit 1 ;;
esac
"""


@pytest.mark.parametrize(
    ("variable", "service"),
    [("AIRFLOW_POSTGRES_PASSWORD", "postgres"), ("AIRBYTE_MYSQL_ROOT_PASSWORD", "airbyte-mysql")],
)
def test_what_is_not_published_is_logged_in_to_in_its_container_and_no_password_is_an_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, service: str
) -> None:
    tool = tmp_path / "bin" / "docker"
    tool.parent.mkdir()
    tool.write_text(LOGGING_IN)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")

    def log_in(password: str) -> None:
        asked = engine(tmp_path, container(service), **{variable: password})
        [address] = [each for each in asked.logins() if each.password_variable == variable]
        asked.log_in(address)

    log_in("right")
    with pytest.raises(LoginError, match=f"{service}' in its container refused the password") as raised:
        log_in("sesame")
    assert raised.value.hint.startswith(f"Set {variable} in stack/.env to the password that the server has")
    said = tool.with_name("docker.arguments").read_text()
    assert said.count(f" exec --interactive {service} sh -c ") == 2
    assert "sesame" not in said
