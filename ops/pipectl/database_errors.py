"""What an error of a database means: who answers there, why it lets nobody in, and what to do."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING

from pipectl import services
from pipectl.errors import (
    DatabaseError,
    DatabaseRefusedError,
    DatabaseSilentError,
    ForeignDatabaseError,
    LoginError,
)

if TYPE_CHECKING:
    from pipectl.models import DatabaseAddress

CONNECT_SECONDS = 5
RENEW = "pipectl down && pipectl up"
# MySQL's numbers for no connection or answer, one that was lost, and a server that is shutting down.
NO_CONNECTION = {None, 1053, 1927, 2003, 2005, 2006, 2013, 2055, 3024}
# PostgreSQL: it is starting up, shutting down, or in recovery; or it is ending this connection for that.
STARTING_OR_ENDING = re.compile(r"the database system is|terminating connection due to")
# What a server says at a login that fails until somebody changes the server.
REFUSALS = re.compile(
    r'FATAL: +((?:database|role) ".*" does not exist'
    r'|database ".*" is not currently accepting connections|cannot connect to invalid database'
    r'|too many connections for (?:database|role)|role ".*" is not permitted to log in'
    r"|permission denied for database|no pg_hba\.conf entry)"
)
# MySQL's and MariaDB's numbers: no right to the database or none such, this machine's address, an account
# that is locked, or whose password has expired.
REFUSING = {1044, 1049, 1130, 1820, 1862, 3118, 4151}
# What both drivers say of a connection that is not encrypted as either side asks, and MySQL's numbers for it.
ENCRYPTION = re.compile(r"certificate|support SSL|doesn't support it|insecure transport", re.IGNORECASE)
NO_ENCRYPTION = {-1, 2026, 3159}


def explained(address: DatabaseAddress, error: Exception, *, refusal: str) -> DatabaseError:
    """Return the error that users are told; `refusal` is what the driver says of a wrong password."""
    where = named(address)
    text = re.sub(r"\s+", " ", str(error)).strip()
    answered = not _is_silent(error, text)
    # Another project's server may have another password, and what is no database answers nonsense.
    if address.witness and (answered or _listens(address)) and not is_held(address):
        return foreign(address)
    prefix = services.get(address.service).prefix
    # What runs elsewhere, no reset touches.
    anew = ", or delete all data of the project and start anew: pipectl reset" if address.mark else "."
    reason = _refusal(error, text)
    if reason:
        return DatabaseRefusedError(
            f"{where} does not let user {address.user!r} into database {address.database!r}: {reason}.",
            hint=f"Waiting does not change that. Undo it in the server{anew}",
        )
    if refusal in text:
        variable = password_variable(address)
        of_database = f" for database {address.database!r}" if address.database else ""
        back = f"{variable} in stack/.env to the password that the server has now"
        return LoginError(
            f"{where} refused the password of user {address.user!r}{of_database} ({variable}).",
            hint=f"Give the server that of stack/.env: {RENEW}\nOr set {back}."
            if address.takes_password
            else f"Set {back}, or give the server its password of before{anew}",
        )
    if ENCRYPTION.search(text) and _is_of_the_connection(error, NO_CONNECTION | NO_ENCRYPTION):
        return DatabaseError(
            f"{where} is not reached with {prefix}_SSLMODE={address.ssl_mode}: {text}",
            hint=f"{prefix}_SSLMODE and {prefix}_SSLROOTCERT in stack/.env say how it is encrypted.",
        )
    if answered:
        return DatabaseError(f"{where} refused: {text}")
    return silent(address, text)


def password_variable(address: DatabaseAddress) -> str:
    """Return the variable of stack/.env that holds the password."""
    return address.password_variable or services.get(address.service).password_variable


def silent(address: DatabaseAddress, text: str) -> DatabaseSilentError:
    """Return the error of a server that does not answer."""
    prefix = services.get(address.service).prefix
    place = f"{prefix}_HOST and {prefix}_PORT in stack/.env are its address."
    hint = f"What runs: pipectl status\n{'Start what does not: pipectl up' if address.mark else place}"
    if STARTING_OR_ENDING.search(text):
        hint = "Wait for it: pipectl up" if address.mark else "Run the command again when it has started."
    return DatabaseSilentError(f"{named(address)} does not answer.", hint=hint, detail=text)


def foreign(address: DatabaseAddress) -> ForeignDatabaseError:
    """Return the error that says whose server answers at an address."""
    who = (address.witness.stranger(address.port) if address.witness else "") or "another program"
    return ForeignDatabaseError(
        f"At {address.host}:{address.port} answers {who}, not this project's {address.service}.",
        hint="Start this project's own: pipectl up. It takes another port if this one stays taken.",
    )


def is_held(address: DatabaseAddress) -> bool:
    """Whether the engine sees this project's server at an address."""
    return address.witness is not None and address.witness.holds(address.service, address.port)


def named(address: DatabaseAddress) -> str:
    """Return what a server is called in messages."""
    server = "MySQL" if address.service == "airbyte-mysql" else "PostgreSQL"
    place = f"at {address.host}:{address.port}" if address.port else "in its container"
    return f"{server} {address.service!r} {place}"


def _refusal(error: Exception, text: str) -> str:
    """Return why a login fails until the server is changed; empty for every other error."""
    if getattr(error, "errno", None) in REFUSING:
        return text.rstrip(".")
    said = REFUSALS.search(text) if _is_of_the_connection(error, {None}) else None
    return text[said.start(1) :].rstrip(".") if said else ""


def _listens(address: DatabaseAddress) -> bool:
    try:
        socket.create_connection((address.host, address.port), CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def _is_silent(error: Exception, text: str) -> bool:
    return has_no_answer(error, text) or STARTING_OR_ENDING.search(text) is not None


def has_no_answer(error: Exception, text: str) -> bool:
    """Whether nothing answered."""
    # A server that answers says FATAL.
    return "FATAL" not in text and _is_of_the_connection(error, NO_CONNECTION)


def _is_of_the_connection(error: Exception, numbers: set[int | None]) -> bool:
    """Whether an error is none of a statement: psycopg2 knows no code of a failed connection."""
    return getattr(error, "pgcode", None) is None and getattr(error, "errno", None) in numbers
