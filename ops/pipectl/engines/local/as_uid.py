"""Replace this process of root by a program of another uid, which reaches no closed folders but its own.

    as_uid.py UID PROGRAM WORD...

A folder that others may not enter, as /root, hides what lies in it from every ordinary user. In a mount
namespace of this process alone each such folder is covered by an empty one, which holds the folders that
the command names, at their places. The uid has no account. PostgreSQL's initdb asks for its user's name, so
the namespace, and nothing else, sees an /etc/passwd with a line for it. Standard library only, run with
`python -I -S`: 15 ms. Ends with an error if mounting is forbidden, as in most containers, or if the
container's own user namespace has no such uid.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys

LEVELS = 4
CLONE_NEWNS = 0x00020000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
MNT_DETACH = 2
PASSWD = "/etc/passwd"  # noqa: S105  the name of a file
LIBC = ctypes.CDLL(None, use_errno=True)


def call(function: str, *arguments: object) -> None:
    """Call a function of the C library; OSError if it fails."""
    if getattr(LIBC, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def closed_parent(path: str) -> str:
    """Return the topmost folder on the way to `path` that others may not enter, empty if all let them."""
    parts = os.path.abspath(path).split("/")[1:-1]  # noqa: PTH100  pathlib alone costs 10 ms here
    for count in range(1, len(parts) + 1):
        folder = "/" + "/".join(parts[:count])
        if not os.stat(folder).st_mode & stat.S_IXOTH:  # noqa: PTH116  as above
            return folder
    return ""


def open_the_way(folders: list[str]) -> None:
    """Let everybody of this process's new mount namespace reach the folders. Raises OSError."""
    umask = os.umask(0o022)
    closed = {folder: parent for folder in folders if (parent := closed_parent(folder))}
    call("unshare", CLONE_NEWNS)
    call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    opened = {folder: os.open(folder, os.O_PATH | os.O_DIRECTORY) for folder in closed}
    for parent in sorted(set(closed.values())):
        call("mount", b"none", os.fsencode(parent), b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=755,size=64k")
    # What lies above comes first.
    for folder in sorted(closed):
        os.makedirs(folder, 0o755, exist_ok=True)  # noqa: PTH103  as above
        place = f"/proc/self/fd/{opened[folder]}".encode()
        call("mount", place, os.fsencode(folder), None, MS_BIND | MS_REC, None)
    for descriptor in opened.values():
        os.close(descriptor)
    os.umask(umask)


def enter_account(uid: int) -> None:
    """Give the uid a line in the /etc/passwd of this process's own mount namespace. Raises OSError."""
    passwd = os.open(PASSWD, os.O_RDONLY)
    with os.fdopen(os.dup(passwd), "rb") as file:
        accounts = file.read().rstrip(b"\n")
    folder = os.path.dirname(PASSWD)  # noqa: PTH120  as above
    call("mount", b"none", folder.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=755")
    with open(PASSWD, "wb") as file:  # noqa: PTH123  as above
        file.write(b"%s\npipectl-%d:x:%d:%d::/:/bin/false\n" % (accounts, uid, uid, uid))
        os.fchmod(file.fileno(), 0o644)
    # The file of before, which the folder covers, is known by its descriptor.
    call("mount", PASSWD.encode(), f"/proc/self/fd/{passwd}".encode(), None, MS_BIND, None)
    call("umount2", folder.encode(), MNT_DETACH)
    os.close(passwd)


def folders_of(words: list[str], library_path: str) -> list[str]:
    """Return the folders of a command's files, of its libraries, and of its program's installation."""
    folders = set()
    for path in [word.rpartition("=")[2] for word in words[1:]] + library_path.split(":"):
        if path[:1] == "/":
            folders.add(path if os.path.isdir(path) else os.path.dirname(path))  # noqa: PTH112, PTH120  as above
    # A wheel keeps shared libraries beside the package in which bin/ lies.
    installation = words[0]
    for _ in range(LEVELS):
        installation = os.path.dirname(installation)  # noqa: PTH120  as above
    if os.stat(installation).st_mode & stat.S_IXOTH:  # noqa: PTH116  as above
        folders.add(installation)
    else:
        with os.scandir(installation) as entries:
            folders |= {entry.path for entry in entries if entry.is_dir()}
    return sorted(folders - {"", "/"})


def main(uid: int, words: list[str]) -> None:
    """Become the program, whose path is absolute."""
    open_the_way(folders_of(words, os.environ.get("LD_LIBRARY_PATH", "")))
    enter_account(uid)
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    # Not execvp: Python's own files may be out of reach by now.
    os.execv(words[0], words)  # noqa: S606  no shell is wanted


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
