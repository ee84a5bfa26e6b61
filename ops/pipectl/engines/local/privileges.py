"""Database servers never run as root: how a root user drops privileges for them.

First choice is a server with a uid of its own, which no account has, in a mount namespace in which its
folders can be reached (as_uid.py). `nobody` will not do: other daemons run as it too, and each of them could
enter the data folder through /proc and become the database's superuser. If mounting is forbidden (most
containers), a user namespace: the server sees itself as nobody, while to the kernel it is still root without
rights, and its files stay root's. If that is forbidden too, setpriv switches to nobody, whose name initdb
asks for, and the one capability kept lets the server pass parent folders that are closed to others. The data
folder's owner is changed to whom the server runs as.
"""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipectl import surroundings
from pipectl.errors import EngineError

NOBODY = 65534
# Above what systemd gives to users, services and containers, and below what a signed number holds.
FIRST_UID, UIDS = 0x70000000, 0x0FFFFFFF
# The base interpreter: the one of a virtual environment may lie in a project's folder, which may move.
MOUNT_NAMESPACE = (
    getattr(sys, "_base_executable", sys.executable),
    *("-I", "-S", str(Path(__file__).with_name("as_uid.py"))),
)
USER_NAMESPACE = ("unshare", "-U", f"--map-user={NOBODY}", f"--map-group={NOBODY}")


@dataclass(frozen=True)
class Privileges:
    """How servers are started. `prefix` goes before a command and ends in exec, so the server keeps its pid.

    `owner` is the uid, and gid, that the server's files must have on disk; None if each server has its own,
    which then ends the prefix.
    """

    prefix: tuple[str, ...]
    owner: int | None


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
    if _works((*MOUNT_NAMESPACE, str(FIRST_UID))):
        return Privileges(MOUNT_NAMESPACE, None)
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


def own_uid(data_dir: Path) -> int:
    """Return the uid, and gid, of the server of `data_dir`: no account or group has it, nor another server.

    It follows from the folder that `data_dir` lies in, so a copy of a project gets others.
    """
    digest = hashlib.sha256(os.fsencode(data_dir.parent)).digest()
    number = int.from_bytes(digest[:8], "big") % UIDS
    while _is_taken(FIRST_UID + number):
        number = (number + 1) % UIDS
    return FIRST_UID + number


def drop_prefix(data_dir: Path) -> tuple[str, ...]:
    """Words to put before the command of a server or tool that works in `data_dir`: none for a normal user.

    Raises EngineError as `privileges`.
    """
    way = privileges()
    return way.prefix if way.owner is not None else (*way.prefix, str(own_uid(data_dir)))


def change_owner(data_dir: Path) -> None:
    """Change the owner of `data_dir` and all in it to the user that its server runs as.

    Raises:
        EngineError: the folder is another user's, and this user may not change that.

    """
    way = privileges()
    owner = own_uid(data_dir) if way.owner is None else way.owner
    if data_dir.stat().st_uid == owner:
        return
    try:
        # By descriptors: whom the folder belongs to until now could put a link in the place of a folder.
        for _, directories, files, folder in os.fwalk(data_dir):
            for name in (*directories, *files):
                os.chown(name, owner, owner, dir_fd=folder, follow_symlinks=False)
        # Last, so that an interrupted change is taken up again.
        os.chown(data_dir, owner, owner, follow_symlinks=False)
    except PermissionError as error:
        raise EngineError(
            f"The data folder {data_dir} belongs to another user.",
            hint="Run pipectl as the user who made it, or remove it: pipectl reset",
        ) from error


def _is_taken(number: int) -> bool:
    """Whether an account or a group has the number."""
    for find in (pwd.getpwuid, grp.getgrgid):
        try:
            find(number)
        except KeyError:
            continue
        return True
    return False


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
