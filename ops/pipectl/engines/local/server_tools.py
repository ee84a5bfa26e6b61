"""What setting up a PostgreSQL and a MySQL data folder have in common."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from pipectl.engines.local.install import last_lines
from pipectl.engines.local.privileges import drop_prefix
from pipectl.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping


def run_server_tool(
    command: tuple[str, ...], environment: Mapping[str, str], failure: EngineError, statements: str = ""
) -> None:
    """Run a server's own program without root's rights, `statements` on its stdin.

    Raises:
        EngineError: `failure`, with the program's last lines as its detail.

    """
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        (*drop_prefix(), *command),
        input=statements,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        env={**inherited, **environment, "LC_ALL": "C", "TZ": "UTC"},
    )
    if done.returncode != 0:
        failure.detail = last_lines(done.stdout)
        raise failure


def one_line(text: str) -> str:
    """Return a name or password as it is; EngineError where it breaks the line, which ends a statement."""
    if "\n" in text or "\0" in text:
        raise EngineError(
            "A database's name, user or password holds a line break.", hint="Correct it in stack/.env."
        )
    return text
