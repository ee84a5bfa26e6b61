"""upgrade."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipectl.commands.shared import group, line
from pipectl.errors import UsageError
from pipectl.names import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipectl.invocation import Invocation
    from pipectl.pipeline.upgrading import FileChange, Upgrade

# What each action says of a file, before and after it.
ACTIONS = {
    "added": ("would be added", "added"),
    "updated": ("would be updated", "updated"),
    "merged": ("would be merged with your changes", "merged with your changes"),
    "deleted": ("would be deleted", "deleted"),
    "conflict": ("contradicts your changes", "contradicts your changes"),
    "kept": ("is needed no longer, and stays since you changed it",) * 2,
}
STYLES = {"conflict": "yellow"}

Document: TypeAlias = "Upgrade"


def upgrade(
    ctx: typer.Context,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the changes as a diff, and make none.")
    ] = False,
) -> None:
    """Bring the project's files to this pipectl, with your own changes merged in.

    Files that you did not change are replaced. If your lines and the new ones contradict each other, your
    file stays, and the new one stands beside it as FILE.new. `up` then migrates settings and databases.

    Examples: `pipectl upgrade --dry-run` · `pipectl upgrade`
    """
    invocation: Invocation = ctx.obj
    from pipectl.pipeline import upgrading  # noqa: PLC0415  20 ms

    project = invocation.settings.project
    if not dry_run:
        invocation.if_interrupted = "The same command goes on with the files that are left."
    result = upgrading.upgrade(project, dry_run=dry_run)
    invocation.if_interrupted = ""
    invocation.console.emit(result, lambda: result_text(result))
    if result.conflicts and not dry_run:
        raise UsageError(
            f"{counted(len(result.conflicts), 'file')} could not be merged.",
            hint="Take what you need from each FILE.new into FILE, delete FILE.new, then: pipectl up",
        )


def result_text(result: Upgrade) -> RenderableType:
    """Return a line per file, before it was changed with its diff, and what to type next."""
    if not result.changes:
        return line(f"Nothing to change: the project's files are those of pipectl {result.after}.")
    parts = []
    for change in result.changes:
        parts.append(line(_sentence(change, is_done=not result.dry_run), STYLES.get(change.action, "")))
        if result.dry_run and change.diff and change.action not in {"added", "deleted"}:
            parts.append(line(change.diff))
    files = counted(len(result.changes), "file")
    if result.dry_run:
        parts.append(line(f"From pipectl {result.before} to {result.after}: {files}. Nothing was changed."))
        parts.append(line("To change them: pipectl upgrade"))
    else:
        parts.append(line(f"From pipectl {result.before} to {result.after}: {files}."))
        if not result.conflicts:
            parts.append(line("What runs takes them with: pipectl up"))
    return group(*parts)


def _sentence(change: FileChange, *, is_done: bool) -> str:
    beside = f": the new one is {change.path}.new" if is_done and change.action == "conflict" else ""
    lines = f" (+{change.lines_added:,} -{change.lines_removed:,})" if change.action != "kept" else ""
    return f"{change.path} {ACTIONS[change.action][is_done]}{beside}{lines}"
