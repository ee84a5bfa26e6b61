"""up."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from pipectl import options
from pipectl.commands.shared import (
    Progress,
    StartProgress,
    commands_text,
    group,
    import_failures_text,
    line,
    say_commands,
)
from pipectl.errors import EngineError, MigrationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from pipectl.invocation import Invocation
    from pipectl.pipeline.lifecycle import MovedPort, UpResult

# The container that migrates, as a message names it.
MIGRATES = "'airflow-init'"

Document: TypeAlias = "UpResult | UpDryRun"


@dataclass(frozen=True, kw_only=True)
class UpDryRun:
    """What `up --dry-run` prints: services, and the docker commands that do the same.

    `would_restart` has those that run with what has changed for each, `would_install` what this machine
    lacks, in words, `would_remove` also packages that requirements.txt no longer needs, and `would_move` the
    services whose port is taken; `notes` are sentences.
    """

    would_run: tuple[str, ...] = field(default=(), metadata={"optional": True})
    would_install: tuple[str, ...]
    would_start: tuple[str, ...]
    would_restart: dict[str, str]
    would_remove: tuple[str, ...]
    would_move: dict[str, MovedPort]
    notes: tuple[str, ...] = field(default=(), metadata={"optional": True})


def up(
    ctx: typer.Context,
    *,
    executor: Annotated[
        Literal["local", "celery"] | None,
        typer.Option(help="local: tasks run beside the scheduler. celery (Docker): in workers. Remembered."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="Celery workers to run. Remembered.")
    ] = None,
    dry_run: options.DryRun = False,
    timeout: options.UpTimeout = options.UP_SECONDS,
) -> None:
    """Start what is not running, and wait until all is healthy and the DAG is parsed.

    Examples: `pipectl up` · `pipectl up --json` · `pipectl up --executor celery --workers 2`
    """
    invocation: Invocation = ctx.obj
    if dry_run:
        from pipectl.pipeline.lifecycle import MovedPort  # noqa: PLC0415  with what it imports 60 ms

        engine = invocation.engine
        found = engine.plan(Progress(invocation.console), executor=executor, workers=workers)
        plan = UpDryRun(
            would_run=engine.equivalent("up"),
            would_install=found.installs,
            would_start=found.starts,
            would_restart=dict(found.restarts),
            would_remove=found.removes,
            would_move={name: MovedPort(*ports) for name, ports in found.moves.items()},
            notes=found.notes,
        )
        invocation.console.emit(plan, lambda: _dry_run_text(plan))
        return
    invocation.engine.resize(executor=executor, workers=workers)
    start(invocation, timeout)


def start(invocation: Invocation, timeout: float) -> None:
    """Start the stack with what the engine remembers, and show the result."""
    from pipectl.pipeline import lifecycle  # noqa: PLC0415  with what it imports 60 ms

    say_commands(invocation, "up")
    invocation.if_interrupted = "What was started goes on: pipectl status. The same command starts the rest."
    with naming_snapshots(invocation), StartProgress(invocation.console).shown() as observer:
        result = lifecycle.up(
            invocation.engine, invocation.settings.dag_id, timeout=timeout, observer=observer
        )
    invocation.console.emit(result, lambda: result_text(result))


@contextmanager
def naming_snapshots(invocation: Invocation) -> Iterator[None]:
    """Say which snapshots there are if the metadata database cannot be migrated in the block."""
    try:
        yield
    except EngineError as error:
        if isinstance(error, MigrationError) or MIGRATES in error.message:
            from pipectl.pipeline.snapshot_store import Store  # noqa: PLC0415  20 ms

            error.hint = "\n".join(filter(None, (error.hint, Store(invocation.settings).hint())))
        raise


def result_text(result: UpResult) -> RenderableType:
    """Return what a user needs after `up`: address, login and ports, also those that were taken."""
    default = result.user == result.password == "admin"
    login = f"{result.user} / {result.password}" if default else f"{result.user}, password in stack/.env"
    moved = {name: f" ({ports.wanted} is taken)" for name, ports in result.moved_ports.items()}
    ports = ", ".join(f"{name} {port}{moved.get(name, '')}" for name, port in result.ports.items())
    changed = result.started or result.removed
    summary = f"Up in {result.seconds:.1f} s" if changed else "Everything ran already"
    lines = [
        line(f"{summary} ({result.engine} engine)", "bold green"),
        line(f"  Airflow   {result.url}   login {login}"),
        line(f"  Ports     {ports}, all on 127.0.0.1"),
    ]
    if result.removed:
        lines.append(line(f"  Removed   {', '.join(result.removed)}"))
    lines += [line(f"  {note}", "yellow") for note in result.notes]
    lines += import_failures_text(result.import_failures)
    lines.append(line("  Next      pipectl trigger, pipectl status, pipectl down"))
    return group(*lines)


def _dry_run_text(plan: UpDryRun) -> RenderableType:
    lines = [f"Would be installed: {what}." for what in plan.would_install]
    lines.append(f"Would be started: {', '.join(plan.would_start) or 'nothing'}.")
    by_change: dict[str, list[str]] = {}
    for name, change in plan.would_restart.items():
        by_change.setdefault(change, []).append(name)
    lines += [f"Would be restarted: {', '.join(names)}: {change}." for change, names in by_change.items()]
    if plan.would_remove:
        lines.append(f"Would be removed: {', '.join(plan.would_remove)}.")
    lines += [
        f"Port {port.wanted} of {name} is taken: {port.used} would be used."
        for name, port in plan.would_move.items()
    ]
    notes = (line(note, "yellow") for note in plan.notes)
    return group(*map(line, lines), *commands_text(plan.would_run), *notes)
