"""Delete what is older than PIPECTL_RETENTION_DAYS: task logs, and runs in Airflow's metadata database.

Runs inside Airflow's environment and never imports pipectl. The web server's launcher starts it every day,
in a process of its own.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

VARIABLE = "PIPECTL_RETENTION_DAYS"


def main() -> int:
    """Delete both; return the exit code of `airflow db clean`."""
    oldest = datetime.now(UTC) - timedelta(days=retention_days())
    configuration = importlib.import_module("airflow.configuration").conf
    removed = remove_files(Path(configuration.get("logging", "base_log_folder")), oldest.timestamp())
    sys.stderr.write(f"pipectl clean-up: deleted {removed} log files from before {oldest:%Y-%m-%d}\n")
    clean = ("-m", "airflow", "db", "clean", "--clean-before-timestamp", oldest.isoformat())
    return subprocess.run((sys.executable, *clean, "--skip-archive", "--yes"), check=False).returncode


def retention_days() -> int:
    """Return the number of days; exit 1 if the variable is no whole number above 0."""
    text = os.environ[VARIABLE]
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        sys.exit(f"pipectl clean-up: {VARIABLE} is {text!r}, which is no number of days.")
    return int(text)


def remove_files(folder: Path, oldest: float) -> int:
    """Delete files last written before `oldest` (seconds since 1970) and empty folders; return how many."""
    removed = 0
    for parent, folders, files in os.walk(folder, topdown=False):
        for name in files:
            path = Path(parent, name)
            try:
                if path.lstat().st_mtime < oldest:
                    path.unlink()
                    removed += 1
            except FileNotFoundError:
                continue
        for name in folders:
            path = Path(parent, name)
            # A folder that Airflow has just made for a task is empty too.
            if time.time() - path.lstat().st_mtime > timedelta(days=1).total_seconds():
                try:
                    path.rmdir()
                except OSError:
                    continue
    return removed


if __name__ == "__main__":
    sys.exit(main())
