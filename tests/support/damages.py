"""What goes wrong with a stack that runs: each damage is named by a check, and its remedy mends it."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from support.project_copy import COMMAND_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.project_copy import Project

    # The damage is done until the end of the stack of contexts; what it returns is named by the check.
    Damage = Callable[[Project, ExitStack], str]

# Rows that no run has written, and that wait for their labels.
UNLABELLED = """
    INSERT INTO public.transactions
      (tx_time, customer_id, card_id, terminal_id, mcc, amount, currency, channel, country, lat, lon, status)
    SELECT now(), customer_id, 1, terminal_id, mcc, amount, currency, channel, country, lat, lon, status
    FROM public.transactions LIMIT 5"""


def finding(project: Project, check: str) -> dict[str, Any]:
    """Return what a check finds; the command ends with 3 if it fails."""
    process = project.start("doctor", "--only", check, "--json")
    out, err = process.communicate(timeout=COMMAND_SECONDS)
    [found] = json.loads(out)["checks"]
    assert process.returncode == (3 if found["ok"] is False else 0), err
    assert isinstance(found, dict)
    return found


def type_remedy(project: Project, remedy: str, folder: Path) -> None:
    """Type a remedy as it is printed, in a folder that is not the project's."""
    tool = folder / "bin" / "pipectl"
    if not tool.exists():
        tool.parent.mkdir(parents=True)
        tool.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m pipectl "$@"\n')
        tool.chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", remedy],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{tool.parent}:{os.environ['PATH']}",
            "PIPECTL_PROJECT": str(project.folder),
            "PIPECTL_ENGINE": project.engine,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_SECONDS,
    )
    assert done.returncode == 0, f"{remedy}\n{done.stdout}{done.stderr}"


def assert_named_and_mended(project: Project, check: str, damage: Damage, folder: Path) -> None:
    """Damage something that is in order, see it named, and mend it by the remedy as printed."""
    before = finding(project, check)
    assert before["ok"] is True, before
    with ExitStack() as end:
        named = damage(project, end)
        found = finding(project, check)
        assert found["ok"] is False, found
        assert named in found["found"]
        type_remedy(project, found["remedy"], folder)
        after = finding(project, check)
        assert after["ok"] is True, (found, after)


def another_secret(project: Project, _: ExitStack) -> str:
    project.set_variable("AIRFLOW_JWT_SECRET", secrets.token_urlsafe(48))
    return "AIRFLOW_JWT_SECRET"


def another_password(project: Project, _: ExitStack) -> str:
    project.set_variable("AIRBYTE_MYSQL_PASSWORD", "not-the-one-of-before")
    return "airbyte-mysql"


def another_option(project: Project, _: ExitStack) -> str:
    with (project.folder / "stack" / "mysql" / "server.cnf").open("a") as file:
        file.write("# one more\n")
    return "stack/mysql/server.cnf"


def others_may_read(project: Project, _: ExitStack) -> str:
    (project.folder / "stack" / ".env").chmod(0o644)
    return "stack/.env"


def windows_line_ends(project: Project, _: ExitStack) -> str:
    path = project.folder / "stack" / "mysql" / "server.cnf"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    return "stack/mysql/server.cnf"


def a_pool_without_slots(project: Project, _: ExitStack) -> str:
    name = f"pool {secrets.token_hex(4)}"
    project.client().call("/api/v2/pools", {"name": name, "slots": 0})
    return name


def labels_that_are_late(project: Project, end: ExitStack) -> str:
    project.set_variable("PIPECTL_ALERT_LAG_SECONDS", "0.001")
    end.callback(project.set_variable, "PIPECTL_ALERT_LAG_SECONDS", "3600")
    code, _, said = project.feed(UNLABELLED, "psql", "-v", "ON_ERROR_STOP=1")
    assert code == 0, said
    return "5 transactions wait"


def a_taken_port(project: Project, end: ExitStack, service: str, variable: str) -> str:
    """Have this process listen on the port of a service that does not run."""
    port = int(project.variable(variable))
    server = end.enter_context(socket.socket())
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", port))
    server.listen()
    return f"port {port} of {service} is held by process {os.getpid()}"


def restart_in_vain(project: Project) -> str:
    """Restart a service that ends as soon as it starts, and return what is said; it may start again then."""
    settings = project.folder / "stack" / "airflow" / "config" / "airflow_local_settings.py"
    settings.parent.mkdir(exist_ok=True)
    settings.write_text("raise RuntimeError('broken on purpose')\n")
    try:
        failed = project.run("restart", "dag-processor", code=3)
    finally:
        shutil.rmtree(settings.parent)
    assert "broken on purpose" in failed.stderr
    return failed.stderr
