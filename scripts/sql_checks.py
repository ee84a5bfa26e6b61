"""Run checks in SQL: queries that must return no rows. A DAG, and `pipectl verify-db --sql`, call this.

Each check is logged with the first rows that it found. docs/data.md says how a check is written.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from fraud_pipeline.command import parser, positive_seconds, run
from fraud_pipeline.errors import DATABASE, TIMED_OUT, VERIFICATION, ChecksError
from fraud_pipeline.logs import logfmt

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Mapping

    from fraud_pipeline.sql_checks import Result

_LOG = logging.getLogger("sql_checks")


def main(environment: Mapping[str, str], given: Namespace) -> None:
    """Run the checks one after the other, and say what each found. Raises PipelineError."""
    from fraud_pipeline import sql_checks  # noqa: PLC0415 -- not for --help

    results = []
    for check in sql_checks.read(Path(given.checks)):
        result = sql_checks.run(check, environment, given.timeout)
        results.append(result)
        if given.json:
            sys.stdout.write(json.dumps(asdict(result)) + "\n")
            sys.stdout.flush()
        else:
            _tell(result)
    if not given.json:
        _require(results)


def options() -> ArgumentParser:
    """The script's command line."""
    command_line = parser(__doc__ or "", writes=False)
    command_line.add_argument(
        "checks", metavar="FILE|DIR", help="a file of checks, or a folder of .sql files"
    )
    command_line.add_argument(
        "--timeout",
        type=positive_seconds,
        default=60.0,
        metavar="SECONDS",
        help="for each check (default 60)",
    )
    command_line.add_argument(
        "--json",
        action="store_true",
        help="write each result as a line of JSON on standard output, and end with 0 once all have run",
    )
    return command_line


def _tell(result: Result) -> None:
    log = _LOG.info if result.state == "passed" else _LOG.error
    log(
        logfmt(
            f"check_{result.state.replace(' ', '_')}",
            check=result.check,
            database=result.database,
            place=f"{result.file}:{result.line}",
            rows=f"{result.found}{'+' if result.more else ''}" if result.found else None,
            error=result.error or None,
            seconds=result.seconds,
        )
    )
    for row in result.rows:
        values = ", ".join(f"{name}={value}" for name, value in zip(result.columns, row, strict=True))
        _LOG.error(logfmt("row", values=values))


def _require(results: list[Result]) -> None:
    """Raise ChecksError with the code of what is worst: no answer, none in time, rows."""
    for state, code, did in (
        ("error", DATABASE, "could not run"),
        ("timed out", TIMED_OUT, "took too long"),
        ("failed", VERIFICATION, "found rows"),
    ):
        named = [result.check for result in results if result.state == state]
        if named:
            raise ChecksError(f"{len(named)} of {len(results)} checks {did}: {'; '.join(named)}", code)


if __name__ == "__main__":
    sys.exit(run(options(), main))
