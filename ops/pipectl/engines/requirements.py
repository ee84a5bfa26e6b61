"""What stack/airflow/packages.py says of requirements.txt, on every engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipectl.engines.changes import REQUIREMENTS
from pipectl.errors import EngineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipectl.errors import PipectlError

# Its exit code for what the file itself is wrong about.
MISTAKE = 2
INSTALLED, REMOVED = "Installed for requirements.txt", "Removed with requirements.txt's line"
DETAIL_LINES = 8


def explained(output: str, code: int, hint: str) -> PipectlError:
    """Return the error that a failed installation is, `hint` for one that the file does not explain."""
    sentence, detail = sentence_of(output)
    if code == MISTAKE:
        return UsageError(sentence, hint="Correct it, then run the command again.", detail=detail)
    return EngineError(sentence, hint=hint, detail=detail)


def sentence_of(output: str) -> tuple[str, str]:
    """Return what was wrong in one sentence, and the other lines before its end."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    told = (line for line in reversed(lines) if line.startswith(REQUIREMENTS))
    sentence = next(told, f"The packages of {REQUIREMENTS} could not be installed.")
    return sentence, "\n".join([line for line in lines if line != sentence][-DETAIL_LINES:])


def changed_note(started_with: Iterable[Mapping[str, str]], now: Mapping[str, str]) -> tuple[str, ...]:
    """Return a sentence if a service that runs was started with another requirements.txt; digests by path."""
    if any(
        REQUIREMENTS in files and files[REQUIREMENTS] != now.get(REQUIREMENTS, "") for files in started_with
    ):
        return (
            f"{REQUIREMENTS} has changed since Airflow was started. Install what it asks for: pipectl up",
        )
    return ()
