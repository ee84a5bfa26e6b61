"""A file per command: it parses, calls the pipeline, and shows the result, with its rendering beside it.

A command's function has the command's name, and its module says in `Document` what --json prints.
"""

# Command and its module below this package, in the order of --help. A call imports only the module it needs.
COMMANDS = {
    "up": "up",
    "down": "down",
    "reset": "reset",
    "scale": "scale",
    "status": "status",
    "logs": "logs",
    "open": "open",
    "verify-db": "verify_db",
    "trigger": "trigger",
    "dags": "dags",
    "runs": "runs",
    "task-log": "task_log",
    "clear": "clear",
    "cancel": "cancel",
    "pause": "pause",
    "unpause": "pause",
    "load": "load",
    "report": "report.command",
    "connections": "connections",
}


def function_name(command: str) -> str:
    """Return the name of the function that runs `command`."""
    return command.replace("-", "_")
