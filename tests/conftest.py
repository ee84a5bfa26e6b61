"""What all tiers share: none of the caller's settings reaches a test."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.register_assert_rewrite("support.asset_events", "support.broken_dags", "support.program_checks")

# Speed is a matter of benchmarks; on a busy machine a first call takes longer than any deadline.
settings.register_profile("untimed", deadline=None)
settings.register_profile("nightly", deadline=None)
settings.load_profile("untimed")

# Where binaries are cached, what must not be skipped, and which images the docker tests run on: the business
# of who runs them.
KEPT = {
    "AIRFLOW_IMAGE",
    "MYSQL_IMAGE",
    "PIPECTL_CACHE_DIR",
    "PIPECTL_MYSQL_BIN",
    "PIPECTL_REQUIRE",
    "PIPECTL_SCREENSHOTS",
    "PIPECTL_TEST_AIRFLOW_PYTHON",
    "PIPECTL_TEST_AIRFLOW_VERSIONS",
    "PIPECTL_TEST_RECORD",
    "POSTGRES_IMAGE",
    "REDIS_IMAGE",
}
# Settings of pipectl, of its scripts, of Airflow, and of the databases' clients; then what makes Rich and
# Typer write colours or other widths (both take a GitHub workflow for a terminal).
PREFIXES = ("PIPECTL_", "AIRBYTE_", "AIRFLOW_", "PG", "MYSQL_", "MARIADB_")
TERMINAL = {"CLICOLOR", "CLICOLOR_FORCE", "COLUMNS", "FORCE_COLOR", "GITHUB_ACTIONS", "LINES", "NO_COLOR"} | {
    "PY_COLORS",
    "TTY_COMPATIBLE",
    "TTY_INTERACTIVE",
}
for name in list(os.environ):
    if name in TERMINAL or (name.startswith(PREFIXES) and name not in KEPT):
        del os.environ[name]

# In the background of a shell, under `nohup` and in some CI, SIGINT or SIGHUP is ignored. Children inherit
# that, also those that a test interrupts. A handler ends with their exec, so they start as from a terminal.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)


@pytest.fixture(autouse=True)
def own_claims(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep names that a test claims from other runs of the tests on this machine."""
    monkeypatch.setattr("pipectl.engines.claims.NAMESPACE", f"{os.getpid()}-{request.node.name}"[:60])


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """A path for a UNIX socket, which takes 104 bytes at most: TMPDIR may be longer."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder) / "socket"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which images the docker tests ran on."""
    from support.needs import DIGESTS, STAND_INS

    for image, digest in DIGESTS.items():
        stand_in = " (a stand-in)" if image in STAND_INS else ""
        terminalreporter.write_line(f"image {image}{stand_in}: {digest}")
