"""Whatever answers in the engine's place, or does not: one sentence, in time; real sockets answer here."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from pipectl.engines.docker.api import DockerApi
from pipectl.engines.docker.connection import find_host, no_engine, request
from pipectl.errors import EngineError
from support.engine_socket import DOCKER, OLD_DOCKER, PODMAN, engine, http, listening, sending

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOBODY = 65534
CONTAINER = {
    "Id": "1",
    "Name": "/pipectl-scheduler-1",
    "State": {"Status": "running", "ExitCode": 0, "Pid": 7, "StartedAt": "2026-11-25T10:00:00Z"},
    "Config": {"Labels": {"com.docker.compose.service": "scheduler"}},
}
LISTED = {"/containers/json": http([{"Id": "1", "Status": "Up 5 seconds"}])}


@pytest.fixture(autouse=True)
def _no_engine_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def failure(path: Path, seconds: float = 20) -> EngineError:
    with pytest.raises(EngineError) as caught:
        request(f"unix://{path}", "/version?of=it", seconds=seconds)
    assert "\n" not in caught.value.message
    assert "--engine local" in caught.value.hint
    return caught.value


# --- Which engine it is.


def make_context(folder: Path, name: str, meta: str) -> Path:
    path = folder / "docker" / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest() / "meta.json"
    path.parent.mkdir(parents=True)
    path.write_text(meta)
    return path


def test_the_engines_address_is_that_of_the_docker_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_host() == "unix:///var/run/docker.sock"
    for name in ("mine", "yours"):
        host = {"Endpoints": {"docker": {"Host": f"unix:///run/{name}.sock"}}}
        make_context(tmp_path, name, json.dumps(host))
    config = tmp_path / "docker" / "config.json"
    config.write_text('{"currentContext": "mine"}')
    assert find_host() == "unix:///run/mine.sock"
    monkeypatch.setenv("DOCKER_CONTEXT", "yours")
    assert find_host() == "unix:///run/yours.sock"
    monkeypatch.setenv("DOCKER_CONTEXT", "default")
    assert find_host() == "unix:///var/run/docker.sock"
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/other.sock")
    assert find_host() == "unix:///run/other.sock"


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"currentContext": null}', "{}"])
def test_a_client_without_a_context_uses_the_default(tmp_path: Path, text: str) -> None:
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "config.json").write_text(text)
    assert find_host() == "unix:///var/run/docker.sock"


def test_a_context_that_is_not_there_is_named_and_no_other_engine_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "gone")
    assert not DockerApi().answers()
    with pytest.raises(EngineError, match="no Docker context 'gone'") as caught:
        DockerApi().version()
    assert "docker context ls" in caught.value.hint
    assert "set DOCKER_CONTEXT to one of them, or unset it" in caught.value.hint
    assert "docker context use" not in caught.value.hint


def test_a_context_of_the_clients_file_is_changed_by_its_command(tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "config.json").write_text('{"currentContext": "gone"}')
    with pytest.raises(EngineError, match="no Docker context 'gone'") as caught:
        DockerApi().version()
    assert "docker context use NAME" in caught.value.hint


@pytest.mark.parametrize("host", ["unix:///there/is/none.sock", "tcp://127.0.0.1:1"])
def test_an_address_without_an_engine_is_told_with_the_variable_that_names_it(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    with pytest.raises(EngineError) as caught:
        DockerApi().version()
    assert caught.value.message == f"No Docker engine answers at {host}, which DOCKER_HOST names."
    assert caught.value.hint.startswith("Start it, set DOCKER_HOST to another, or unset it.")


@pytest.mark.parametrize("meta", ["", "[]", "{}", '{"Endpoints": null}', '{"Endpoints": {"docker": "x"}}'])
def test_a_context_without_an_address_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meta: str
) -> None:
    make_context(tmp_path, "broken", meta)
    monkeypatch.setenv("DOCKER_CONTEXT", "broken")
    with pytest.raises(EngineError, match="does not say where the engine of the Docker context 'broken' is"):
        DockerApi().version()


@pytest.mark.parametrize("host", ["ssh://user@host", "tcp://192.0.2.7:2375", "https://docker.example.com"])
def test_an_engine_on_another_machine_is_refused(host: str) -> None:
    assert not DockerApi(host).answers()
    with pytest.raises(EngineError, match="not on this machine"):
        DockerApi(host).version()


@pytest.mark.parametrize(
    "host",
    ["/var/run/docker.sock", "npipe:////./pipe/docker_engine", "tcp://localhost:port", "tcp://[::1", "fd://"],
)
def test_what_is_no_address_is_refused(host: str) -> None:
    assert not DockerApi(host).answers()
    with pytest.raises(EngineError, match="is no address of a Docker engine"):
        DockerApi(host).version()


@pytest.mark.parametrize("path", ["", "/there/is/none", f"/{'long' * 40}", "a\0b"])
def test_a_socket_without_an_engine_is_named(path: str) -> None:
    with pytest.raises(EngineError, match="No Docker engine answers at unix://"):
        DockerApi(f"unix://{path}").version()


def test_the_socket_of_another_engine_that_listens_is_offered(
    socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = socket_path.parent
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run))
    (run / "podman").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(run / "docker.sock"))
    assert "systemctl start docker" in failure(socket_path).hint
    with engine(run / "podman" / "podman.sock"):
        hint = failure(socket_path).hint
    assert f"export DOCKER_HOST=unix://{run}/podman/podman.sock" in hint


@pytest.fixture
def ordinary_user() -> Iterator[None]:
    """Not root, whom no mode keeps out."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    yield
    os.seteuid(before)


@pytest.mark.parametrize("mode", [0o660, 0o600])
@pytest.mark.usefixtures("socket_path")
def test_a_socket_of_others_says_what_opens_it(
    socket_path: Path, mode: int, request: pytest.FixtureRequest
) -> None:
    with engine(socket_path):
        socket_path.parent.chmod(0o755)
        if os.geteuid() == 0:
            os.chown(socket_path, 0, 1)
        elif mode:
            pytest.skip("only root makes a socket that another user may not use")
        socket_path.chmod(mode)
        request.getfixturevalue("ordinary_user")
        error = failure(socket_path)
    assert error.message == f"This user may not use the Docker engine at unix://{socket_path}."
    assert ("sudo usermod -aG daemon $USER" in error.hint) == (mode == 0o660)
    assert ("for the user root alone" in error.hint) == (mode == 0o600)


# --- How it answers.


@pytest.mark.parametrize(
    ("version", "prefix"),
    [
        (DOCKER, "/v1.44"),
        (PODMAN, "/v1.41"),
        ({"Version": "40.0", "ApiVersion": "1.90", "MinAPIVersion": "1.60"}, "/v1.60"),
        ({"Version": "26.1", "ApiVersion": "1.45"}, "/v1.44"),
    ],
    ids=["newer", "older", "one that refuses older clients", "without a lowest version"],
)
def test_the_apis_version_is_one_that_both_know(socket_path: Path, version: object, prefix: str) -> None:
    with engine(socket_path, version, {"/volumes": http({"Volumes": None})}) as asked:
        api = DockerApi(f"unix://{socket_path}")
        assert api.volumes() == api.volumes() == []
    assert [path.partition("?")[0] for path in asked] == [
        "/version",
        f"{prefix}/volumes",
        f"{prefix}/volumes",
    ]


def test_podman_is_told_from_docker(socket_path: Path) -> None:
    api = DockerApi(f"unix://{socket_path}")
    for version, is_podman in ((DOCKER, False), (OLD_DOCKER, False), (PODMAN, True)):
        with engine(socket_path, version):
            assert api.version().is_podman == is_podman
        socket_path.unlink()


def test_an_engine_on_a_port_of_this_machine_is_used() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(http(DOCKER))

        thread = threading.Thread(target=answer)
        thread.start()
        assert DockerApi(f"tcp://127.0.0.1:{server.getsockname()[1]}").version().version == "26.1.5"
        thread.join()


def test_a_port_that_wants_tls_is_named(socket_path: Path) -> None:
    with sending(socket_path, http(b"Client sent an HTTP request to an HTTPS server.\n", "400 Bad Request")):
        error = failure(socket_path)
    assert "wants TLS" in error.message
    with pytest.raises(EngineError, match="wants TLS"):
        DockerApi("https://127.0.0.1:2376").version()


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_an_engine_that_answers_drop_by_drop_is_given_up_in_time(socket_path: Path, start: bytes) -> None:
    ended = threading.Event()

    def drip(connection: socket.socket, _: str) -> None:
        connection.sendall(start)
        while start and not ended.wait(0.02):
            connection.sendall(b"x")
        ended.wait()

    with listening(socket_path, drip):
        error = failure(socket_path, seconds=0.3)
        ended.set()
    assert error.message == (
        f"The Docker engine at unix://{socket_path} did not answer within 0.3 s (GET /version)."
    )


@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n",
    ],
)
def test_an_answer_that_breaks_off_is_no_answer(socket_path: Path, part: bytes) -> None:
    with sending(socket_path, part):
        error = failure(socket_path)
    assert error.message == f"The Docker engine at unix://{socket_path} broke off its answer (GET /version)."


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        bytes(range(256)) * 10,
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        http(b"<html>It works!</html>"),
        http(b"\xff\xfe"),
        http([]),
        http({}),
        http(None),
        http({"Version": "1", "ApiVersion": "one.two"}),
        http({"Version": "1", "ApiVersion": "1"}),
        http({**DOCKER, "Components": [1]}),
    ],
)
def test_what_answers_as_no_engine_does_is_named(socket_path: Path, garbage: bytes) -> None:
    with sending(socket_path, garbage), pytest.raises(EngineError) as caught:
        DockerApi(f"unix://{socket_path}").version()
    assert caught.value.message == f"What answers at unix://{socket_path} is no Docker engine."


@pytest.mark.parametrize(
    ("variables", "context", "remedy"),
    [
        ({"DOCKER_HOST": "x"}, "remote", "Unset DOCKER_HOST. Or run"),
        ({"DOCKER_CONTEXT": "x"}, "", "Unset DOCKER_CONTEXT. Or run"),
        ({}, "remote", "Leave its context: docker context use default. Or run"),
        ({}, "", "Or run"),
    ],
)
def test_a_remedy_names_what_has_chosen_the_engine_and_nothing_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    context: str,
    remedy: str,
) -> None:
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**variables, "DOCKER_CONFIG": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "config.json").write_text(json.dumps({"currentContext": context}))
    assert no_engine("tcp://far", "").hint.startswith(remedy)


@pytest.mark.parametrize(
    ("method", "answers"),
    [
        ("containers", {"/containers/json": http({"message": "fine"})}),
        ("containers", {"/containers/json": http([{"Id": "1"}])}),
        ("containers", {**LISTED, "/containers/1/json": http({**CONTAINER, "State": None})}),
        ("container_names", {"/containers/json": http([{"Names": ["x"], "Labels": {}}, None])}),
        ("volumes", {"/volumes": http([])}),
        ("volume_sizes", {"/system/df": http({"Volumes": [{"UsageData": {"Size": 1}}]})}),
        ("networks", {"/networks": http([{"Id": "1"}])}),
    ],
)
def test_answers_of_another_shape_are_no_bug_of_pipectl(
    socket_path: Path, method: str, answers: dict[str, bytes]
) -> None:
    arguments = {"containers": ({},), "networks": ("n",)}.get(method, ())
    with engine(socket_path, answers=answers), pytest.raises(EngineError, match="is no Docker engine"):
        getattr(DockerApi(f"unix://{socket_path}"), method)(*arguments)


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"", "HTTP status 500"),
        (b'{"message": "no\\nspace \\u001b[31mleft"}', "no space [31mleft"),
        (b"<html>\n<h1>502</h1></html>", "<html> <h1>502</h1></html>"),
        (b"\xff" * 9000, "\ufffd" * 300),
        (b"[]", "[]"),
    ],
)
def test_a_refusal_is_shown_in_one_line(socket_path: Path, body: bytes, shown: str) -> None:
    answers = {"/volumes": http(body, "500 Internal Server Error")}
    with engine(socket_path, answers=answers), pytest.raises(EngineError) as caught:
        DockerApi(f"unix://{socket_path}").volumes()
    assert caught.value.message.endswith(
        f"refused a request (/volumes?filters=%7B%22label%22%3A%20%5B%5D%7D): {shown}"
    )


def test_a_container_that_was_removed_is_left_out(socket_path: Path) -> None:
    api = DockerApi(f"unix://{socket_path}")
    with engine(socket_path, answers=LISTED):
        assert api.containers({}) == ()
    socket_path.unlink()
    with engine(socket_path, answers={**LISTED, "/containers/1/json": http(CONTAINER)}):
        assert [container.service for container in api.containers({})] == ["scheduler"]


def test_an_engine_that_ends_in_between_is_no_stack_without_containers(socket_path: Path) -> None:
    with (
        engine(socket_path, answers={**LISTED, "/containers/1/json": b""}),
        pytest.raises(EngineError, match="broke off"),
    ):
        DockerApi(f"unix://{socket_path}").containers({})


@pytest.mark.parametrize("name", ["a b", "naïve", "line\nbreak", "x?y#z"])
def test_an_images_odd_name_is_just_not_there(socket_path: Path, name: str) -> None:
    with engine(socket_path) as asked:
        assert not DockerApi(f"unix://{socket_path}").has_image(name)
    assert asked[-1].startswith("/v1.44/images/")
