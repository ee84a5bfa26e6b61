"""Become a command of the user's, with what a task gets of its environment: `command.py PROGRAM WORD…`.

`airflow` starts in half of its own time. Runs inside Airflow's environment, in containers as on the local
engine, and never imports pipectl. Exit codes are the program's; 127 if there is no such program, and 126 if
it cannot be started, as a shell has it.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import importlib.util
import os
import shutil
import signal
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

NO_SHORTCUTS = "PIPECTL_NO_SHORTCUTS"
# Without it, tasks know the administrator's password no more than the scheduler that starts them.
ADMIN_PASSWORD = "AIRFLOW_ADMIN_PASSWORD"  # noqa: S105  the name of a variable
# New objects: a command imports so many at most, and keeps nearly all of them.
COLLECT_AFTER = 300_000
NOT_FOUND, NOT_STARTED = 127, 126
# Python ignores these, and what it becomes would go on ignoring them.
DEFAULTS = (signal.SIGPIPE, signal.SIGXFSZ)


def neighbour(name: str) -> ModuleType:
    """Load a file of this folder. Not by an import: a DAG may have a module of the same name."""
    spec = importlib.util.spec_from_file_location(f"pipectl_{name}", Path(__file__).with_name(f"{name}.py"))
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(program: str, *words: str) -> int:
    """Become the program. Return the exit code of `airflow`, or of a program that cannot be started."""
    os.environ.pop(ADMIN_PASSWORD, None)
    neighbour("proxies").settle()
    if program == "airflow":
        return airflow(*words)
    for number in DEFAULTS:
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(program, [program, *words])  # noqa: S606  no shell is wanted
    except OSError as error:
        # A folder of PATH that this user may not enter would count as a program that may not be started.
        is_there = shutil.which(program) or (
            "/" in program and error.errno not in {errno.ENOENT, errno.ENOTDIR}
        )
        sys.stderr.write(
            f"pipectl: {program}: {error.strerror if is_there else 'there is no such program'}\n"
        )
        return NOT_STARTED if is_there else NOT_FOUND


def airflow(*words: str) -> int:
    """Run Airflow's own command in this process."""
    if os.environ.get(NO_SHORTCUTS) != "1":
        shorten()
    sys.argv = ["airflow", *words]
    try:
        importlib.import_module("airflow.__main__").main()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) has what it wanted. Python writes what is left once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        # Looking for garbage among all of Airflow once more takes a third of the time, at the very end.
        gc.freeze()
    return 0


def shorten() -> None:
    """Leave out what costs half of a command's time. A shortcut that fails is left out itself."""
    gc.set_threshold(COLLECT_AFTER)
    with contextlib.suppress(Exception):
        neighbour("shortcuts").read_yaml_with_libyaml()
    # Airflow would look by itself whether the database has its migration, and import alembic for that: 0.2 s.
    with contextlib.suppress(Exception):
        metadata_database = neighbour("metadata_database")
        if metadata_database.current() == metadata_database.head():
            os.environ["AIRFLOW__DATABASE__CHECK_MIGRATIONS"] = "False"
    # It is written to stdout, before the JSON of `--output json`, by commands that draw nothing.
    warnings.filterwarnings("ignore", message="Could not import graphviz")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
