"""What servers are asked without a driver; tests/integration/test_databases.py asks real ones."""

from __future__ import annotations

import re
import socket
import threading
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mysql.connector.plugins import caching_sha2_password, mysql_native_password

from pipectl.database_wire import SCRAMBLES, first_values
from pipectl.models import DatabaseAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SALT = b"01234567890123456789"
ADDRESS = DatabaseAddress("airbyte-mysql", "127.0.0.1", 3306, "data", "docker", "secret", mark="mine")
GREETING = (
    b"\x0a9.7.0\0" + b"\1\0\0\0" + SALT[:8] + b"\0" + b"\xff\xff\xff\2\0\xff\xdf\x15" + b"\0" * 10
    + SALT[8:] + b"\0" + b"caching_sha2_password\0"
)  # fmt: skip
END = b"\xfe\0\0\2\0"


@contextmanager
def server(monkeypatch: pytest.MonkeyPatch, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """Have `serve` at the other end of the next connection."""
    here, there = socket.socketpair()
    here.settimeout(5)
    there.settimeout(5)
    monkeypatch.setattr(socket, "create_connection", lambda *_: here)

    def answer() -> None:
        with there, suppress(OSError):  # the client may end first
            serve(there)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        here.close()
        thread.join()


def packet(number: int, content: bytes) -> bytes:
    return len(content).to_bytes(3, "little") + bytes((number,)) + content


@pytest.mark.parametrize("password", ["docker", "p", "long" * 30])
def test_a_password_is_proved_as_the_driver_does(password: str) -> None:
    native = mysql_native_password.MySQLNativePasswordAuthPlugin("me", password)
    assert SCRAMBLES[b"mysql_native_password"](password.encode(), SALT) == native.auth_response(SALT)
    hashed = caching_sha2_password.MySQLCachingSHA2PasswordAuthPlugin("me", password)
    assert SCRAMBLES[b"caching_sha2_password"](password.encode(), SALT) == hashed.auth_response(SALT)


@pytest.mark.parametrize("rows", [[b"\4mine"], [b"\4mine", b"\5other"], [b"\xfb"], []])
def test_mysql_that_knows_the_login_already_answers(
    rows: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row with a text is an answer; NULL, none or several are for the driver."""
    heard: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        connection.sendall(packet(0, GREETING))
        heard.append(connection.recv(1000))
        connection.sendall(packet(2, b"\1\3") + packet(3, b"\0\0\0\2\0\0\0"))
        heard.append(connection.recv(1000))
        answers = [b"\1", b"\3def a column", END, *rows, END]
        connection.sendall(b"".join(packet(number, answer) for number, answer in enumerate(answers, 1)))

    with server(monkeypatch, serve):
        answer = first_values(ADDRESS, ["SELECT @@report_host"], is_mysql=True)
    assert answer == (["mine"] if len(rows) == 1 and rows != [b"\xfb"] else None)
    proof = SCRAMBLES[b"caching_sha2_password"](b"secret", SALT)
    assert heard[0].endswith(b"docker\0\x20" + proof + b"data\0caching_sha2_password\0")
    assert heard[1] == packet(0, b"\3SELECT @@report_host")


@pytest.mark.parametrize(
    "reply",
    [
        b"\1\4",  # the password itself is wanted
        b"\xfesome_other_plugin\0" + SALT + b"\0",
        b"\xff\x15\4#28000Access denied",
    ],
)
def test_mysql_that_wants_more_is_left_to_the_driver(reply: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(connection: socket.socket) -> None:
        connection.sendall(packet(0, GREETING))
        connection.recv(1000)
        connection.sendall(packet(2, reply))
        assert connection.recv(1000) == b""

    with server(monkeypatch, serve):
        assert first_values(ADDRESS, ["SELECT 1"], is_mysql=True) is None


def test_postgres_that_does_not_know_the_password_itself_is_left_to_the_driver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An impostor that accepts any password."""

    def message(kind: bytes, body: bytes) -> bytes:
        return kind + (len(body) + 4).to_bytes(4, "big") + body

    def serve(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(message(b"R", b"\0\0\0\x0aSCRAM-SHA-256\0\0"))
        nonce = re.search(rb"r=(.*)", connection.recv(1000), re.DOTALL)
        assert nonce
        connection.sendall(message(b"R", b"\0\0\0\x0br=" + nonce[1] + b"more,s=c2FsdA==,i=4096"))
        connection.recv(1000)
        connection.sendall(message(b"R", b"\0\0\0\x0cv=" + b"A" * 43 + b"="))
        connection.sendall(message(b"R", b"\0\0\0\0") + message(b"Z", b"I"))
        assert connection.recv(1000) == b""

    with server(monkeypatch, serve):
        assert first_values(ADDRESS, ["SELECT 1"], is_mysql=False) is None


@given(said=st.binary(max_size=200), is_mysql=st.booleans())
def test_whatever_a_program_says_is_no_answer(said: bytes, *, is_mysql: bool) -> None:
    def serve(connection: socket.socket) -> None:
        connection.sendall(said)

    with pytest.MonkeyPatch.context() as monkeypatch, server(monkeypatch, serve):
        assert first_values(ADDRESS, ["SELECT 1"], is_mysql=is_mysql) is None


@pytest.mark.parametrize(
    "address",
    [
        replace(ADDRESS, ssl_mode="require"),
        replace(ADDRESS, ssl_mode="verify-full"),
        replace(ADDRESS, password="ü"),
    ],
)
def test_what_needs_a_driver_is_not_tried(address: DatabaseAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "create_connection")
    for is_mysql in (False, True):
        assert first_values(address, ["SELECT 1"], is_mysql=is_mysql) is None
