"""An Airflow is believed only if it renews a token of this project's secret."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import TYPE_CHECKING, Any

import pytest

from pipectl import airflow_login
from pipectl.airflow_health import AirflowHealth
from pipectl.airflow_login import claims_of, sign
from pipectl.errors import AirflowError, ForeignAirflowError
from pipectl.models import AirflowAddress

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "of this project"


@dataclass(frozen=True)
class Witness:
    """What the engine sees."""

    holding: bool = False

    def holds(self, service: str, port: int) -> bool:
        return self.holding and bool(service and port)

    def stranger(self, port: int) -> str:
        return f"process 7 (other) on {port}"


def address(port: int, witness: Witness | None = None) -> AirflowAddress:
    return AirflowAddress(
        f"http://127.0.0.1:{port}", "ada", "sesame", secret=SECRET, witness=witness or Witness()
    )


@contextmanager
def serving(handler: type[BaseRequestHandler], kind: type[Any] = ThreadingHTTPServer) -> Iterator[int]:
    with kind(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@contextmanager
def airflow(answer: str) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """Run a server that answers a challenge as `answer` says; give its port, and each path with its token."""
    requests: list[tuple[str, str]] = []

    class Api(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            requests.append((self.path, token))
            body = b'{"version": "3.3.2"}'
            self.send_response(200)
            if self.path == airflow_login.CHALLENGE_PATH and answer != "no token":
                self.send_header(airflow_login.RENEWED, self.renewed(token))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def renewed(self, token: str) -> str:
            claims = claims_of(SECRET, token)
            own = address(1)
            return {
                "right": sign(own, {"nonce": claims["nonce"]}, 600),
                "the same token": token,
                "of another secret": sign(replace(own, secret="another"), {"nonce": claims["nonce"]}, 600),
                "without the nonce": sign(own, {"sub": "pipectl"}, 600),
                "garbage": "a.b.c",
            }[answer]

        def log_message(self, *_: Any) -> None:
            pass

    with serving(Api) as port:
        yield port, requests


def test_what_has_proved_itself_is_asked_with_a_token_and_no_password() -> None:
    with airflow("right") as (port, requests):
        health = AirflowHealth(address(port))
        assert health.version() == "3.3.2"
        health.dag("shop")
    [challenge, _, asked] = requests[:3]
    assert challenge[0] == airflow_login.CHALLENGE_PATH
    claims = claims_of(SECRET, asked[1])
    assert (claims["sub"], claims["role"], claims["aud"]) == ("ada", "ADMIN", "apache-airflow")
    assert claims["exp"] > time.time()
    assert airflow_login.CHALLENGE_PATH not in dict(requests[1:])  # once per connection


@pytest.mark.parametrize(
    "answer", ["no token", "the same token", "of another secret", "without the nonce", "garbage"]
)
def test_a_stranger_is_named_and_gets_nothing_but_the_challenge(answer: str) -> None:
    with airflow(answer) as (port, requests):
        with pytest.raises(ForeignAirflowError, match=r"process 7 \(other\) on \d+, not this project's"):
            AirflowHealth(address(port)).dag("shop")
        assert [path for path, _ in requests] == [airflow_login.CHALLENGE_PATH]
        [(_, challenge)] = requests
    claims = claims_of(SECRET, challenge)
    assert claims["exp"] - time.time() <= airflow_login.CHALLENGE_SECONDS
    assert claims["scope"] == "pipectl"  # a scope that no route of Airflow takes


def test_what_does_not_speak_http_is_a_stranger() -> None:
    class Database(BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1024)
            self.request.sendall(b"N\0\0\0no HTTP\r\n\r\n")

    with serving(Database, ThreadingTCPServer) as port, pytest.raises(ForeignAirflowError):
        AirflowHealth(address(port)).version()


def test_an_airflow_that_renews_nothing_is_believed_if_the_engine_sees_its_process() -> None:
    with airflow("no token") as (port, _):
        assert AirflowHealth(address(port, Witness(holding=True))).version() == "3.3.2"


def test_nobody_on_the_port_is_no_stranger() -> None:
    with airflow("right") as (port, _):
        pass
    with pytest.raises(AirflowError) as caught:
        AirflowHealth(address(port)).version()
    assert not isinstance(caught.value, ForeignAirflowError)


@pytest.mark.parametrize("token", ["", "a", "a.b", "a.b.c", "é.b.c", "..", "a.b.=="])
def test_no_token_is_read_as_one(token: str) -> None:
    assert claims_of(SECRET, token) == {}


def test_a_token_counts_although_the_clock_is_set_back_by_hours() -> None:
    claims = claims_of(SECRET, sign(address(1), {"sub": "ada"}, 60))
    hours_ago = time.time() - 2 * 3600
    assert max(claims["nbf"], claims["iat"]) < hours_ago
    assert claims["exp"] > time.time()
