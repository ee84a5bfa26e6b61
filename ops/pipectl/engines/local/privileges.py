"""Database servers never run as root: how a root user drops privileges for them.

First choice is a server that really is nobody, in a mount namespace in which its folders can be reached
(as_nobody.py). If mounting is forbidden (most containers), a user namespace: the server sees itself as
nobody, while to the kernel it is still root without rights, and its files stay root's. If that is forbidden
too, setpriv switches to nobody, and the one capability kept lets the server pass parent folders that are
closed to others. The data folder's owner is changed to whom the server runs as.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipectl import surroundings
from pipectl.errors import EngineError

NOBODY = 65534
# The base interpreter: the one of a virtual environment may lie in a project's folder, which may move.
MOUNT_NAMESPACE = (
    getattr(sys, "_base_executable", sys.executable),
    *("-I", "-S", str(Path(__file__).with_name("as_nobody.py"))),
)
USER_NAMESPACE = ("unshare", "-U", f"--map-user={NOBODY}", f"--map-group={NOBODY}")


@dataclass(frozen=True)
class Privileges:
    """How servers are started. `prefix` goes before a command and ends in exec, so the server keeps its pid.

    `owner` is the uid, and gid, that the server's files must have on disk.
    """

    prefix: tuple[str, ...]
    owner: int


@cache
def privileges() -> Privileges:
    """Find out, once per process, how this user starts servers.

    Raises:
        EngineError: root, and nothing on this machine can drop privileges; or a user without a name.

    """
    if os.geteuid() != 0:
        if surroundings.has_account():
            return Privileges((), os.geteuid())
        # initdb asks for the user's name; in a namespace the user is nobody, who has one.
        if _works(USER_NAMESPACE):
            return Privileges(USER_NAMESPACE, os.geteuid())
        raise EngineError(
            f"This user, uid {os.geteuid()}, has no entry in /etc/passwd, and PostgreSQL asks for its name.",
            hint="Add an entry for it, or give it one through nss_wrapper (LD_PRELOAD, NSS_WRAPPER_PASSWD).",
        )
    if _works(MOUNT_NAMESPACE):
        return Privileges(MOUNT_NAMESPACE, NOBODY)
    if _works(USER_NAMESPACE):
        return Privileges(USER_NAMESPACE, 0)
    for capability in ("dac_read_search", "dac_override"):
        switched = _setpriv(capability)
        if _works(switched):
            return Privileges(switched, NOBODY)
    raise EngineError(
        "The databases refuse to run as root, and neither unshare nor setpriv can drop privileges here.",
        hint="Run pipectl as a normal user.",
    )


def drop_prefix() -> tuple[str, ...]:
    """Words to put before a server's command: none for a normal user. Raises EngineError as `privileges`."""
    return privileges().prefix


def change_owner(folder: Path) -> None:
    """Change the owner of `folder` and all in it to the user that servers run as.

    Raises:
        EngineError: the folder is another user's, and this user may not change that.

    """
    owner = privileges().owner
    if folder.stat().st_uid == owner:
        return
    try:
        for parent, directories, files in os.walk(folder):
            for name in (*directories, *files):
                _chown(os.path.join(parent, name), owner)  # noqa: PTH118  os.walk's strings, thousands
        _chown(folder, owner)  # last, so that an interrupted change is taken up again
    except PermissionError as error:
        raise EngineError(
            f"The data folder {folder} belongs to another user.",
            hint="Run pipectl as the user who made it, or remove it: pipectl reset",
        ) from error


def _chown(path: Path | str, owner: int) -> None:
    os.chown(path, owner, owner, follow_symlinks=False)


def _setpriv(capability: str) -> tuple[str, ...]:
    return (
        "setpriv",
        f"--reuid={NOBODY}",
        f"--regid={NOBODY}",
        "--clear-groups",
        "--securebits=+no_setuid_fixup",  # else access(2) ignores the capability
        f"--inh-caps=-all,+{capability}",
        f"--ambient-caps=-all,+{capability}",
    )


def _works(prefix: tuple[str, ...]) -> bool:
    if shutil.which(prefix[0]) is None:
        return False
    probe = subprocess.run(
        (*prefix, shutil.which("true") or "true"),
        capture_output=True,
        check=False,
        env=surroundings.environment(),
    )
    return probe.returncode == 0
