"""What both scripts do around their work: options, settings, log, and errors that become exit codes."""

from __future__ import annotations

import argparse
import logging
import os
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fraud_pipeline.errors import PipelineError, SettingError
from fraud_pipeline.logs import configure, logfmt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BATCH_VARIABLE = "PIPECTL_BATCH_ID"
UNTIL_VARIABLE = "PIPECTL_BATCH_UNTIL"
SEED_VARIABLE = "PIPECTL_SEED"
DEFAULT_SEED = 1
LARGEST_SEED = 2**63
INTERRUPTED = 130
LONGEST_SECONDS = 86_400

VARIABLES = f"""environment:
  {BATCH_VARIABLE}        the batch's name, in Airflow the run's id; without it, one of its own
  {UNTIL_VARIABLE}     the batch's end, in Airflow the logical date of a scheduled run (default: now)
  {SEED_VARIABLE}            the data's seed, a whole number (default {DEFAULT_SEED})
  AIRBYTE_POSTGRES_HOST, _PORT, _DATABASE, _USER, _PASSWORD
                          default airbyte-postgres, 5432, airbyte, docker, docker
  AIRBYTE_MYSQL_HOST, _PORT, _DATABASE, _USER, _PASSWORD
                          default airbyte-mysql, 3306, data, docker, docker
  PIPECTL_ALERT_FRAUD_RATE
                          lowest and highest share of frauds among the latest labels (default 0.0005:0.03)
  PIPECTL_ALERT_LAG_SECONDS
                          longest time that a transaction may wait for its label (default 3600)
  PIPECTL_ALERT_WEBHOOK   where alerts are posted as JSON

exit codes: 0 done, 2 wrong option, setting or check, 5 a database is unreachable or failed,
6 a replication slot cannot hold what would be written, or checks found rows, 8 a check took too long,
130 interrupted"""

_LOG = logging.getLogger(__name__)


def parser(description: str, *, writes: bool = True) -> argparse.ArgumentParser:
    """A parser with the options that all scripts have that write data."""
    command_line = argparse.ArgumentParser(
        description=description, epilog=VARIABLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command_line.set_defaults(batch=None, seed=None)
    if not writes:
        return command_line
    command_line.add_argument("--batch", metavar="ID", help=f"the batch's name; wins over {BATCH_VARIABLE}")
    command_line.add_argument("--seed", metavar="N", help=f"the data's seed; wins over {SEED_VARIABLE}")
    return command_line


def run(
    options: argparse.ArgumentParser, work: Callable[[Mapping[str, str], argparse.Namespace], None]
) -> int:
    """Parse the command line, do the work, and give the exit code; an error is one log line, no traceback.

    The work finds --batch and --seed in its environment.
    """
    given = options.parse_args()
    wins = {BATCH_VARIABLE: given.batch, SEED_VARIABLE: given.seed}
    environment = {**os.environ, **{name: value for name, value in wins.items() if value}}
    configure()
    try:
        work(environment, given)
    except PipelineError as error:
        _LOG.error(logfmt("failed", batch=environment.get(BATCH_VARIABLE), error=error))
        return error.code
    except KeyboardInterrupt:
        _LOG.warning(logfmt("interrupted", batch=environment.get(BATCH_VARIABLE)))
        return INTERRUPTED
    return 0


def positive_number(text: str) -> int:
    """Read an option that counts something."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def positive_seconds(text: str) -> float:
    """Read an option that is a time."""
    seconds = float(text)
    if not 0 < seconds <= LONGEST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text} is no time from 0 to {LONGEST_SECONDS} s")
    return seconds


def moment_option(text: str) -> datetime:
    """Read a moment in ISO 8601; one without an offset is UTC."""
    try:
        return _moment(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def batch_of(environment: Mapping[str, str]) -> str:
    """Give the batch's name from PIPECTL_BATCH_ID, or a new one that no other call has."""
    return (
        environment.get(BATCH_VARIABLE)
        or f"bare__{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}__{secrets.token_hex(4)}"
    )


def batch_end_of(environment: Mapping[str, str]) -> datetime | None:
    """Read the batch's end from PIPECTL_BATCH_UNTIL, None if it is not set. Raises SettingError."""
    written = environment.get(UNTIL_VARIABLE)
    try:
        return _moment(written) if written else None
    except ValueError as error:
        raise SettingError(f"{UNTIL_VARIABLE} is wrong: {error}.") from error


def seed_of(environment: Mapping[str, str]) -> int:
    """Read the data's seed from PIPECTL_SEED. Raises SettingError."""
    written = environment.get(SEED_VARIABLE) or str(DEFAULT_SEED)
    try:
        seed = int(written)
    except ValueError as error:
        raise SettingError(f"{SEED_VARIABLE} is {written!r}, which is no whole number.") from error
    if not -LARGEST_SEED <= seed < LARGEST_SEED:
        raise SettingError(f"{SEED_VARIABLE} is {written}, which does not fit into 64 bits.")
    return seed


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        # The first and the last day of the calendar do not exist in every time zone.
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text!r} is no time in ISO 8601, like 2026-01-31T12:00") from error
