"""A file per command: it parses, calls the pipeline, and shows the result, with its rendering beside it.

A command's function has the command's name, and its module says in `Document` what --json prints.
"""

# Command and its module below this package, in the order of --help. A call imports only the module it needs.
COMMANDS = {
    "up": "up",
    "down": "down",
    "reset": "reset",
    "restart": "restart",
    "scale": "scale",
    "status": "status",
    "projects": "projects",
    "logs": "logs",
    "open": "open",
    "verify-db": "verify_db",
    "trigger": "trigger",
    "dags": "dags",
    "runs": "runs",
    "task-log": "task_log",
    "clear": "clear",
    "cancel": "cancel",
    "backfill": "backfill",
    "pause": "pause",
    "unpause": "pause",
    "load": "load",
    "report": "report.command",
    "export": "export",
    "connections": "connections",
    "psql": "clients",
    "mysql": "clients",
    "airflow": "programs",
    "python": "programs",
    "shell": "programs",
    "exec": "programs",
    "check": "check",
    "test": "programs",
}
# Those that run another program, and how many words they take themselves. The program gets the rest, from the
# first on that is no long option of pipectl's, and what is printed is the program's.
RUN_PROGRAMS = {"psql": 0, "mysql": 0, "airflow": 0, "python": 0, "shell": 0, "exec": 1, "test": 0}


def function_name(command: str) -> str:
    """Return the name of the function that runs `command`."""
    return command.replace("-", "_")
