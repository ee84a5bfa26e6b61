"""psql and mysql of this machine, logged in to a database without a password among their arguments."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from pipectl import surroundings
from pipectl.database_connections import MYSQL, mysql_encryption, postgres_encryption
from pipectl.engines.foreground import become
from pipectl.engines.local.client_programs import MYSQL_TOOLS, find_mysql, find_psql, look_for_mysql
from pipectl.engines.project import state_folder, write_private
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
# An option about files of options is the first, or none. A file that was named may name a user.
TOOL = """\
#!/bin/sh
# Written by pipectl: a tool that asks this project's server.
{exports}
case "$1" in
--defaults-* | --no-defaults | --print-defaults | --login-path=*) first=$1 && shift ;;
*) first=--no-defaults && set -- {user} "$@" ;;
esac
exec {program} "$first" {words} "$@"
"""
MISSING = """\
#!/bin/sh
echo "{tool} is not on this machine. To bring it: pipectl exec airbyte-mysql -- {tool} --version" >&2
exit 127
"""


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
    return (
        str(client.program),
        "--no-defaults",  # the user's file may name another server; it counts as the first option alone
        *_server_words(client, address),
        f"--user={address.user}",
        "--default-character-set=utf8mb4",
        f"--database={address.database}",
    )


def _server_words(client: MysqlClient, address: DatabaseAddress) -> tuple[str, ...]:
    """Return words by which every tool of MySQL's finds the server."""
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
        f"--host={address.host}",
        f"--port={address.port}",
        "--protocol=tcp",
        *client.options,
        *encryption,
    )


def mysql_tools(
    settings: Settings, address: DatabaseAddress, observer: Observer, server: Path | None, program: str
) -> Path:
    """Return a folder for PATH in which MySQL's tools ask this server, as in its container they would.

    There most of them would find no variable that names a port. If `program` is one that is missing, it is
    installed. Raises EngineError if that fails.
    """
    folder = state_folder(settings) / "tools"
    folder.mkdir(exist_ok=True)
    for tool, other in MYSQL_TOOLS.items():
        if program in {tool, other}:
            find_mysql(settings, observer, server, tool)
    for tool, other in MYSQL_TOOLS.items():
        client = look_for_mysql(settings, server, tool)
        text = _tool_text(client, address) if client else MISSING.format(tool=tool)
        for name in (tool, other):
            write_private(folder / name, text)
            (folder / name).chmod(0o700)
    return folder


def _tool_text(client: MysqlClient, address: DatabaseAddress) -> str:
    exports = [f"export {name}={shlex.quote(value)}" for name, value in client.environment.items()]
    return TOOL.format(
        exports="\n".join(exports),
        program=shlex.quote(str(client.program)),
        words=shlex.join(_server_words(client, address)),
        user=shlex.quote(f"--user={address.user}"),
    )
