"""Delete what is old: task logs, and rows of runs in Airflow's metadata database.

Runs inside Airflow's environment and never imports pipectl; the web server's launcher starts it every day, in
a process of its own. PIPECTL_RETENTION_DAYS says what is old (30 days where it is not set).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

RETENTION_DAYS = 30


def main() -> int:
    """Delete both; return the exit code of `airflow db clean`."""
    days = int(os.environ.get("PIPECTL_RETENTION_DAYS") or RETENTION_DAYS)
    oldest = datetime.now(UTC) - timedelta(days=days)
    removed = remove_files(Path(os.environ["AIRFLOW__LOGGING__BASE_LOG_FOLDER"]), oldest.timestamp())
    sys.stderr.write(f"pipectl tidy: {removed} log files from before {oldest:%Y-%m-%d} deleted\n")
    clean = ("-m", "airflow", "db", "clean", "--clean-before-timestamp", oldest.isoformat())
    return subprocess.run((sys.executable, *clean, "--skip-archive", "--yes"), check=False).returncode


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
