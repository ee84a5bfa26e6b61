"""A program of the user's in a container, on the user's terminal or between the ends of a pipe.

`docker exec` passes no signal on, and what it has started goes on when it ends itself. So the program is
marked, and found by its mark when it is to end.
"""

from __future__ import annotations

import re
import secrets
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from pipectl import surroundings
from pipectl.database_errors import CONNECT_SECONDS, explained, silent
from pipectl.engines.docker.connection import no_docker_command
from pipectl.engines.foreground import attend
from pipectl.errors import DatabaseError
from pipectl.services import runs_airflow

if TYPE_CHECKING:
    from pipectl.models import DatabaseAddress

MARK = "PIPECTL_PROGRAM"
# Docker's own begin with Ctrl-P, which would reach a shell only with the key after it.
DETACH_KEYS = "ctrl-^,ctrl-_"
# As entrypoint.sh does: AIRFLOW_UID may be a user that the image does not know.
AIRFLOW = """
umask 0002
whoami >/dev/null 2>&1 || export USER="${USER:-airflow}" HOME="${AIRFLOW_USER_HOME_DIR:-/tmp}"
exec python -P /opt/airflow/stack/command.py "$@"
"""
# Each database's login, from the variables that the container was made with: no password is an argument.
POSTGRES_LOGIN = (
    'export PGHOST=127.0.0.1 PGUSER="$POSTGRES_USER"'
    ' PGPASSWORD="$POSTGRES_PASSWORD" PGDATABASE="$POSTGRES_DB"; '
)
LOGINS = {
    "postgres": POSTGRES_LOGIN,
    "airbyte-postgres": POSTGRES_LOGIN,
    "airbyte-mysql": 'export MYSQL_HOST=127.0.0.1 MYSQL_PWD="$MYSQL_PASSWORD"; ',
}
# psql takes all of its login from variables; mysql needs a shell that reads them.
MYSQL = 'exec mysql --user="$MYSQL_USER" --database="$MYSQL_DATABASE" --default-character-set=utf8mb4 "$@"'
CLIENTS = {
    "postgres": ("psql",),
    "airbyte-postgres": ("psql",),
    "airbyte-mysql": ("sh", "-c", MYSQL, "mysql"),
}
# What logs in where no port is published, with a password from a pipe. PostgreSQL asks 127.0.0.1 for none.
ASKED = {
    "postgres": 'read -r PGPASSWORD; export PGPASSWORD; exec psql -w -h "$(hostname)" -U "$1" -d "$2" -c ""',
    "airbyte-mysql": 'read -r MYSQL_PWD; export MYSQL_PWD; exec mysql --user="$1" --execute=""',
}
REFUSAL = re.compile("authentication failed|Access denied")
# The group first: the program leads a session, and its children may have wiped their variables.
END = f"""
for folder in /proc/[0-9]*; do
    if grep -q "{MARK}=$1" "$folder/environ"; then
        kill -s "$2" -- "-${{folder#/proc/}}" || kill -s "$2" "${{folder#/proc/}}"
    fi
done 2>/dev/null
"""


def words_in_container(service: str, words: tuple[str, ...]) -> tuple[str, ...]:
    """Return what runs a program in a service's container, logged in or as a task is."""
    if runs_airflow(service):
        return ("sh", "-c", AIRFLOW, "sh", *words)
    # A shell, that says itself that there is no such program, and ends with 127.
    return ("sh", "-c", f'{LOGINS.get(service, "")}exec "$@"', "sh", *words)


def log_in(host: str, container: str, address: DatabaseAddress) -> None:
    """Log in to a database in its container, and out again. Raises DatabaseError."""
    words = ("sh", "-c", ASKED[address.service], "sh", address.user, address.database)
    try:
        asked = subprocess.run(
            ("docker", "--host", host, "exec", "--interactive", container, *words),
            input=f"{address.password}\n",
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=CONNECT_SECONDS,
            env=surroundings.of_docker(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise silent(address, str(error)) from error
    if asked.returncode:
        refusal = REFUSAL.search(asked.stderr)
        said = DatabaseError(asked.stderr)
        raise explained(address, said, refusal=refusal[0]) if refusal else silent(address, asked.stderr)


def execute(host: str, container: str, words: tuple[str, ...]) -> int:
    """Run a program in a container and return its exit code. Raises EngineError without a docker command."""
    mark = secrets.token_hex(8)
    docker = ("docker", "--host", host, "exec")
    is_on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    terminal = ("--tty", "--env", "TERM", "--detach-keys", DETACH_KEYS) if is_on_terminal else ()
    options = ("--interactive", *terminal, "--env", f"{MARK}={mark}")

    def end(number: int) -> None:
        name = signal.Signals(number).name.removeprefix("SIG")
        # What a closed pipe ended has not heard of it.
        word = name if name in {"INT", "HUP"} else "TERM"
        subprocess.run(
            (*docker, container, "sh", "-c", END, "sh", mark, word),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            env=surroundings.of_docker(),
        )

    try:
        return attend((*docker, *options, container, *words), surroundings.of_docker(), end)
    except FileNotFoundError as error:
        raise no_docker_command() from error
