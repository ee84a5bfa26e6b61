"""upgrade."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipectl.commands.check import result_text as check_text
from pipectl.commands.shared import Progress, group, line, table
from pipectl.errors import DagError, EngineError, RunFailedError, UsageError
from pipectl.names import counted, duration, shell

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipectl.invocation import Invocation
    from pipectl.pipeline.airflow_trial import Trial
    from pipectl.pipeline.upgrading import FileChange, Upgrade

# What each action says of a file, before and after it.
ACTIONS = {
    "added": ("would be added", "added"),
    "updated": ("would be updated", "updated"),
    "merged": ("would be merged with your changes", "merged with your changes"),
    "deleted": ("would be deleted", "deleted"),
    "conflict": ("contradicts your changes", "contradicts your changes"),
    "kept": ("is needed no longer, and stays since you changed it",) * 2,
    "absent": ("is changed in the new version, and stays away since you deleted or renamed it",) * 2,
}
LOCK = "stack/airflow-requirements.txt"
STYLES = {"conflict": "yellow", "passed": "green", "skipped": "yellow", "failed": "bold red"}

Document: TypeAlias = "Upgrade | Trial"  # the latter with --try-airflow


def upgrade(
    ctx: typer.Context,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the changes as a diff, and make none.")
    ] = False,
    try_airflow: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION",
            help="Try a later Airflow on a copy of the project and of its metadata, and change nothing.",
        ),
    ] = None,
) -> None:
    """Bring the project's files to this pipectl, with your own changes merged in.

    Files that you did not change are replaced. If your lines and the new ones contradict each other, your
    file stays, and the new one stands beside it as FILE.new. `up` then migrates settings and databases.

    Examples: `pipectl upgrade --dry-run` · `pipectl upgrade` · `pipectl upgrade --try-airflow 3.4.0`
    """
    invocation: Invocation = ctx.obj
    if try_airflow is not None:
        if dry_run:
            raise UsageError("--try-airflow changes nothing, so that there is no --dry-run of it.")
        _try_airflow(invocation, try_airflow)
        return
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


def _try_airflow(invocation: Invocation, version: str) -> None:
    from pipectl.pipeline import airflow_trial  # noqa: PLC0415  100 ms

    engine, settings = invocation.engine, invocation.settings
    invocation.if_interrupted = "The trial is deleted, and the project is as it was."
    result = airflow_trial.try_airflow(engine, settings, version, Progress(invocation.console))
    invocation.if_interrupted = ""
    invocation.console.emit(result, lambda: trial_text(result))
    hint = f"Mend it for Airflow {result.after}, then type the same command again. The project is as it was."
    if result.check.errors:
        raise DagError(f"Airflow {result.after} refuses what the lines above name.", hint=hint)
    if result.tests.outcome == "failed":
        raise DagError(
            f"The project's tests fail with Airflow {result.after}.", hint=hint, detail=result.tests.detail
        )
    if result.migration.outcome == "failed":
        raise EngineError(result.migration.message, hint=hint, detail=result.migration.detail)
    if result.run.outcome == "failed":
        raise RunFailedError(
            f"The run fails with Airflow {result.after}.", hint=hint, detail=result.run.detail
        )


def trial_text(result: Trial) -> RenderableType:
    """Return what changes, what each step found, and what to type next if all is well."""
    steps = {"tests": result.tests, "migration": result.migration, "run": result.run}
    parts = [
        table(
            "Package",
            result.before,
            result.after,
            rows=[(each.name, each.before or "-", each.after or "-") for each in result.packages],
        ),
        check_text(result.check),
        *(
            line(
                f"{name} {step.outcome} ({duration(step.seconds)}): {step.message}",
                STYLES.get(step.outcome, ""),
            )
            for name, step in steps.items()
        ),
    ]
    if result.check.errors or any(step.outcome == "failed" for step in steps.values()):
        return group(*parts)
    take = (
        f"AIRFLOW_IMAGE=apache/airflow:{result.after} in stack/.env, then: pipectl up"
        if result.engine == "docker"
        else f"{shell('cp', result.lock, result.project / LOCK)} && pipectl up"
    )
    return group(
        *parts,
        line(f"The project was not touched. Its metadata database does not go back from {result.after}."),
        line(f"Save it first: pipectl snapshot save before-airflow-{result.after}"),
        line(f"To change to Airflow {result.after}: {take}"),
    )


def result_text(result: Upgrade) -> RenderableType:
    """Return a line per file, before it was changed with its diff, and what to type next."""
    if not result.changes:
        nothing = line(f"Nothing to change: the project's files are those of pipectl {result.after}.")
        return group(nothing, *_left_to_merge(result.unmerged))
    parts = []
    for change in result.changes:
        parts.append(line(_sentence(change, is_done=not result.dry_run), STYLES.get(change.action, "")))
        if result.dry_run and change.diff and change.action not in {"added", "deleted"}:
            parts.append(line(change.diff))
    files = counted(len(result.changes), "file")
    earlier = tuple(path for path in result.unmerged if path not in result.conflicts)
    parts += _left_to_merge(earlier)
    if result.dry_run:
        parts.append(line(f"From pipectl {result.before} to {result.after}: {files}. Nothing was changed."))
        parts.append(line("To change them: pipectl upgrade"))
    else:
        parts.append(line(f"From pipectl {result.before} to {result.after}: {files}."))
        if not result.conflicts:
            parts.append(line("What runs takes them with: pipectl up"))
    return group(*parts)


def _left_to_merge(paths: tuple[str, ...]) -> list[RenderableType]:
    return [
        line(f"{path}.new is still to be merged into {path}; delete it then.", STYLES["conflict"])
        for path in paths
    ]


def _sentence(change: FileChange, *, is_done: bool) -> str:
    beside = f": the new one is {change.path}.new" if is_done and change.action == "conflict" else ""
    lines = f" (+{change.lines_added:,} -{change.lines_removed:,})" if change.action != "kept" else ""
    return f"{change.path} {ACTIONS[change.action][is_done]}{beside}{lines}"
