"""What Airflow's processes get on every engine: stack/airflow/airflow.env, and the user's own user.env.

Docker Compose takes both as `env_file`. This reader gives each line the meaning that Compose gives it, and
refuses a line that versions of Compose read differently.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pipectl import ordinary
from pipectl.engines.project import restoring
from pipectl.errors import EngineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

SHARED = Path("stack", "airflow", "airflow.env")
OWN = Path("stack", "airflow", "user.env")
_BUSINESS = ("AIRBYTE_POSTGRES_", "AIRBYTE_MYSQL_")
# docker-compose.yml sets such variables, and only newer versions of Compose let an `env_file` refer to those.
OF_THE_ENGINES = ("AIRFLOW__", *_BUSINESS)
# pipectl reads these too, from stack/.env: set in user.env, they would count for tasks alone.
OF_THE_PROJECT = ("PIPECTL_", "AIRFLOW_ADMIN_", *_BUSINESS)
# Secrets, which a program does not get that runs without the stack, and a database that has nothing in it.
OF_THE_STACK = (
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC",
    "AIRFLOW__API_AUTH__JWT_SECRET",
    "AIRFLOW__API__SECRET_KEY",
    "AIRFLOW__CORE__FERNET_KEY",
    "AIRFLOW_ADMIN_PASSWORD",
)
# Of them, those that all of Airflow's services must agree on, with what stack/.env calls them.
SHARED_SECRETS = {
    "AIRFLOW__API_AUTH__JWT_SECRET": "AIRFLOW_JWT_SECRET",
    "AIRFLOW__API__SECRET_KEY": "AIRFLOW_API_SECRET_KEY",
    "AIRFLOW__CORE__FERNET_KEY": "AIRFLOW_FERNET_KEY",
}
WITHOUT_STACK = {
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite://",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": "sqlite+aiosqlite://",
}
# Where a program finds pytest (engines/pytest_layer.py).
PYTEST = "PYTEST_FOLDER"
# If it is set, a program runs although requirements.txt cannot be installed, and finds here what was said.
PROBLEM = "PIPECTL_REQUIREMENTS_PROBLEM"

_NAME = "[A-Za-z_][A-Za-z0-9_]*"
_ASSIGNMENT = re.compile(rf"(?:export[ \t]+)?({_NAME})[ \t]*=[ \t]*(.*)")
_QUOTED = re.compile(r"""(?:'(?P<single>[^']*)(?<!\\)'|"(?P<double>(?:[^"\\]|\\.)*)")[ \t]*(?:#.*)?""")
_DOLLAR = rf"\$(?:(?P<dollar>\$)|(?P<plain>{_NAME})|\{{(?P<braced>{_NAME})(?::-(?P<default>[^$}}]*))?\}})?"
_UNQUOTED_SPECIAL = re.compile(_DOLLAR)
_QUOTED_SPECIAL = re.compile(rf"\\(?P<escaped>.)|{_DOLLAR}")
# What a backslash in double quotes stands for.
ESCAPES = {"n": "\n", '"': '"', "\\": "\\", "$": "$"}
_LITERAL_DOLLAR = "Write $$ for a dollar sign, or put the value in single quotes."


class _LineError(Exception):
    """A line that is refused: what is wrong with it, and the cure. Never a part of its value."""


def read(project: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the names and values of both files; `variables` are those of stack/.env.

    Raises:
        UsageError: a line is no assignment, or has no meaning that all versions of Compose share.
        EngineError: airflow.env is missing.

    """
    values: dict[str, str] = {}
    # As in Compose: a variable of the shell overrides stack/.env, and both override earlier lines.
    outside = {**variables, **os.environ}
    for path in (project / SHARED, project / OWN):
        for number, line in enumerate(_lines(path), start=1):
            if not line or line.startswith("#"):
                continue
            earlier = {name: value for name, value in values.items() if not name.startswith(OF_THE_ENGINES)}
            try:
                name, value = _assignment(line, {**earlier, **outside})
                if path.name == OWN.name:
                    _require_own(name)
            except _LineError as error:
                problem, cure = error.args
                assigned = _ASSIGNMENT.fullmatch(line)
                place = f"line {number} ({assigned[1]})" if assigned else f"line {number}"
                raise UsageError(f"{path}, {place}, {problem}.", hint=cure) from None
            values[name] = value
    return values


def without_stack(variables: Mapping[str, str]) -> dict[str, str]:
    """Return what of a service's variables a program gets that runs without the stack."""
    return {name: value for name, value in variables.items() if name not in OF_THE_STACK} | WITHOUT_STACK


def user_settings(project: Path) -> frozenset[str]:
    """Return the names that user.env sets."""
    return frozenset(found[1] for line in _lines(project / OWN) if (found := _ASSIGNMENT.fullmatch(line)))


def _lines(path: Path) -> list[str]:
    try:
        text = ordinary.read_text(path)
    except FileNotFoundError as error:
        if path.name == OWN.name:
            return []
        raise EngineError(f"{path} is missing.", hint=f"Get it back: {restoring(path)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{ordinary.why_unreadable(path, error)}.", hint=f"Mend {path}.") from error
    # Not splitlines, which knows more ends of a line than Compose does.
    return [line.strip(" \t\r") for line in text.split("\n")]


def _assignment(line: str, known: Mapping[str, str]) -> tuple[str, str]:
    """Return name and value of a line. Raises _LineError."""
    found = _ASSIGNMENT.fullmatch(line)
    if not found:
        cure = "Write one NAME=value a line, NAME of letters, digits and _; a comment begins with #."
        raise _LineError("is not NAME=value", cure)
    if not line.replace("\t", "").isprintable():
        raise _LineError("holds a character that cannot be printed", "Type the line anew.")

    def replace(special: re.Match[str]) -> str:
        return _special(special.groupdict(), known)

    name, text = found.groups()
    if not text.startswith(("'", '"')):
        return name, _UNQUOTED_SPECIAL.sub(replace, text.partition(" #")[0].strip())
    quoted = _QUOTED.fullmatch(text)
    if not quoted:
        cure = (
            "End the value with the quote that begins it, on the same line; \\n in double quotes ends a line."
        )
        raise _LineError("has a quote that does not enclose the whole value", cure)
    if quoted["single"] is not None:
        return name, quoted["single"]
    return name, _QUOTED_SPECIAL.sub(replace, quoted["double"])


def _require_own(name: str) -> None:
    """Raise _LineError for a variable that the user's file may not set."""
    if name.startswith(OF_THE_PROJECT):
        raise _LineError("belongs in stack/.env", "Move the line to stack/.env.")


def _special(parts: Mapping[str, str | None], known: Mapping[str, str]) -> str:
    """Return what an escaped character or a reference stands for. Raises _LineError."""
    if escaped := parts.get("escaped"):
        if escaped not in ESCAPES:
            cure = "Write \\\\ for a backslash, or put the value in single quotes."
            raise _LineError('has a backslash in double quotes that is not \\n, \\", \\$ or \\\\', cure)
        return ESCAPES[escaped]
    if parts["dollar"]:
        return "$"
    name, default = parts["plain"] or parts["braced"], parts["default"]
    if name is None:
        raise _LineError("has a dollar sign that begins no ${NAME} or ${NAME:-default}", _LITERAL_DOLLAR)
    value = known.get(name)
    if value or (value is not None and default is None):
        return value
    if default is None or name.startswith(OF_THE_ENGINES):
        problem = "refers to a variable that neither stack/.env nor the environment sets"
        raise _LineError(problem, f"Set it in stack/.env. {_LITERAL_DOLLAR}")
    return default
