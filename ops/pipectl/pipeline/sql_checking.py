"""The team's own checks, in SQL: the project's `sql_checks.py`, as a DAG runs it too."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

from pipectl.errors import DatabaseError, PipectlError, UsageError
from pipectl.pipeline.loading import (
    SCRIPT_DATABASE,
    SCRIPT_USAGE,
    HistoryLoader,
    broken_script,
    read_failure,
)

if TYPE_CHECKING:
    from pathlib import Path

    from pipectl.models import DatabaseAddress
    from pipectl.observer import Observer
    from pipectl.pipeline.verification import Verification


@dataclass(frozen=True)
class SqlCheck:
    """What became of a check. `state` is passed, failed, error or timed out.

    `rows` are the first that it found, their values as text, and `found` counts them; `more` says that there
    are more than that. `error` is what kept the check from an answer, and `line` then where; `no_table` says
    that it was a table that is not there.
    """

    check: str
    database: str
    file: str
    line: int
    state: str
    seconds: float
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str | None, ...], ...] = ()
    found: int = 0
    more: bool = False
    error: str = ""
    no_table: bool = False


@dataclass(frozen=True)
class SqlVerification:
    """The answer of `verify-db --sql`: each check, and with --expect what that compares; None without."""

    ok: bool
    checks: tuple[SqlCheck, ...]
    verification: Verification | None = field(default=None)


class SqlChecker(HistoryLoader):
    """Runs the script against two databases. Raises DatabaseError, UsageError and PipectlError."""

    script = "scripts/sql_checks.py"

    def __init__(
        self, project: Path, databases: tuple[DatabaseAddress, DatabaseAddress], observer: Observer
    ) -> None:
        super().__init__(project, databases, seed=None, observer=observer)
        if not (project / self.script).is_file():
            raise UsageError(
                f"This project has no {self.script}, which runs the checks.",
                hint="Take it, and scripts/fraud_pipeline/, over from the release of this pipectl.",
            )
        self._checks = ""

    def run(self, checks: Path, timeout: float) -> tuple[SqlCheck, ...]:
        """Run the checks of a file or folder, each for `timeout` seconds at most."""
        self._checks = str(checks)
        return tuple(
            SqlCheck(
                **told
                | {"columns": tuple(told["columns"]), "rows": tuple(tuple(row) for row in told["rows"])}
            )
            for told in self._run((f"--timeout={timeout}", "--json", "--", str(checks)))
        )

    def _failure(self, code: int, log: IO[str]) -> PipectlError:
        text, message = read_failure(log)
        if code == SCRIPT_USAGE and message:
            if "`-- " in message:
                hint = "Two lines begin a check: `-- check: …` and `-- database: …`."
            elif self._checks in message:
                hint = "Mend that file, or name others: --sql FILE|DIR"
            else:
                hint = "Correct it in stack/.env or in the environment."
            return UsageError(message, hint=hint)
        if code == SCRIPT_DATABASE:
            return DatabaseError(message, hint="Look at the stack: pipectl status")
        return broken_script(self.script, code, text, "Nothing was changed: run the command again.")
