"""psql and mysql of this machine, logged in to a database without a password among their arguments."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pipectl import surroundings
from pipectl.database_connections import MYSQL, mysql_encryption, postgres_encryption
from pipectl.engines.foreground import become
from pipectl.engines.local.client_programs import find_mysql, find_psql
from pipectl.models import VERIFYING

if TYPE_CHECKING:
    from pathlib import Path
    from typing import NoReturn

    from pipectl.engines.local.client_programs import MysqlClient
    from pipectl.models import DatabaseAddress
    from pipectl.observer import Observer
    from pipectl.settings import Settings

POSTGRES_VARIABLES = {
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "gssencmode": "PGGSSENCMODE",
}
# AIRBYTE_MYSQL_SSLMODE in the words of MySQL's client.
SSL_MODES = {
    "disable": "DISABLED",
    "prefer": "PREFERRED",
    "require": "REQUIRED",
    "verify-ca": "VERIFY_CA",
    "verify-full": "VERIFY_IDENTITY",
}


def run(
    settings: Settings,
    address: DatabaseAddress,
    arguments: tuple[str, ...],
    observer: Observer,
    server: Path | None = None,
) -> NoReturn:
    """Become the client of a database that has proved to be the right one; `server` is its program.

    Raises EngineError if this machine has no client and none can be installed.
    """
    if address.service == MYSQL:
        client = find_mysql(settings, observer, server)
        words = (*mysql_words(client, address), *arguments)
        become(words, surroundings.of_terminal(**mysql_login(address), **client.environment))
    words = (str(find_psql(settings, observer, server)), *arguments)
    become(words, surroundings.of_terminal(**postgres_login(address)))


def postgres_login(address: DatabaseAddress) -> dict[str, str]:
    """Return the variables by which libpq logs in."""
    encryption = {
        POSTGRES_VARIABLES[name]: str(value) for name, value in postgres_encryption(address).items()
    }
    return {
        **encryption,
        "PGHOST": address.host,
        "PGPORT": str(address.port),
        "PGDATABASE": address.database,
        "PGUSER": address.user,
        "PGPASSWORD": address.password,
    }


def mysql_login(address: DatabaseAddress) -> dict[str, str]:
    """Return the variables by which clients of MySQL log in; they take user and database as arguments."""
    return {
        "MYSQL_HOST": address.host,
        "MYSQL_TCP_PORT": str(address.port),
        "MYSQL_PWD": address.password,
        # MySQL's client takes a password from the user's own file of logins before that of the environment.
        "MYSQL_TEST_LOGIN_FILE": os.devnull,
    }


def mysql_words(client: MysqlClient, address: DatabaseAddress) -> tuple[str, ...]:
    """Return the client's words for a login, without the password."""
    encryption: tuple[str, ...] = (f"--ssl-mode={SSL_MODES[address.ssl_mode]}",)
    if client.flavor == "mariadb":
        # It checks the name with the certificate, or neither.
        check = (
            "--ssl-verify-server-cert"
            if address.ssl_mode in VERIFYING
            else "--disable-ssl-verify-server-cert"
        )
        encryption = ("--skip-ssl",) if address.ssl_mode == "disable" else ("--ssl", check)
    if authority := mysql_encryption(address).get("ssl_ca"):
        encryption += (f"--ssl-ca={authority}",)
    return (
        str(client.program),
        "--no-defaults",  # the user's file may name another server; it counts as the first option alone
        f"--host={address.host}",
        f"--port={address.port}",
        "--protocol=tcp",
        f"--user={address.user}",
        *client.options,
        *encryption,
        "--default-character-set=utf8mb4",
        f"--database={address.database}",
    )
