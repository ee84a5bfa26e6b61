"""pytest for the tests of users' DAGs: a folder beside Airflow's packages, which are not changed.

All of it is Python that runs on every machine, so containers use the same folder. A pytest among the
project's own packages comes first.
"""

from __future__ import annotations

import hashlib
import sys
from typing import TYPE_CHECKING

from pipectl.engines.local import uv
from pipectl.engines.local.folders import atomic_folder
from pipectl.engines.local.install import install_lock
from pipectl.engines.project import restoring
from pipectl.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path

    from pipectl.observer import Observer
    from pipectl.settings import Settings


def ensure(settings: Settings, observer: Observer) -> Path:
    """Return the folder, installed once for this user. Raises EngineError."""
    lock = settings.project / "stack" / "pytest-requirements.txt"
    try:
        digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise EngineError(
            f"{lock} cannot be read: {error.strerror}.", hint=f"Get it back: {restoring(lock)}"
        ) from error
    folder = settings.cache_dir / f"pytest-{digest}"
    if folder.is_dir():
        return folder
    with install_lock(settings.cache_dir, folder.name, observer.report):
        if not folder.is_dir():
            observer.report("Installing pytest, once for this user")
            with atomic_folder(folder) as temporary:
                options = ("--python", sys.executable, "--target", str(temporary), "--require-hashes")
                uv.run(
                    ("pip", "install", *options, "-r", str(lock)),
                    EngineError(
                        f"pytest could not be installed from {lock.name}.",
                        hint="The lines above are uv's, which takes a proxy from HTTPS_PROXY and a mirror"
                        " from UV_DEFAULT_INDEX. Then run the command again.",
                    ),
                )
                _let_all_read(temporary)
    return folder


def _let_all_read(folder: Path) -> None:
    """A container's user is another one."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
