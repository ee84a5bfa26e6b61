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
SEED_VARIABLE = "PIPECTL_SEED"
DEFAULT_SEED = 1
INTERRUPTED = 130

VARIABLES = f"""environment:
  {BATCH_VARIABLE}        the batch's name, in Airflow the run's id; without it, one of its own
  {SEED_VARIABLE}            the data's seed, a whole number (default {DEFAULT_SEED})
  AIRBYTE_POSTGRES_HOST, _PORT, _DATABASE, _USER, _PASSWORD
                          default airbyte-postgres, 5432, airbyte, docker, docker
  AIRBYTE_MYSQL_HOST, _PORT, _DATABASE, _USER, _PASSWORD
                          default airbyte-mysql, 3306, data, docker, docker

exit codes: 0 done, 2 wrong option or setting, 5 a database is unreachable or failed, 130 interrupted"""

_LOG = logging.getLogger(__name__)


def run(description: str, work: Callable[[Mapping[str, str]], None]) -> int:
    """Parse the command line, do the work, and give the exit code; an error is one log line, no traceback."""
    argparse.ArgumentParser(
        description=description, epilog=VARIABLES, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    configure()
    try:
        work(os.environ)
    except PipelineError as error:
        _LOG.error(logfmt("failed", batch=os.environ.get(BATCH_VARIABLE), error=error))
        return error.code
    except KeyboardInterrupt:
        _LOG.warning(logfmt("interrupted", batch=os.environ.get(BATCH_VARIABLE)))
        return INTERRUPTED
    return 0


def batch_of(environment: Mapping[str, str]) -> str:
    """Give the batch's name from PIPECTL_BATCH_ID, or a new one that no other call has."""
    return (
        environment.get(BATCH_VARIABLE)
        or f"bare__{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}__{secrets.token_hex(4)}"
    )


def seed_of(environment: Mapping[str, str]) -> int:
    """Read the data's seed from PIPECTL_SEED. Raises SettingError."""
    written = environment.get(SEED_VARIABLE) or str(DEFAULT_SEED)
    try:
        return int(written)
    except ValueError as error:
        raise SettingError(f"{SEED_VARIABLE} is {written!r}, which is no whole number.") from error
