"""Programs of the user's, with the variables of a service that runs: those that it was started with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pipectl import surroundings
from pipectl.database_connections import MYSQL
from pipectl.engines import clients
from pipectl.engines.foreground import Command, become
from pipectl.engines.local import mariadb, postgres
from pipectl.engines.local.client_programs import POSTGRES_TOOLS, find_psql

if TYPE_CHECKING:
    from typing import NoReturn

    from pipectl.engines.local.supervisor.supervisor import Started
    from pipectl.models import DatabaseAddress
    from pipectl.observer import Observer
    from pipectl.settings import Settings

COMMAND = Path("stack", "airflow", "command.py")
# As a shell in a container has it: one that says itself that there is no such program, and ends with 127.
SHELL = ("sh", "-c", 'exec "$@"', "sh")
SERVERS = mariadb.NAMES | postgres.NAMES


def become_in_airflow(started: Started, words: tuple[str, ...], project: Path) -> NoReturn:
    """Become a program that gets what a service of Airflow's got, in the project's folder."""
    python = Path(started.command[0])
    variables = surroundings.of_terminal(**started.settings)
    variables["PATH"] = f"{python.parent}:{variables['PATH']}"
    become((str(python), "-P", str(project / COMMAND), *words), variables, project)


def become_beside_database(
    started: Started, words: tuple[str, ...], address: DatabaseAddress, settings: Settings, observer: Observer
) -> NoReturn:
    """Become a program that is logged in to a database; raises as `beside_database`."""
    command = beside_database(started, words, address, settings, observer)
    become(command.words, command.environment)


def beside_database(
    started: Started, words: tuple[str, ...], address: DatabaseAddress, settings: Settings, observer: Observer
) -> Command:
    """Return a program that is logged in to a database, the server's own tools before those on PATH.

    Raises EngineError if the program is a tool of the database's that is missing and cannot be installed.
    """
    login = clients.mysql_login if address.service == MYSQL else clients.postgres_login
    variables = surroundings.of_terminal(**login(address))
    server = server_of(started)
    folders = [server.parent] if server else []
    if address.service == MYSQL:
        folders.insert(0, clients.mysql_tools(settings, address, observer, server, words[0]))
    elif words[0] in POSTGRES_TOOLS:
        folders.append(find_psql(settings, observer, server, words[0]).parent)
    path = os.pathsep.join([*map(str, folders), variables["PATH"]])
    return Command((*SHELL, *words), variables | {"PATH": path}, settings.project)


def server_of(started: Started) -> Path | None:
    """Return the program of a database's server, behind what drops privileges for it."""
    return next((path for path in map(Path, started.command) if path.name in SERVERS), None)
