"""pipectl on databases that no engine runs."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from support import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from support.script_servers import Servers


def project_of(servers: Servers, folder: Path) -> Path:
    """Make a project whose business databases run elsewhere, so that no engine need be started."""
    for name in ("dags", "stack"):
        (folder / name).mkdir()
    (folder / "scripts").symlink_to(ROOT / "scripts")
    (folder / "stack" / ".env").write_text(
        "AIRBYTE_POSTGRES_HOST=127.0.0.1\nAIRBYTE_MYSQL_HOST=127.0.0.1\n"
        f"AIRBYTE_POSTGRES_PORT={servers.postgres_port}\nAIRBYTE_MYSQL_PORT={servers.mysql_port}\n"
        "AIRBYTE_REPLICATION_PASSWORD=sesame\n"
    )
    return folder


def pipectl(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-m", "pipectl", "--project", str(project), "--engine", "local", *arguments),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ},
        stdin=subprocess.DEVNULL,
    )
