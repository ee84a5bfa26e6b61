"""Start one of Airflow's services quickly: `python launcher.py webserver|scheduler|dag-processor`.

Runs inside Airflow's environment and never imports pipectl. Before it hands over to Airflow's own command
line it does what need not wait for the database: imports, building the web application, all without
garbage collection. Everything here saves time only: each service also starts with the plain command.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import sys
import time
from typing import Any

DATABASE_SECONDS = 120
POLL_SECONDS = 0.05

COMMANDS = {
    "webserver": ("api-server",),
    # No log server of its own, whose port two projects would share: the web server reads the files.
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
}

# What tasks and parsed files need; the processes that run them are forks and inherit it.
TASK_MODULES = (
    "airflow.sdk",
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "airflow.providers.standard.operators.bash",
    "airflow.providers.standard.operators.python",
)
MODULES = {
    "webserver": ("airflow.cli.commands.api_server_command",),
    "scheduler": (
        "airflow.cli.commands.scheduler_command",
        "airflow.executors.local_executor",
        *TASK_MODULES,
    ),
    "dag-processor": (
        "airflow.cli.commands.dag_processor_command",
        "airflow.dag_processing.processor",
        *TASK_MODULES,
    ),
}


def main(service: str) -> None:
    """Become `service`."""
    # Imports make millions of objects, none of them garbage: collecting meanwhile costs a third of the time.
    gc.disable()
    importlib.import_module("airflow.configuration")
    for module in MODULES[service]:
        quietly("import " + module, importlib.import_module, module)
    if service == "webserver":
        quietly("build the web application", build_web_application)
    elif service == "scheduler":
        quietly("let idle workers end with the scheduler", end_idle_workers_with_the_scheduler)
    wait_for_database(os.environ.get("PIPECTL_MIGRATION_HEAD", ""))
    if service == "webserver":
        quietly("write the connections", write_connections, os.environ.get("PIPECTL_CONNECTIONS", "[]"))
    # What exists by now stays: later collections need not look at it, and forks share its memory.
    gc.freeze()
    gc.enable()
    sys.argv = ["airflow", *COMMANDS[service]]
    importlib.import_module("airflow.__main__").main()


def quietly(what: str, action: Any, *arguments: Any) -> None:  # noqa: ANN401  any callable
    """Do what only saves time or adds comfort: a failure is a line in the log."""
    try:
        action(*arguments)
    except Exception as error:  # noqa: BLE001  Airflow's own command is the fall-back for all of them
        sys.stderr.write(f"pipectl launcher: could not {what}: {type(error).__name__}: {error}\n")


def wait_for_database(expected: str) -> None:
    """Return when the metadata database answers with the migration `expected`; exit 1 after 120 s."""
    import psycopg2

    configuration = importlib.import_module("airflow.configuration").conf
    address = configuration.get("database", "sql_alchemy_conn").replace("+psycopg2:", ":", 1)
    deadline = time.monotonic() + DATABASE_SECONDS
    while True:
        try:
            connection = psycopg2.connect(address, connect_timeout=5)
            try:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT version_num FROM alembic_version")
                    found = str((cursor.fetchone() or ("none",))[0])
            finally:
                connection.close()
            if found == expected:
                return
            state = f"has migration {found} instead of {expected}"
        except psycopg2.Error as error:
            state = f"does not answer: {str(error).strip()}"
        if time.monotonic() > deadline:
            sys.exit(f"pipectl launcher: after {DATABASE_SECONDS} s the metadata database still {state}")
        time.sleep(POLL_SECONDS)


def build_web_application() -> None:
    """Build the application that uvicorn will serve, the routes of the tasks' API included.

    Those are made at the first request, which would keep every other request waiting for seconds.
    """
    application = importlib.import_module("airflow.api_fastapi.main").app
    for route in application.routes:
        if getattr(route, "path", "") == "/execution":
            asyncio.run(request_nothing(route.app))


async def request_nothing(application: Any) -> None:  # noqa: ANN401  an ASGI application
    """Send an ASGI application a request for a page that it does not have."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_message: dict[str, Any]) -> None:
        return

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/pipectl-warm-up",
        "raw_path": b"/pipectl-warm-up",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1")],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
    }
    await application(scope, receive, send)


def write_connections(text: str) -> None:
    """Write the connections that a JSON list describes, so that they show in Admin > Connections."""
    connection_class = importlib.import_module("airflow.models.connection").Connection
    select = importlib.import_module("sqlalchemy").select
    with importlib.import_module("airflow.utils.session").create_session() as session:
        for values in json.loads(text):
            query = select(connection_class).where(connection_class.conn_id == values["conn_id"])
            connection = session.scalars(query).one_or_none()
            if connection is None:
                connection = connection_class(conn_id=values["conn_id"])
                session.add(connection)
            for name, value in values.items():
                setattr(connection, name, value)


def end_idle_workers_with_the_scheduler() -> None:
    """Let the workers of a killed scheduler end: busy ones after their task, idle ones at once.

    They wait on a pipe whose writing end each of them inherited, so that it never closes: each closes its
    copy.
    """
    executor: Any = importlib.import_module("airflow.executors.local_executor")
    run = executor._run_worker  # noqa: SLF001  there is no public place for it

    def run_worker(*arguments: Any, **options: Any) -> None:  # noqa: ANN401  passed through
        writer = getattr(options.get("input"), "_writer", None)
        if writer is not None:
            writer.close()
        run(*arguments, **options)

    executor._run_worker = run_worker  # noqa: SLF001


if __name__ == "__main__":
    main(sys.argv[1])
