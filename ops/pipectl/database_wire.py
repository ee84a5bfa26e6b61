"""Values from a server of this project, by the protocols themselves: a driver takes 40 to 110 ms to import.

A start asks three servers one or two questions each. Here is the plain way alone: a login by password, not
encrypted, on this machine. For everything else, and for whatever a server says that is not a value, the
answer is None: the driver is asked then, and says what is wrong.

https://www.postgresql.org/docs/current/protocol-flow.html (SASL is RFC 5802)
https://mariadb.com/docs/server/reference/clientserver-protocol and https://dev.mysql.com/doc/dev/mysql-server
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pipectl.models import DatabaseAddress

# A server that rests answers within milliseconds; for one that does not, the driver waits.
ANSWER_SECONDS = 1.0
LONGEST_MESSAGE = 65_536
# What encryption a server that insists on none may go without.
UNENCRYPTED = {"disable", "prefer"}

POSTGRES_PROTOCOL = 3 << 16
SCRAM = b"SCRAM-SHA-256"
OK, SASL, SASL_CONTINUE, SASL_FINAL = 0, 10, 11, 12

MYSQL_PROTOCOL = 10
# CLIENT_LONG_PASSWORD, CONNECT_WITH_DB, PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH
MYSQL_CAPABILITIES = 0x1 | 0x8 | 0x200 | 0x8000 | 0x80000
UTF8MB4 = 45
SALT_BYTES = 20
AUTH_DONE, AUTH_MORE, AUTH_SWITCH = 0x00, 0x01, 0xFE
FAST_AUTH_DONE = 3
QUERY, QUIT = b"\x03", b"\x01"
LONGEST_SHORT_TEXT = 250


class _UnexpectedError(Exception):
    """The server said something else than the plain way has."""


def first_values(address: DatabaseAddress, questions: Iterable[str], *, is_mysql: bool) -> list[str] | None:
    """Return the first value of the first row that answers each question; None if a driver is to be asked."""
    if address.ssl_mode not in UNENCRYPTED or not address.password.isascii():
        return None
    log_in, ask, leave = MYSQL if is_mysql else POSTGRES
    try:
        with socket.create_connection((address.host, address.port), ANSWER_SECONDS) as connection:
            log_in(connection, address)
            values = [ask(connection, question) for question in questions]
            with suppress(OSError):
                leave(connection)
            return values
    except (OSError, ValueError, LookupError, struct.error, _UnexpectedError):
        return None


def _received(connection: socket.socket, count: int) -> bytes:
    if count > LONGEST_MESSAGE:
        raise _UnexpectedError
    parts = b""
    while len(parts) < count:
        part = connection.recv(count - len(parts))
        if not part:
            raise _UnexpectedError
        parts += part
    return parts


def _ask_postgres(connection: socket.socket, question: str) -> str:
    _send(connection, b"Q", question.encode() + b"\0")
    value = None
    while (message := _message(connection))[0] != b"Z":
        kind, body = message
        if kind == b"E":
            raise _UnexpectedError
        if kind == b"D" and value is None:
            (length,) = struct.unpack_from("!i", body, 2)
            value = None if length < 0 else body[6 : 6 + length].decode()
    if value is None:
        raise _UnexpectedError
    return value


def _message(connection: socket.socket) -> tuple[bytes, bytes]:
    """Return a message's kind and content."""
    kind, length = struct.unpack("!ci", _received(connection, 5))
    return kind, _received(connection, length - 4)


def _send(connection: socket.socket, kind: bytes, body: bytes) -> None:
    connection.sendall(kind + struct.pack("!i", len(body) + 4) + body)


def _authentication(connection: socket.socket, wanted: int) -> bytes:
    """Return what comes with the wanted step of a login."""
    kind, body = _message(connection)
    if kind != b"R" or struct.unpack_from("!i", body)[0] != wanted:
        raise _UnexpectedError
    return body[4:]


def _log_in_to_postgres(connection: socket.socket, address: DatabaseAddress) -> None:
    """Log in by SCRAM-SHA-256, in which the server proves that it knows the password too."""
    names = {"user": address.user, "database": address.database, "application_name": "pipectl"}
    words = b"".join(word.encode() + b"\0" for pair in names.items() for word in pair)
    start = struct.pack("!i", POSTGRES_PROTOCOL) + words + b"\0"
    connection.sendall(struct.pack("!i", len(start) + 4) + start)
    if SCRAM not in _authentication(connection, SASL).split(b"\0"):
        raise _UnexpectedError
    nonce = base64.b64encode(secrets.token_bytes(18))
    first = b"n=,r=" + nonce
    _send(connection, b"p", SCRAM + b"\0" + struct.pack("!i", len(first) + 3) + b"n,," + first)
    challenge = _authentication(connection, SASL_CONTINUE)
    parts = dict(part.split(b"=", 1) for part in challenge.split(b","))
    if not parts[b"r"].startswith(nonce):
        raise _UnexpectedError
    rounds = int(parts[b"i"])
    salted = hashlib.pbkdf2_hmac("sha256", address.password.encode(), base64.b64decode(parts[b"s"]), rounds)
    client_key = _hmac(salted, b"Client Key")
    without_proof = b"c=biws,r=" + parts[b"r"]
    signed = b",".join((first, challenge, without_proof))
    proof = _xor(client_key, _hmac(hashlib.sha256(client_key).digest(), signed))
    _send(connection, b"p", without_proof + b",p=" + base64.b64encode(proof))
    signature = base64.b64encode(_hmac(_hmac(salted, b"Server Key"), signed))
    if not hmac.compare_digest(_authentication(connection, SASL_FINAL), b"v=" + signature):
        raise _UnexpectedError
    _authentication(connection, OK)
    while (message := _message(connection))[0] != b"Z":
        if message[0] == b"E":
            raise _UnexpectedError


def _hmac(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256")


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(one ^ other for one, other in zip(left, right, strict=True))


def _ask_mysql(connection: socket.socket, question: str) -> str:
    _send_packet(connection, 0, QUERY + question.encode())
    # The number of columns, a column each, an end, rows, an end.
    if _packet(connection)[1] != b"\x01":
        raise _UnexpectedError
    _packet(connection)
    if not _is_end(_packet(connection)[1]):
        raise _UnexpectedError
    row = _packet(connection)[1]
    # Nothing, NULL, or a long text.
    if _is_end(row) or row[0] > LONGEST_SHORT_TEXT or not _is_end(_packet(connection)[1]):
        raise _UnexpectedError
    return row[1 : 1 + row[0]].decode()


def _is_end(packet: bytes) -> bool:
    return packet[0] == AUTH_SWITCH and len(packet) < 9  # noqa: PLR2004  an end has at most five bytes


def _packet(connection: socket.socket) -> tuple[int, bytes]:
    """Return a packet's number and content."""
    head = _received(connection, 4)
    content = _received(connection, int.from_bytes(head[:3], "little"))
    if not content:
        raise _UnexpectedError
    return head[3], content


def _send_packet(connection: socket.socket, number: int, content: bytes) -> None:
    connection.sendall(len(content).to_bytes(3, "little") + bytes((number,)) + content)


def _log_in_to_mysql(connection: socket.socket, address: DatabaseAddress) -> None:
    number, greeting = _packet(connection)
    if greeting[0] != MYSQL_PROTOCOL:
        raise _UnexpectedError
    # After the version: a thread's number and, in two parts, the salt.
    rest = greeting[greeting.index(b"\0") + 5 :]
    salt, plugin = rest[:8] + rest[27 : 27 + SALT_BYTES - 8], rest[27 + SALT_BYTES - 8 :].strip(b"\0")
    answer = _scrambled(plugin, address.password, salt)
    content = struct.pack("<IIB23x", MYSQL_CAPABILITIES, LONGEST_MESSAGE, UTF8MB4)
    content += address.user.encode() + b"\0" + bytes((len(answer),)) + answer
    content += address.database.encode() + b"\0" + plugin + b"\0"
    _send_packet(connection, number + 1, content)
    while True:
        number, reply = _packet(connection)
        if reply[0] == AUTH_DONE:
            return
        if reply[0] == AUTH_SWITCH:
            plugin, _, salt = reply[1:].partition(b"\0")
            _send_packet(connection, number + 1, _scrambled(plugin, address.password, salt[:SALT_BYTES]))
        elif reply[:2] != bytes((AUTH_MORE, FAST_AUTH_DONE)):
            # An error, or the server wants to be told the password itself.
            raise _UnexpectedError


def _scrambled(plugin: bytes, password: str, salt: bytes) -> bytes:
    """Return what proves to know a password, by the rules of one of MySQL's plugins."""
    scramble = SCRAMBLES.get(plugin)
    if scramble is None or len(salt) != SALT_BYTES:
        raise _UnexpectedError
    return scramble(password.encode(), salt) if password else b""


def _native(password: bytes, salt: bytes) -> bytes:
    once = _sha1(password)
    return _xor(once, _sha1(salt + _sha1(once)))


def _caching_sha2(password: bytes, salt: bytes) -> bytes:
    once = _sha256(password)
    return _xor(once, _sha256(_sha256(_sha256(password)) + salt))


def _sha1(text: bytes) -> bytes:
    return hashlib.sha1(text, usedforsecurity=False).digest()


def _sha256(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


SCRAMBLES: dict[bytes, Callable[[bytes, bytes], bytes]] = {
    b"mysql_native_password": _native,
    b"caching_sha2_password": _caching_sha2,
}


def _leave_postgres(connection: socket.socket) -> None:
    _send(connection, b"X", b"")


def _leave_mysql(connection: socket.socket) -> None:
    _send_packet(connection, 0, QUIT)


POSTGRES = _log_in_to_postgres, _ask_postgres, _leave_postgres
MYSQL = _log_in_to_mysql, _ask_mysql, _leave_mysql
