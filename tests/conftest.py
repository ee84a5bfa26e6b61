"""What all tiers share: what a test may need, and whether its absence skips or fails."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest
from hypothesis import settings

# Speed is a matter of benchmarks; on a busy machine a first call takes longer than any deadline.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _no_settings_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("PIPECTL_", "AIRBYTE_", "AIRFLOW_")) and name not in KEPT:
            monkeypatch.delenv(name)


# Where binaries are cached, and what must not be skipped, is the business of who runs the tests.
KEPT = {
    "PIPECTL_CACHE_DIR",
    "PIPECTL_REQUIRE",
    "PIPECTL_SCREENSHOTS",
    "PIPECTL_TEST_AIRFLOW_PYTHON",
}


def missing(what: str, reason: str) -> NoReturn:
    """Skip the test, or fail it where PIPECTL_REQUIRE names what is missing."""
    if what in os.environ.get("PIPECTL_REQUIRE", "").split(","):
        pytest.fail(f"{what} is required, but {reason}")
    pytest.skip(reason)
