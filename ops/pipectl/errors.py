"""Exit codes, which are part of the interface, and the errors that carry them."""

from __future__ import annotations

import errno
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:
    from pathlib import Path


class ExitCode(IntEnum):
    """What the process returns to its caller."""

    meaning: str

    def __new__(cls, number: int, meaning: str) -> Self:
        """Make a code that can be told in words."""
        code = int.__new__(cls, number)
        code._value_ = number
        code.meaning = meaning
        return code

    DONE = 0, "done"
    BUG = 1, "a bug of pipectl"
    USAGE = 2, "usage: command, option, project or `stack/.env`"
    ENGINE = 3, "engine or service; a check of `doctor` failed"
    AIRFLOW = 4, "Airflow"
    DATABASE = 5, "database"
    VERIFICATION = 6, "data not as expected, or a check finds rows (`verify-db`)"
    RUN_FAILED = 7, "the run failed"
    TIMED_OUT = 8, "timed out"
    DAG = 9, "DAG missing or broken"
    INTERRUPTED = 130, "Ctrl-C"


class PipectlError(Exception):
    """A failure that the user can act on.

    `message` says what is wrong and where, in one sentence; `hint` says what to type next; `detail`
    is evidence worth showing as it is (the end of a log, a traceback of the user's own DAG).
    """

    code: ClassVar[ExitCode] = ExitCode.BUG

    def __init__(self, message: str, *, hint: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail = detail


def remedy(error: OSError, path: Path) -> str:
    """Return the next step after a file or folder could not be written or deleted, by the system's reason."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"Make room on the disk of {path}, then run the command again."
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"Make {path} writable for you, then run the command again."
    return "Mend that, then run the command again."


class UsageError(PipectlError):
    """The command, its options, the project folder or its `.env` are not as they must be."""

    code = ExitCode.USAGE


class EngineError(PipectlError):
    """The engine or one of its services could not be installed, started or stopped."""

    code = ExitCode.ENGINE


class MigrationError(EngineError):
    """Airflow's metadata database could not be migrated."""


class EngineSilentError(EngineError):
    """What runs the services is there and does not answer: they are not to be taken for stopped."""


class AirflowError(PipectlError):
    """Airflow's REST API is unreachable or refused a request."""

    code = ExitCode.AIRFLOW


class ForeignAirflowError(AirflowError):
    """Another program than this project's Airflow answers at its address."""


class AirflowLoginError(AirflowError):
    """Airflow answers, and refuses the user or the password."""


class AirflowConflictError(AirflowError):
    """Airflow has already what the request asks it to make."""


class AirflowMissingError(AirflowError):
    """Airflow does not have what the request is about."""


class AirflowSilentError(AirflowError):
    """Airflow does not answer, or says that it cannot: as while it, or its database, restarts."""


class DatabaseError(PipectlError):
    """A database is unreachable, refused the login or failed a statement."""

    code = ExitCode.DATABASE


class ForeignDatabaseError(DatabaseError):
    """Another server than this project's answers at a database's address."""


class DatabaseSilentError(DatabaseError):
    """A database does not answer: as while it restarts."""


class DatabaseLockedError(DatabaseError):
    """Another session keeps tables locked for longer than is waited for."""


class DatabaseRefusedError(DatabaseError):
    """A database answers, and refuses the connection for a reason that waiting does not change."""


class LoginError(DatabaseRefusedError):
    """A database answers, and refuses the user or the password."""


class VerificationError(PipectlError):
    """The data is not as it was expected to be."""

    code = ExitCode.VERIFICATION


class RunFailedError(PipectlError):
    """A DAG run ended in another state than success."""

    code = ExitCode.RUN_FAILED


class WaitTimeoutError(PipectlError):
    """What was waited for did not happen in time."""

    code = ExitCode.TIMED_OUT


class DagError(PipectlError):
    """The DAG does not exist, or its file cannot be imported."""

    code = ExitCode.DAG


class InterruptedCommandError(PipectlError):
    """Ctrl-C."""

    code = ExitCode.INTERRUPTED
