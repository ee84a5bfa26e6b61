"""Start one of Airflow's services quickly: `python launcher.py webserver|scheduler|dag-processor`.

Runs inside Airflow's environment and never imports pipectl. Before it hands over to Airflow's own command
line it does what need not wait for the database: imports, building the web application, all without
garbage collection. Everything here saves time only: each service also starts with the plain command.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
import types
import warnings
from pathlib import Path
from typing import Any

DATABASE_SECONDS = 120
TELL_SECONDS = 10
POLL_SECONDS = 0.05
TIDY_DELAY_SECONDS = 3600
TIDY_SECONDS = 86400
NO_SHORTCUTS = "PIPECTL_NO_SHORTCUTS"
SOON_SECONDS = 60
ARGUMENTS = tuple(sys.argv)
KEPT_VERSIONS = 3
SIMPLE_AUTH = "airflow.api_fastapi.auth.managers.simple"

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
    """Become `service`; without shortcuts where it fails soon after its start with them."""
    shortcuts, started = os.environ.get(NO_SHORTCUTS) != "1", time.monotonic()
    try:
        start(service, shortcuts=shortcuts)
    except Exception as error:
        if not shortcuts or time.monotonic() - started > SOON_SECONDS:
            raise
        sys.stderr.write(f"pipectl launcher: starting again without shortcuts after {error!r}\n")
        os.environ[NO_SHORTCUTS] = "1"
        os.execv(sys.executable, [sys.executable, "-P", *ARGUMENTS])  # noqa: S606  this process, anew


def start(service: str, *, shortcuts: bool) -> None:
    """Import and build what `service` needs, wait for its database, and hand over to Airflow."""
    # Imports make millions of objects, none of them garbage: collecting meanwhile costs a third of the time.
    gc.disable()
    if shortcuts:
        quietly("read YAML with libyaml", read_yaml_with_libyaml)
    configuration = importlib.import_module("airflow.configuration").conf
    migration = os.environ.get("PIPECTL_MIGRATION_HEAD", "")
    for module in MODULES[service]:
        quietly("import " + module, importlib.import_module, module)
    if shortcuts and service in {"webserver", "dag-processor"}:
        build_apis_quickly()
    if service == "webserver":
        if SIMPLE_AUTH not in configuration.get("core", "auth_manager"):
            # FAB writes its permissions while the application is built.
            wait_for_database(migration)
        build_web_application()
    if service == "scheduler":
        if shortcuts:
            leave_out_the_log_server()
        quietly("let idle workers end with the scheduler", end_idle_workers_with_the_scheduler)
    wait_for_database(migration)
    # That was the check: Airflow's own imports alembic for it, 0.2 s.
    os.environ["AIRFLOW__DATABASE__CHECK_MIGRATIONS"] = "False"
    if service == "webserver":
        quietly("write the connections", write_connections, os.environ.get("PIPECTL_CONNECTIONS", "[]"))
        threading.Thread(target=tidy_every_day, daemon=True).start()
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


def tidy_every_day() -> None:
    """Delete old logs and rows, first an hour after the start. Here, because this service forks nothing."""
    time.sleep(TIDY_DELAY_SECONDS)
    while True:
        tidy = (sys.executable, str(Path(__file__).with_name("cleanup.py")))
        done = subprocess.run(tidy, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.stderr.write(f"pipectl launcher: could not delete old logs and rows: {done.stderr[-1000:]}\n")
        time.sleep(TIDY_SECONDS)


def wait_for_database(expected: str) -> None:
    """Return when the metadata database answers with the migration `expected`; exit 1 after 120 s."""
    import psycopg2

    configuration = importlib.import_module("airflow.configuration").conf
    address = configuration.get("database", "sql_alchemy_conn").replace("+psycopg2:", ":", 1)
    started = told = time.monotonic()
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
        now = time.monotonic()
        if now - started > DATABASE_SECONDS:
            sys.exit(f"pipectl launcher: after {DATABASE_SECONDS} s the metadata database still {state}")
        if now - told > TELL_SECONDS:
            told = now
            sys.stderr.write(f"pipectl launcher: the metadata database {state}\n")
        time.sleep(POLL_SECONDS)


def build_web_application() -> None:
    """Build the application that uvicorn will serve, the routes of the tasks' API included.

    Those are made at the first request, which would keep every other request waiting for seconds.
    """
    # It warns of every database but SQLite; the README says what to change on a shared server.
    logging.getLogger(f"{SIMPLE_AUTH}.simple_auth_manager").setLevel(logging.ERROR)
    application = importlib.import_module("airflow.api_fastapi.main").app
    for route in application.routes:
        if getattr(route, "path", "") == "/execution":
            asyncio.run(request_nothing(route.app))


def read_yaml_with_libyaml() -> None:
    """Let Airflow read the descriptions of its settings with the parser in C: 0.1 s in each process."""
    yaml: Any = importlib.import_module("yaml")
    yaml.SafeLoader = yaml.CSafeLoader


def leave_out_the_log_server() -> None:
    """Keep a server that is not started from being imported, and FastAPI with it: 0.3 s, and its memory."""
    name = "airflow.utils.serve_logs"
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name])["serve_logs"] = None


def build_apis_quickly() -> None:
    """Let Airflow build less of its two APIs at its start; what they offer stays the same."""
    keep_few_versions_of_the_tasks_api()
    build_routes_when_used()
    build_validators_when_used()


def keep_few_versions_of_the_tasks_api() -> None:
    """Make routes for the newest versions only: 2.5 s become 0.8.

    Nine versions serve workers of older releases; here all processes are of one. Not one version alone,
    since what the newest ones dropped has to exist in an older one.
    """
    cadwyn: Any = importlib.import_module("cadwyn")
    version_bundle = cadwyn.VersionBundle

    def shortened(head: Any, *versions: Any, **options: Any) -> Any:  # noqa: ANN401  passed through
        if len(versions) > KEPT_VERSIONS:
            # The oldest one may describe no changes.
            oldest = cadwyn.Version(versions[KEPT_VERSIONS - 1].value)
            versions = (*versions[: KEPT_VERSIONS - 1], oldest)
        return version_bundle(head, *versions, **options)

    cadwyn.VersionBundle = shortened


def build_routes_when_used() -> None:
    """Find out what a route's function takes at its first request: of 1,100 routes few are asked, 0.9 s.

    Most are never asked at all: each router that includes another one makes all of its routes anew.
    """
    routing: Any = importlib.import_module("fastapi.routing")
    route_class = routing.APIRoute
    build, get_dependant = route_class.__init__, routing.get_dependant
    lock = threading.RLock()

    class NotNowError(Exception):
        pass

    def refuse(**_: Any) -> None:  # noqa: ANN401  passed through
        raise NotNowError

    def build_early_part(self: Any, *arguments: Any, **options: Any) -> None:  # noqa: ANN401  passed through
        routing.get_dependant = refuse
        try:
            build(self, *arguments, **options)
        except NotNowError:
            self.late_arguments = arguments, options
        finally:
            routing.get_dependant = get_dependant

    def build_late_part(self: Any, name: str) -> Any:  # noqa: ANN401  passed through
        if name not in late:
            raise AttributeError(name)
        with lock:
            if "late_arguments" in vars(self):
                arguments, options = self.late_arguments
                whole = route_class.__new__(type(self))
                build(whole, *arguments, **options)
                for each in late:
                    vars(self).setdefault(each, vars(whole)[each])
                del self.late_arguments
        return vars(self)[name]

    def example() -> None:
        pass

    # What the constructor sets from get_dependant on, in this version of FastAPI.
    whole, early = route_class("/", example), route_class.__new__(route_class)
    build_early_part(early, "/", example)
    late = vars(whole).keys() - vars(early).keys()
    if "app" in late:
        route_class.__init__ = build_early_part
        # Asked only for an attribute that is not there.
        route_class.__getattr__ = build_late_part


def build_validators_when_used() -> None:
    """Build the validator of a parameter at its first use: of 9,000 most are never used, 0.8 s."""
    fields: Any = importlib.import_module("fastapi._compat.v2")
    type_adapter = fields.TypeAdapter
    # FastAPI silences it where it builds validators at once.
    category = importlib.import_module("pydantic.warnings").UnsupportedFieldAttributeWarning
    warnings.filterwarnings("ignore", category=category)

    class TypeAdapterWhenUsed:
        def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401  passed through
            self.build = functools.partial(type_adapter, *arguments, **options)

        @functools.cached_property
        def built(self) -> Any:  # noqa: ANN401  pydantic's TypeAdapter
            return self.build()

        def __getattr__(self, name: str) -> Any:  # noqa: ANN401  passed through
            if name.startswith("__"):  # copying asks before there is anything to ask
                raise AttributeError(name)
            return getattr(self.built, name)

    fields.TypeAdapter = TypeAdapterWhenUsed


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
