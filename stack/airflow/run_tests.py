"""Run pytest on the project's own tests, without a database: `run_tests.py PYTEST-ARGUMENT…`.

Runs inside Airflow's environment, and never imports pipectl. Without a path among the arguments it runs
dags/tests. Nothing above that folder configures it: what lies there may be another project's.
"""

from __future__ import annotations

import difflib
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

# The folder with pytest, for an environment that has none.
LAYER = "PYTEST_FOLDER"
CODE = DAGS, _ = Path("dags"), Path("scripts")
TESTS = DAGS / "tests"
MISTAKE = 2
# How much alike the names of two files are: of tests most begin and end alike.
CLOSE = 0.8


def main(*words: str) -> int:
    """Run pytest, and return its exit code."""
    # After Airflow's own packages and the project's.
    sys.path.append(os.environ.pop(LAYER))
    # As in Airflow's own processes; the project's folder may hold what hides a module.
    sys.path.append(str(DAGS.resolve()))
    import pytest

    class Paths:
        """Looks at the paths that pytest has found among the words, before it looks for settings there.

        Where it finds nothing, it would take those of `tests/` beside dags/, which are not the project's.
        """

        @staticmethod
        @pytest.hookimpl(tryfirst=True)
        def pytest_load_initial_conftests(early_config: Any) -> None:  # noqa: ANN401  pytest's own type
            if told := wrong_path(early_config.known_args_namespace.file_or_dir):
                sys.stderr.write(f"{told}\n")
                sys.exit(MISTAKE)

    configuration = TESTS / "pytest.ini"
    options = (
        *("-c", str(configuration) if configuration.is_file() else os.devnull, "--rootdir", "."),
        *("-o", f"testpaths={TESTS if TESTS.is_dir() else DAGS}", "-o", f"cache_dir={cache()}"),
    )
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["AIRFLOW__LOGGING__BASE_LOG_FOLDER"] = temporary
        return int(pytest.main([*options, *words], [Paths]))


def wrong_path(words: Iterable[str]) -> str:
    """Return a sentence about the first word that names nothing in the project's code; empty if all do."""
    for word in words:
        path = Path(word.partition("::")[0])
        whole = Path(os.path.normpath(path.absolute()))
        if not path.exists() or not any(whole.is_relative_to(folder.absolute()) for folder in CODE):
            tests = {test.name: test for test in [*DAGS.rglob("*_test.py"), *DAGS.rglob("test_*.py")]}
            close = difflib.get_close_matches(path.name, tests, 1, CLOSE)
            question = f" Did you mean {tests[close[0]]}?" if close else ""
            return f"Error: {path} is no file or folder in dags/ or scripts/ of this project.{question}"
    return ""


def cache() -> str:
    """Return where `--last-failed` and its like remember: beside Airflow's own files."""
    home = Path(os.environ.get("AIRFLOW_HOME", ""))
    folder = home if home.is_dir() and os.access(home, os.W_OK) else Path(tempfile.gettempdir())
    return str(folder / "pytest-cache")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
