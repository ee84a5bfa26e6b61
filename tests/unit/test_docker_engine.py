"""What the docker engine makes of what Docker says; Docker itself is a fake here."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingUnixStreamServer
from typing import TYPE_CHECKING, Any

import pytest

from pipectl.engines import choice
from pipectl.engines.claims import Claims
from pipectl.engines.docker import identity
from pipectl.engines.docker.api import Container, DockerApi, find_host
from pipectl.engines.docker.engine import DockerEngine
from pipectl.engines.local.engine import LocalEngine
from pipectl.engines.project import SECRETS, forget_engine, remember_engine
from pipectl.env_file import EnvFile
from pipectl.errors import EngineError, UsageError
from pipectl.observer import Observer
from pipectl.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass
class FakeApi:
    """An engine with the containers, volumes and networks that it is given."""

    found: tuple[Container, ...] = ()
    names: dict[str, dict[str, str]] = field(default_factory=dict)
    volume_list: list[dict[str, Any]] = field(default_factory=list)
    network_names: tuple[str, ...] = ()
    host: str = "unix:///fake.sock"

    def version(self) -> dict[str, str]:
        return {"Version": "26.1.5", "ApiVersion": "1.45"}

    def containers(self, _: dict[str, str]) -> tuple[Container, ...]:
        return self.found

    def container_names(self) -> dict[str, dict[str, str]]:
        return self.names

    def volumes(self, _: dict[str, str] | None = None) -> list[dict[str, Any]]:
        return self.volume_list

    def volume_sizes(self) -> dict[str, int]:
        return {each["Name"]: 7 for each in self.volume_list}

    def networks(self, name: str) -> list[dict[str, Any]]:
        return [{"Name": each} for each in self.network_names if each == name]


def container(service: str, state: str = "running", **changes: Any) -> Container:
    values: dict[str, Any] = {
        "id": service,
        "name": f"pipectl-{service}-1",
        "service": service,
        "state": state,
        "exit_code": 0,
        "pid": 1 if state == "running" else None,
        "restarts": 0,
        "health": "",
        "labels": {},
    }
    return Container(**{**values, **changes})


def settings(folder: Path, engine: str = "auto", **variables: str) -> Settings:
    (folder / "stack").mkdir(exist_ok=True)
    return Settings(project=folder, engine=engine, cache_dir=folder / "cache", variables=variables)


def engine(folder: Path, *found: Container, **variables: str) -> DockerEngine:
    api: Any = FakeApi(found)
    return DockerEngine(settings(folder, PIPECTL_PROJECT_ID="me", **variables), api)


@contextmanager
def answering(path: Path) -> Iterator[None]:
    """Run a server on a socket that answers everything as an engine answers a ping."""

    class Ping(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"OK")

        def address_string(self) -> str:
            return "a socket"

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingUnixStreamServer(str(path), Ping) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield
        server.shutdown()
        thread.join()


def chosen(folder: Path) -> str:
    return choice.automatic(settings(folder))


def test_auto_takes_docker_where_an_engine_answers(
    tmp_path: Path, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{socket_path}")
    with answering(socket_path):
        assert chosen(tmp_path) == "docker"
    assert chosen(tmp_path) == "local"


def test_auto_stays_with_the_local_engines_data(
    tmp_path: Path, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{socket_path}")
    (tmp_path / ".pipectl" / "volumes" / "postgres" / "data").mkdir(parents=True)
    with answering(socket_path):
        assert chosen(tmp_path) == "local"


def test_auto_goes_on_with_the_engine_that_ran_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/engine.sock")
    (tmp_path / ".pipectl" / "volumes" / "postgres" / "data").mkdir(parents=True)
    remember_engine(settings(tmp_path), "docker")
    assert chosen(tmp_path) == "docker"
    forget_engine(settings(tmp_path))
    assert chosen(tmp_path) == "local"


def test_an_engine_that_is_named_is_taken(tmp_path: Path) -> None:
    remember_engine(settings(tmp_path), "docker")
    assert isinstance(choice.choose(settings(tmp_path, "local")), LocalEngine)
    assert isinstance(choice.choose(settings(tmp_path, "docker")), DockerEngine)


def test_the_engines_address_is_that_of_the_docker_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert find_host() == "unix:///var/run/docker.sock"
    (tmp_path / "config.json").write_text('{"currentContext": "mine"}')
    assert find_host() == "unix:///var/run/docker.sock"
    folder = tmp_path / "contexts" / "meta" / hashlib.sha256(b"mine").hexdigest()
    folder.mkdir(parents=True)
    endpoints = {"Endpoints": {"docker": {"Host": "unix:///run/mine.sock"}}}
    (folder / "meta.json").write_text(json.dumps(endpoints))
    assert find_host() == "unix:///run/mine.sock"
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/other.sock")
    assert find_host() == "unix:///run/other.sock"


@pytest.mark.parametrize("host", ["ssh://user@host", "tcp://192.0.2.7:2375"])
def test_an_engine_on_another_machine_is_refused(host: str) -> None:
    assert not DockerApi(host).answers()
    with pytest.raises(EngineError, match="not on this machine"):
        DockerApi(host).version()


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


def test_each_worker_is_a_service(tmp_path: Path) -> None:
    number = "com.docker.compose.container-number"
    workers = [container("worker", id=each, name=f"w{each}", labels={number: each}) for each in "12"]
    services = engine(tmp_path, *workers, PIPECTL_EXECUTOR="celery").services()
    assert [service.name for service in services][-2:] == ["worker-1", "worker-2"]


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
        first._change_settings({"AIRFLOW_PORT": str(taken)})
        first._configure(Observer())
    written = EnvFile(tmp_path / "stack" / ".env").read()
    assert written.pop("AIRFLOW_PORT") != str(taken)
    written.pop("AIRBYTE_POSTGRES_PORT", None)  # where 5432 is taken
    assert written.pop("AIRBYTE_MYSQL_SCALE") == "0"
    assert written.pop("PIPECTL_PROJECT_FOLDER") == str(tmp_path)
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


def test_a_project_without_an_identity_has_neither_containers_nor_volumes(tmp_path: Path) -> None:
    api: Any = FakeApi((container("scheduler"),), volume_list=[{"Name": "someone-elses"}])
    fresh = DockerEngine(settings(tmp_path), api)
    assert {service.state for service in fresh.services()} == {"stopped"}
    assert fresh.volumes() == ()
