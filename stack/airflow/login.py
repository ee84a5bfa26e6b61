"""The administrator's login, from AIRFLOW_ADMIN_USER and AIRFLOW_ADMIN_PASSWORD.

Run as a program it writes the file in which SimpleAuthManager looks for passwords.
"""

from __future__ import annotations

import json
import os
from pathlib import Path


def administrator() -> tuple[str, str]:
    """Return name and password."""
    return os.environ.get("AIRFLOW_ADMIN_USER") or "admin", os.environ.get(
        "AIRFLOW_ADMIN_PASSWORD"
    ) or "admin"


def write_passwords(path: Path) -> None:
    """Write the file, readable by its owner alone."""
    user, password = administrator()
    path.touch(mode=0o600)
    path.write_text(json.dumps({user: password}), encoding="utf-8")


if __name__ == "__main__":
    target = os.environ.get("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE")
    if target:
        write_passwords(Path(target))
