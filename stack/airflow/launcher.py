"""Start one of Airflow's services quickly: `launcher.py COMMAND [OPTION …]`.

COMMAND is api-server, scheduler, dag-processor, triggerer or celery, the last with the option worker.

It ends in `airflow COMMAND OPTION …`, in the same process. Before that, while the database starts or is
migrated, it does what needs no database: imports, and building the web application. If a service fails soon
after its start, it starts once more without the changes of shortcuts.py.

Runs inside Airflow's environment, in containers as on the local engine, and never imports pipectl.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import gc
import importlib
import importlib.metadata
import importlib.util
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from types import ModuleType

    import connections
    import dag_tests
    import file_changes
    import forks
    import liveness
    import login
    import metadata_database
    import notifications
    import proxies
    import shortcuts
    import task_processes
    import triggers


def neighbour(name: str) -> ModuleType:
    """Load a file of this folder. Not by an import: a DAG may have a module of the same name."""
    spec = importlib.util.spec_from_file_location(f"pipectl_{name}", Path(__file__).with_name(f"{name}.py"))
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if not TYPE_CHECKING:
    (
        connections,
        dag_tests,
        file_changes,
        forks,
        liveness,
        login,
        metadata_database,
        notifications,
        proxies,
        shortcuts,
        task_processes,
        triggers,
    ) = map(
        neighbour,
        (
            "connections",
            "dag_tests",
            "file_changes",
            "forks",
            "liveness",
            "login",
            "metadata_database",
            "notifications",
            "proxies",
            "shortcuts",
            "task_processes",
            "triggers",
        ),
    )

CLEANUP_DELAY_SECONDS = 3600
CLEANUP_INTERVAL_SECONDS = 86400
NO_SHORTCUTS = "PIPECTL_NO_SHORTCUTS"
# Made by entrypoint.sh: containers alone have a health check that reads it.
HEARTBEAT = Path(os.environ.get("AIRFLOW_HOME", "."), "heartbeat")
# The commands that write heartbeats.
JOBS = frozenset({"scheduler", "dag-processor", "triggerer"})
# Those that read DAG files, themselves or in their forks.
PARSERS = frozenset({"scheduler", "dag-processor", "celery"})
PIPE_BYTES = 65536
# A service that fails within this time may have failed because of a shortcut.
SOON_SECONDS = 60
ARGUMENTS = tuple(sys.argv)
ENVIRONMENT = dict(os.environ)
BASE_URL = "AIRFLOW__API__BASE_URL"
SIMPLE_AUTH = "airflow.api_fastapi.auth.managers.simple"

# What tasks and parsed files need; the processes that run them are forks and inherit it.
TASK_MODULES = (
    "airflow.sdk",
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "airflow.providers.standard.operators.bash",
    "airflow.providers.standard.operators.python",
)
# Airflow's commands, and the modules that each imports sooner or later.
MODULES = {
    "api-server": ("airflow.cli.commands.api_server_command",),
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
    "triggerer": ("airflow.cli.commands.triggerer_command", "airflow.jobs.triggerer_job_runner"),
}


def main(command: str, *options: str) -> None:
    """Become `airflow COMMAND OPTION …`; without shortcuts if it fails soon after its start with them."""
    with_shortcuts, started = os.environ.get(NO_SHORTCUTS) != "1", time.monotonic()
    if command == "triggerer":
        triggers.wait_until_needed([sys.executable, "-P", *ARGUMENTS])
    signals = note_signals()
    proxies.settle()
    if command == "api-server":
        redirect_to_where_the_browser_is()
    try:
        start(command, *options, with_shortcuts=with_shortcuts)
    except metadata_database.WrongPasswordError as error:
        sys.exit(f"pipectl launcher: {error}")
    except Exception as error:
        # The database that is stopped at the same time is no failure of this service.
        if was_told_to_end(signals):
            sys.stderr.write(f"pipectl launcher: told to end, did so with {error!r}\n")
            return
        if not with_shortcuts or time.monotonic() - started > SOON_SECONDS:
            raise
        sys.stderr.write(f"pipectl launcher: starting again without shortcuts after {error!r}\n")
        os.environ[NO_SHORTCUTS] = "1"
        os.execv(sys.executable, [sys.executable, "-P", *ARGUMENTS])  # noqa: S606  this process, anew


def become(*arguments: str) -> None:
    """Be the service that this process was forked for, as if it had been started so."""
    global ARGUMENTS  # noqa: PLW0603  of a process that starts anew
    ARGUMENTS = arguments
    main(*arguments[1:])


def note_signals() -> int:
    """Have every signal that Python handles written to a pipe; return its end to read from."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    return read


def was_told_to_end(signals: int) -> bool:
    """Whether a signal to end was noted in the pipe `signals`."""
    try:
        noted = os.read(signals, PIPE_BYTES)
    except BlockingIOError:
        return False
    return bool({signal.SIGTERM, signal.SIGINT} & set(noted))


def start(command: str, *options: str, with_shortcuts: bool) -> None:
    """Import and build what the service needs, wait for its database, and go on as Airflow's own command."""
    # Imports make millions of objects, none of them garbage: collecting meanwhile costs a third of the time.
    gc.disable()
    migration = metadata_database.head()
    import_modules(command, with_shortcuts=with_shortcuts)
    if command == "scheduler" and (description := forks.serve(ENVIRONMENT)):
        become(*description["command"][2:])
        return
    if not with_shortcuts:
        attempt(
            "have the database asked for heartbeats", functools.partial(HEARTBEAT.unlink, missing_ok=True)
        )
    elif command in JOBS and HEARTBEAT.exists():
        attempt("note heartbeats", shortcuts.note_heartbeats, HEARTBEAT)
    if with_shortcuts and command in {"api-server", "dag-processor", "triggerer"}:
        shortcuts.build_apis_quickly()
    if command == "api-server":
        prepare_web_server(migration)
    elif command == "scheduler":
        if with_shortcuts:
            shortcuts.leave_out_the_log_server()
        prepare_scheduler(with_shortcuts=with_shortcuts)
    elif command == "dag-processor" and with_shortcuts and fits("looks for files all the time"):
        attempt(
            "rest until a file changes", file_changes.rest_until_a_file_changes, metadata_database.connect
        )
    if command in {"scheduler", "triggerer"}:
        # No log server of its own, whose port two projects would share: the web server reads the files.
        options = ("--skip-serve-logs", *options)
    metadata_database.wait(migration)
    # That was the check: Airflow's own imports alembic for it, 0.2 s.
    os.environ["AIRFLOW__DATABASE__CHECK_MIGRATIONS"] = "False"
    begin_work(command)
    # What exists by now stays: later collections need not look at it, and forks share its memory.
    gc.freeze()
    gc.enable()
    run_airflow(command, *options)


def import_modules(command: str, *, with_shortcuts: bool) -> None:
    """Import what the service imports sooner or later."""
    if with_shortcuts:
        attempt("read YAML with libyaml", shortcuts.read_yaml_with_libyaml)
        attempt("leave out libcst", shortcuts.import_libcst_when_used)
        if command == "api-server":
            attempt("build models when they are used", shortcuts.build_models_when_used)
    for module in MODULES.get(command, ()):
        attempt("import " + module, importlib.import_module, module)
    # Of another version, whose registries may be others, handlers would be called as what they are made by.
    if with_shortcuts and command in PARSERS and fits("imports all handlers of assets' addresses at once"):
        attempt("import handlers of assets when used", shortcuts.import_asset_handlers_when_used)


def run_airflow(*arguments: str) -> None:
    """Run Airflow's own command, and end with it if it ends well."""
    sys.argv = ["airflow", *arguments]
    try:
        importlib.import_module("airflow.__main__").main()
    except SystemExit as ending:
        if ending.code not in {None, 0}:
            raise
    end_at_once()


def end_at_once() -> None:
    """End as Python does, but free no memory first, which takes longer than all else that is due then.

    The usual way if a thread still works.
    """
    main_thread = threading.main_thread()
    if all(thread.daemon or thread is main_thread for thread in threading.enumerate()):
        atexit._run_exitfuncs()  # noqa: SLF001  Python has no public place for it
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def begin_work(command: str) -> None:
    """Do what a service does before anything else once its database answers."""
    connect = metadata_database.connect
    if command == "celery":
        attempt("report lost tasks", task_processes.report_lost_tasks, connect)
        liveness.hold(connect, socket.gethostname())
    if command == "scheduler":
        attempt("report earlier schedulers", task_processes.report_earlier_schedulers, connect)
    if command == "triggerer":
        attempt("report earlier triggerers", triggers.report_earlier_triggerers, connect)
    if command == "api-server":
        attempt("write the connections", connections.write)
        threading.Thread(target=clean_up_every_day, daemon=True).start()
        threading.Thread(target=triggers.tell_when_needed, daemon=True).start()
    else:
        # Tasks inherit the environment of these two.
        os.environ.pop("AIRFLOW_ADMIN_PASSWORD", None)


def redirect_to_where_the_browser_is() -> None:
    """Keep host and port out of the web server's redirects: a browser may come through a forwarded port.

    Links in alerts and mails are made by the other services, which keep the whole address.
    """
    path = urlsplit(os.environ.get(BASE_URL, "")).path
    os.environ[BASE_URL] = path or "/"


def attempt(purpose: str, action: Any, *arguments: Any) -> None:  # noqa: ANN401  any callable
    """Do what only saves time or adds comfort: a failure is a line in the log."""
    try:
        action(*arguments)
    except Exception as error:  # noqa: BLE001  Airflow's own command does without all of them
        sys.stderr.write(f"pipectl launcher: could not {purpose}: {type(error).__name__}: {error}\n")


def prepare_scheduler(*, with_shortcuts: bool) -> None:
    """Let the scheduler know the state of its tasks from their processes, and sleep until there is work.

    What that changes has no public place in Airflow, so another version keeps its own way.
    """
    attempt("leave tests of DAGs alone", dag_tests.leave_to_their_process)
    if not fits("judges tasks by its own executor"):
        return
    attempt("run each task in a process", task_processes.run_each_task_in_a_process_of_its_own)
    is_held = functools.partial(liveness.is_held, metadata_database.connect)
    attempt("look at processes", task_processes.give_up_only_tasks_whose_process_is_gone, is_held)
    attempt("be quiet at rest", task_processes.look_for_orphans_silently)
    if with_shortcuts:
        # Inside the wait for the database: a new connection is made after it.
        attempt(
            "sleep until there is work", notifications.sleep_until_there_is_work, metadata_database.connect
        )
    attempt("wait for the database", task_processes.wait_for_the_database, metadata_database.answers)


def fits(otherwise: str) -> bool:
    """Whether the installed Airflow is one that changes are written for; say what it does `otherwise`."""
    version = importlib.metadata.version("apache-airflow-core")
    if version.startswith(f"{task_processes.WRITTEN_FOR}."):
        return True
    sys.stderr.write(f"pipectl launcher: Airflow {version} {otherwise}\n")
    return False


def prepare_web_server(migration: str) -> None:
    """Make the administrator's login and the application that uvicorn will serve."""
    configuration = importlib.import_module("airflow.configuration").conf
    if SIMPLE_AUTH in configuration.get("core", "auth_manager"):
        manager = importlib.import_module(f"{SIMPLE_AUTH}.simple_auth_manager")
        login.write_passwords(manager.SimpleAuthManager.get_generated_password_file())
        # It warns of every database but SQLite; docs/engines.md says what to change on a shared server.
        logging.getLogger(manager.__name__).setLevel(logging.ERROR)
    else:
        # FAB writes its permissions into the database while the application is built.
        metadata_database.wait(migration)
    application = importlib.import_module("airflow.api_fastapi.main").app
    # The routes of the tasks' API are made at its first request, which would keep every other one waiting for
    # seconds.
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


def clean_up_every_day() -> None:
    """Delete old logs and rows, first an hour after the start. By the web server, which forks no tasks."""
    time.sleep(CLEANUP_DELAY_SECONDS)
    while True:
        program = (sys.executable, str(Path(__file__).with_name("cleanup.py")))
        done = subprocess.run(program, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.stderr.write(f"pipectl launcher: could not delete old logs and rows: {done.stderr[-1000:]}\n")
        time.sleep(CLEANUP_INTERVAL_SECONDS)


if __name__ == "__main__":
    main(*sys.argv[1:])
