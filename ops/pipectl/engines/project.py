"""What every engine keeps for a project: one command at a time, its secrets, and who ran it last."""

from __future__ import annotations

import json
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pipectl import ordinary
from pipectl.engines import registry
from pipectl.engines.claims import lock_file
from pipectl.env_file import EnvFile
from pipectl.errors import EngineError, UsageError, remedy
from pipectl.names import command, shell
from pipectl.settings import LASTING, kept_path
from pipectl.surroundings import project_above

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pipectl.engines.claims import Claims
    from pipectl.observer import Observer
    from pipectl.settings import Settings

# In a project of a user's own: the files that it began with.
RECORD = "stack/scaffold.zip"
ENGINE_FILE = "engine"
LOCK = "lock"
LINUX_FILES = {".sh", ".cnf", ".conf", ".sql"}
OURS = ("AIRFLOW_", "AIRBYTE_", "PIPECTL_")
ALIKE = 0.8


def new_password(random_bytes: int = 24) -> str:
    """Return a random password, none of whose characters needs quoting in stack/.env or in a URL."""
    from secrets import token_urlsafe  # noqa: PLC0415  5 ms, for a first start alone

    return token_urlsafe(random_bytes)


def new_fernet_key() -> str:
    """Return a key of the form that Airflow's encryption asks for: 32 bytes in base64."""
    return f"{new_password(32)}="


class Secret(NamedTuple):
    """What makes a secret, and what is lost with it although its data is there."""

    make: Callable[[], str]
    loss: str = ""


# Variables of stack/.env that every engine fills in once per project.
SECRETS = {
    "AIRFLOW_JWT_SECRET": Secret(lambda: new_password(48), "Whoever is logged in to Airflow logs in again."),
    "AIRFLOW_API_SECRET_KEY": Secret(lambda: new_password(32)),
    "AIRFLOW_FERNET_KEY": Secret(
        new_fernet_key,
        "Airflow cannot read the passwords of connections and variables that were entered in it:"
        " enter them again.",
    ),
    "AIRFLOW_POSTGRES_PASSWORD": Secret(new_password),
    "AIRBYTE_REPLICATION_PASSWORD": Secret(
        new_password, "Airbyte's sources need the new password: pipectl connections --show-secrets."
    ),
}


def keep_settings(settings: Settings) -> None:
    """Copy the settings of a start to .pipectl, for the case that stack/.env is lost."""
    kept = {
        name: value
        for name, value in settings.variables.items()
        if name in LASTING or name not in settings.from_environment
    }
    folder = state_folder(settings)
    try:
        write_private(kept_path(settings.project), json.dumps(kept))
    except OSError as error:
        raise _not_writable(folder, error) from error


def write_private(path: Path, content: str | bytes) -> None:
    """Write a file that may hold secrets: readable by its owner from the start, and never half-written."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
    temporary.replace(path)


def folder_mark(folder: Path) -> str:
    """Return what a folder keeps when it is moved, and what a copy of it has not: its inode."""
    status = folder.stat()
    return f"{status.st_dev:x}-{status.st_ino:x}"


@contextmanager
def project_lock(settings: Settings, claims: Claims) -> Iterator[None]:
    """Keep a second command that changes the stack out, and release `claims` in the end.

    Raises EngineError if another command is under way.
    """
    folder = state_folder(settings)
    try:
        descriptor = lock_file(folder / LOCK)
    except OSError as error:
        raise _not_writable(folder, error) from error
    if descriptor is None:
        raise EngineError(
            f"Another pipectl command is changing the stack of {settings.project}.",
            hint="Wait for its end, or stop it with Ctrl-C, then run this one again.",
        )
    try:
        with claims:
            yield
    finally:
        os.close(descriptor)


def is_locked(settings: Settings) -> bool:
    """Whether another command is changing the stack."""
    return _is_held(settings.state_dir / LOCK)


def _is_held(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        descriptor = lock_file(path)
    except OSError:
        return False
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is None


@dataclass(frozen=True)
class Leftover:
    """What an interrupted command has left; `is_safe` if the remedy loses nothing and stops nothing."""

    what: str
    remedy: str
    is_safe: bool = False


def drafts(settings: Settings) -> list[Path]:
    """Return files and folders of which a command that was interrupted had not made the final one yet."""
    stack, state = settings.env_path.parent, settings.state_dir
    # Files of these names are moved into place in the moment in which they are whole.
    found = [*stack.glob(".env.????????"), *state.glob("*.json.new")]
    for name in ("run", "volumes", "snapshots"):
        found += state.glob(f"{name}/*.new")
    cache = settings.cache_dir
    folders = [state, state / "volumes", state / "snapshots"]
    if not any(map(_is_held, cache.glob("*.lock"))):
        folders.append(cache)
    for folder in folders:
        found += [*folder.glob(".*.new-*"), *folder.glob(".*.deleted")]
    return sorted(found)


def check(settings: Settings, observer: Observer) -> None:
    """Look before a start at what would fail later; say which lines of stack/.env nothing reads.

    Raises UsageError.
    """
    settings.check()
    require_unix_line_ends(settings)
    for sentence in unknown_names(settings):
        observer.report(sentence)


def unknown_names(settings: Settings) -> Iterator[str]:
    """Yield a sentence for each name in stack/.env that is ours, or almost, and not in .env.example."""
    try:
        example = ordinary.read_text(settings.env_path.with_name(".env.example"))
    except (OSError, UnicodeDecodeError):
        return
    known = re.findall(r"^# ([A-Z][A-Z0-9_]*)=", example, re.MULTILINE)
    unknown = EnvFile(settings.env_path).read().keys() - set(known)
    if unknown:
        from difflib import get_close_matches  # noqa: PLC0415  5 ms, for a mistake alone
    for name in unknown:
        near = get_close_matches(name.upper(), known, n=1, cutoff=ALIKE)
        if name.startswith("AIRFLOW__"):
            yield f"stack/.env sets {name}, which Airflow takes from stack/airflow/user.env alone."
        elif near or name.startswith(OURS):
            nearest = f"; the nearest name is {near[0]}" if near else ""
            yield f"stack/.env sets {name}, which is no setting of pipectl{nearest}."


def with_windows_line_ends(settings: Settings) -> tuple[Path, ...]:
    """Return the files that Linux reads and that were converted to Windows' line ends."""
    stack = settings.project / "stack"
    files = [path for path in stack.rglob("*") if path.suffix in LINUX_FILES]
    return tuple(
        path
        for path in (settings.project / "entrypoint.sh", *files)
        if path.is_file() and b"\r\n" in path.read_bytes()
    )


def require_unix_line_ends(settings: Settings) -> None:
    """Raise UsageError if there is such a file."""
    for path in with_windows_line_ends(settings):
        raise UsageError(
            f"{path} has Windows line ends (CRLF), with which Linux and the servers cannot read it.",
            hint=f"Get it back with its own: {shell('rm', path)} && {restoring(path)}",
        )


def restoring(*paths: Path) -> str:
    """Return the command that brings deleted files of a project back.

    They come from git, or without a repository from what the project began with.
    """
    project = project_above(paths[0].parent) or paths[0].parent
    is_in_git = any((folder / ".git").exists() for folder in (project, *project.parents))
    if (project / RECORD).exists() and not is_in_git:
        return command("init", str(project))
    return shell("git", "-C", project, "checkout", "--", *(path.relative_to(project) for path in paths))


def remember_engine(settings: Settings, name: str) -> None:
    """Note which engine runs the project, so that `auto` goes on with it, and `projects` lists it."""
    folder = state_folder(settings)
    project_id = settings.variables.get("PIPECTL_PROJECT_ID") or ""
    registry.note(settings, name, folder_mark(settings.project), project_id)
    if remembered_engine(settings) == name:
        return
    try:
        (folder / ENGINE_FILE).write_text(f"{name}\n", encoding="ascii")
    except OSError as error:
        raise _not_writable(folder, error) from error


def forget_engine(settings: Settings, name: str) -> None:
    """Let `auto` choose anew, and secrets be new, once no data of the project is left on the engine."""
    registry.forget(settings, name, folder_mark(settings.project))
    kept_path(settings.project).unlink(missing_ok=True)
    (settings.state_dir / ENGINE_FILE).unlink(missing_ok=True)


def remembered_engine(settings: Settings) -> str:
    """Return the engine that ran the project last, empty if none did."""
    try:
        return ordinary.read_text(settings.state_dir / ENGINE_FILE, "ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def state_folder(settings: Settings) -> Path:
    """Make the project's own folder, which git ignores; EngineError if that is not allowed."""
    folder = settings.state_dir
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        ignore = folder / ".gitignore"
        # Not written anew: on a full disk, `down` still works.
        if not ignore.exists():
            ignore.write_text("*\n", encoding="ascii")
    except OSError as error:
        raise _not_writable(folder, error) from error
    return folder


def _not_writable(folder: Path, error: OSError) -> EngineError:
    return EngineError(
        f"{folder} cannot be written: {error.strerror}.",
        hint=remedy(error, folder),
    )
