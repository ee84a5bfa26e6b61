"""The administrator's login, from AIRFLOW_ADMIN_USER and AIRFLOW_ADMIN_PASSWORD of airflow.env."""

from __future__ import annotations

import json
import os
from pathlib import Path

FILE_MODE = 0o600


def administrator() -> tuple[str, str]:
    """Return name and password."""
    return os.environ["AIRFLOW_ADMIN_USER"], os.environ["AIRFLOW_ADMIN_PASSWORD"]


def write_passwords(path: str) -> None:
    """Write the file in which SimpleAuthManager looks for passwords, readable by its owner alone."""
    user, password = administrator()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        # The mode above counts only for a new file.
        Path(path).chmod(FILE_MODE)
        json.dump({user: password}, file)
