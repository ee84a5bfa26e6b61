"""Exit 0 if Airflow's API for tasks answers on the way that tasks take to it: `tasks_api.py`.

By httpx and through the environment's proxies, as in Airflow's own client. What answers must be Airflow: a
proxy may answer anything.
"""

from __future__ import annotations

import os
import sys

import proxies

SECONDS = 30
LONGEST = 300


def problem(address: str) -> str:
    """Return what is wrong with the way to `address`, empty if nothing is."""
    import httpx

    try:
        answer = httpx.get(f"{address.rstrip('/')}/health", timeout=SECONDS)
    except Exception as error:  # noqa: BLE001  httpx raises errors of several kinds for settings that it cannot read
        return f"{type(error).__name__}: {error}"
    try:
        if answer.json()["status"] == "healthy":
            return ""
    except (ValueError, KeyError, TypeError):
        pass
    return f"HTTP {answer.status_code}: {' '.join(answer.text.split())[:LONGEST]}"


if __name__ == "__main__":
    proxies.exempt_own_addresses()
    sys.exit(problem(os.environ[proxies.TASKS_API]) or 0)
