"""Run pytest on the project's own tests, without a database: `run_tests.py PYTEST-ARGUMENT…`.

Runs inside Airflow's environment, and never imports pipectl. Without a path among the arguments it runs
dags/tests. Nothing above that folder configures it: what lies there may be another project's.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

# The folder with pytest, for an environment that has none.
LAYER = "PYTEST_FOLDER"
TESTS = Path("dags", "tests")


def main(*words: str) -> int:
    """Run pytest, and return its exit code."""
    # After Airflow's own packages and the project's.
    sys.path.append(os.environ.pop(LAYER))
    # As in Airflow's own processes; the project's folder may hold what hides a module.
    sys.path.append(str(TESTS.parent.resolve()))
    import pytest

    configuration = TESTS / "pytest.ini"
    options = (
        *("-c", str(configuration) if configuration.is_file() else os.devnull, "--rootdir", "."),
        *("-o", f"testpaths={TESTS if TESTS.is_dir() else TESTS.parent}", "-o", f"cache_dir={cache()}"),
    )
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["AIRFLOW__LOGGING__BASE_LOG_FOLDER"] = temporary
        return int(pytest.main([*options, *words]))


def cache() -> str:
    """Return where `--last-failed` and its like remember: beside Airflow's own files."""
    home = Path(os.environ.get("AIRFLOW_HOME", ""))
    folder = home if home.is_dir() and os.access(home, os.W_OK) else Path(tempfile.gettempdir())
    return str(folder / "pytest-cache")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
