"""The failures that a script reports in one sentence instead of a traceback."""

from __future__ import annotations

from typing import ClassVar

DATABASE = 5
USAGE = 2
SLOT = 6
VERIFICATION = 6
TIMED_OUT = 8


class PipelineError(Exception):
    """A failure that the reader of the task's log can act on; `code` is the script's exit code."""

    code: ClassVar[int] = 1


class SettingError(PipelineError):
    """An environment variable holds something that cannot be used."""

    code = USAGE


class SlotError(PipelineError):
    """A replication slot cannot hold what would be written: the caller chooses what becomes of its reader."""

    code = SLOT


class DatabaseError(PipelineError):
    """A database is unreachable, refused the login or failed a statement."""

    code = DATABASE


class ChecksError(PipelineError):
    """Checks have found rows, or have no answer; `code` says what is worst."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code  # type: ignore[misc]  # of this one
