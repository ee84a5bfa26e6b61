"""The triggerer runs only once something needs it: a deferred task, a watched asset, an async callback.

Each of these makes a row in the metadata database's table `trigger`. The web server looks there, and leaves
a file for the triggerer, which until then is a shell that looks for the file. Runs inside Airflow's
environment and never imports pipectl.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# Beside the task logs, in the folder that all of Airflow's containers share and write. The clean-up deletes
# it as old once nothing has needed a triggerer for PIPECTL_RETENTION_DAYS; the next start then waits again.
NEEDED = Path(os.environ.get("AIRFLOW_HOME", "."), "logs", "triggerer-needed")
LOOK_SECONDS = 2
LOOK_AGAIN_SECONDS = 3600
HAS_TRIGGERS = 'SELECT EXISTS (SELECT FROM "trigger")'
# A triggerer takes over the triggers of those that have ended.
EARLIER_TRIGGERERS_ENDED = """
    UPDATE job SET state = 'failed', end_date = now()
    WHERE job_type = 'TriggererJob' AND end_date IS NULL AND hostname = %s"""
# A shell that is told to stop has not failed.
WAIT = 'trap "exit 0" TERM INT; until [ -e "$0" ]; do sleep 1; done; trap - TERM INT; exec "$@"'


def wait_until_needed(command: list[str]) -> None:
    """Replace this process, if nothing needs a triggerer yet, by a shell that waits and becomes `command`."""
    if not NEEDED.exists():
        sys.stderr.write("pipectl: the triggerer waits until a task is deferred\n")
        os.execv("/bin/sh", ["sh", "-c", WAIT, str(NEEDED), *command])  # noqa: S606  a megabyte instead of ten


def tell_when_needed() -> None:
    """Look for triggers, for ever. In the web server, by one of the connections that it holds."""
    create_session: Any = importlib.import_module("airflow.utils.session").create_session
    text: Any = importlib.import_module("sqlalchemy").text
    while True:
        # The database may be away: then nothing is deferred either.
        with contextlib.suppress(Exception), create_session() as session:
            if session.execute(text(HAS_TRIGGERS)).scalar():
                NEEDED.touch()
        time.sleep(LOOK_AGAIN_SECONDS if NEEDED.exists() else LOOK_SECONDS)


def report_earlier_triggerers(connect: Callable[[], Any]) -> None:
    """Tell Airflow that this host's earlier triggerers are dead: when one starts, none before it runs."""
    with contextlib.closing(connect()) as connection, connection, connection.cursor() as cursor:
        cursor.execute(EARLIER_TRIGGERERS_ENDED, (socket.gethostname(),))
