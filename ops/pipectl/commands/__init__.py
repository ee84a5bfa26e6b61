"""A file per command: it parses, calls the pipeline, and shows the result, with its rendering beside it.

A command's function has the command's name, and its module says in `Document` what --json prints.
"""

# Commands by task, in the order of --help and of README: its panels, and in each the commands with their
# modules below this package. A call imports only the module it needs.
PANELS = {
    "Stack": {
        "up": "up",
        "down": "down",
        "reset": "reset",
        "restart": "restart",
        "scale": "scale",
        "status": "status",
        "doctor": "doctor",
        "logs": "logs",
        "open": "open",
        "projects": "projects",
    },
    "Runs": {
        "trigger": "trigger",
        "dags": "dags",
        "runs": "runs",
        "pause": "pause",
        "unpause": "pause",
        "explain": "explain",
        "task-log": "task_log",
        "clear": "clear",
        "cancel": "cancel",
        "backfill": "backfill",
    },
    "Data": {
        "verify-db": "verify_db",
        "load": "load",
        "snapshot": "snapshot",
        "report": "report.command",
        "export": "export",
        "connections": "connections",
    },
    "Databases and programs": {
        "psql": "clients",
        "mysql": "clients",
        "airflow": "programs",
        "python": "programs",
        "shell": "programs",
        "exec": "programs",
    },
    "Project": {
        "init": "init",
        "upgrade": "upgrade",
        "bundle": "bundle",
        "check": "check",
        "test": "programs",
    },
}
COMMANDS = {name: module for commands in PANELS.values() for name, module in commands.items()}
# Those that run another program, and how many words they take themselves. The program gets the rest, from the
# first on that is no long option of pipectl's, and what is printed is the program's.
RUN_PROGRAMS = {"psql": 0, "mysql": 0, "airflow": 0, "python": 0, "shell": 0, "exec": 1, "test": 0}


def function_name(command: str) -> str:
    """Return the name of the function that runs `command`."""
    return command.replace("-", "_")
