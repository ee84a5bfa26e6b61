"""up, down, reset, scale, status, logs, open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipectl import options
from pipectl.commands import rendering
from pipectl.console import words
from pipectl.errors import UsageError

if TYPE_CHECKING:
    from pipectl.invocation import Invocation
    from pipectl.models import Volume

# How long `reset --data-only` waits for a run that is in the middle of its work.
ACTIVE_RUN_SECONDS = 120.0


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    for command in (up, down, reset, scale, status, logs):
        app.command()(command)
    app.command("open")(open_ui)


def up(
    ctx: typer.Context,
    *,
    executor: Annotated[
        str | None,
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
        _emit_dry_run(invocation, "up")
        return
    invocation.engine.resize(executor=executor, workers=workers)
    _up(invocation, timeout)


def scale(
    ctx: typer.Context,
    workers: Annotated[int, typer.Argument(min=1, max=64, help="Celery workers to run.")],
    *,
    timeout: options.UpTimeout = options.UP_SECONDS,
) -> None:
    """Run this many Celery workers, and wait until they are healthy. Needs `up --executor celery`.

    A worker that is taken away ends its tasks first.

    Examples: `pipectl scale 3` · `pipectl scale 1 --json`
    """
    invocation: Invocation = ctx.obj
    invocation.engine.resize(executor=None, workers=workers)
    _up(invocation, timeout)


def _up(invocation: Invocation, timeout: float) -> None:
    from pipectl.pipeline import lifecycle  # noqa: PLC0415  with what it imports 60 ms

    _say_equivalent(invocation, "up")
    with rendering.StartProgress(invocation.console).shown() as observer:
        result = lifecycle.up(
            invocation.engine, invocation.settings.dag_id, timeout=timeout, observer=observer
        )
    invocation.console.emit(rendering.up_json(result), lambda: rendering.up_text(result))


def down(
    ctx: typer.Context,
    *,
    volumes: Annotated[bool, typer.Option("--volumes", help="Delete this project's data too.")] = False,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
) -> None:
    """Stop everything; the data stays unless --volumes is given.

    Examples: `pipectl down` · `pipectl down --volumes --yes`
    """
    invocation: Invocation = ctx.obj
    from pipectl.pipeline import lifecycle  # noqa: PLC0415  with what it imports 60 ms

    action = "down --volumes" if volumes else "down"
    if dry_run:
        _emit_dry_run(invocation, action)
        return
    if volumes:
        _agree(invocation, invocation.engine.volumes(), action, yes=yes)
    _say_equivalent(invocation, action)
    stopped, deleted = lifecycle.down(invocation.engine, delete_volumes=volumes)
    invocation.console.emit(
        {"engine": invocation.engine.name, "stopped": stopped, "deleted": deleted},
        lambda: rendering.down_text(stopped, deleted),
    )


def reset(
    ctx: typer.Context,
    *,
    data_only: Annotated[
        bool, typer.Option("--data-only", help="Empty the two business databases, leave Airflow running.")
    ] = False,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    timeout: options.UpTimeout = options.UP_SECONDS,
) -> None:
    """Stop, delete this project's data and no other, start again with empty databases.

    Examples: `pipectl reset --dry-run` · `pipectl reset --yes` · `pipectl reset --data-only --yes`
    """
    invocation: Invocation = ctx.obj
    from pipectl.pipeline import lifecycle  # noqa: PLC0415  with what it imports 60 ms

    engine, console = invocation.engine, invocation.console
    if data_only:
        _reset_data(invocation, dry_run=dry_run, yes=yes)
        return
    found = engine.volumes()
    if dry_run:
        _emit_dry_run(invocation, "reset")
        return
    _agree(invocation, found, "reset", yes=yes)
    _say_equivalent(invocation, "reset")
    with rendering.StartProgress(invocation.console).shown() as observer:
        result = lifecycle.reset(engine, invocation.settings.dag_id, timeout=timeout, observer=observer)
    console.emit(rendering.reset_json(result), lambda: rendering.reset_text(result))


def _reset_data(invocation: Invocation, *, dry_run: bool, yes: bool) -> None:
    from pipectl.pipeline import lifecycle  # noqa: PLC0415  with what it imports 60 ms
    from pipectl.pipeline.access import own_databases  # noqa: PLC0415

    console = invocation.console
    databases = own_databases(invocation.engine)
    if dry_run:
        content = databases.content()
        console.emit({"would_empty": content}, lambda: rendering.content_text(content, "Would be emptied"))
        return
    _ask(invocation, "Delete every row of airbyte-postgres and airbyte-mysql?", "reset --data-only", yes=yes)
    emptied = lifecycle.empty_databases(
        invocation.engine,
        invocation.settings.dag_id,
        timeout=ACTIVE_RUN_SECONDS,
        observer=rendering.Progress(console),
    )
    console.emit({"emptied": emptied}, lambda: rendering.content_text(emptied, "Emptied; rows until now"))


def status(ctx: typer.Context) -> None:
    """Show services, health, ports, Airflow, the DAG, its last run and the row counts.

    Examples: `pipectl status` · `pipectl status --json | jq .dag`
    """
    invocation: Invocation = ctx.obj
    from pipectl.pipeline.overview import overview  # noqa: PLC0415  with what it imports 60 ms

    found = overview(invocation.engine, invocation.settings.project, invocation.settings.dag_id)
    invocation.console.emit(rendering.status_json(found), lambda: rendering.status_text(found))


def logs(
    ctx: typer.Context,
    services: Annotated[list[str] | None, typer.Argument(help="Services; all of them otherwise.")] = None,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    tail: Annotated[int, typer.Option("--tail", "-n", min=0, help="Lines per service to begin with.")] = 50,
) -> None:
    """Show the logs of services.

    Examples: `pipectl logs scheduler` · `pipectl logs -f webserver` · `pipectl logs --tail 5 --json`
    """
    invocation: Invocation = ctx.obj
    known = [service.name for service in invocation.engine.services()]
    for name in services or ():
        if name not in known:
            raise UsageError(f"There is no service {name!r}.", hint=f"There are: {', '.join(known)}.")
    chosen = tuple(services or known)
    width = max(map(len, chosen))
    for line in invocation.engine.logs(chosen, tail=tail, follow=follow):
        text = line.text if len(chosen) == 1 else f"{line.service:<{width}} | {line.text}"
        invocation.console.line(line, text)


def open_ui(
    ctx: typer.Context,
    *,
    show: Annotated[bool, typer.Option("--url", help="Only print the address.")] = False,
) -> None:
    """Open Airflow's user interface in the browser.

    Examples: `pipectl open` · `pipectl open --url`
    """
    invocation: Invocation = ctx.obj
    import webbrowser  # noqa: PLC0415  15 ms

    from pipectl.pipeline.access import airflow_address  # noqa: PLC0415

    address = airflow_address(invocation.engine)
    opened = not show and webbrowser.open(address.url)
    invocation.console.emit(
        {"url": address.url, "user": address.user, "opened": opened},
        lambda: words(address.url),
    )


def _emit_dry_run(invocation: Invocation, action: str) -> None:
    """Say what `action` would delete, and what one would type to Docker instead of it."""
    engine = invocation.engine
    deletes = action in {"down --volumes", "reset"}
    volumes = engine.volumes() if deletes else ()
    commands = engine.equivalent(action)
    document: dict[str, object] = {"would_delete": volumes} if deletes else {}
    if commands:
        document["would_run"] = commands
    running = {service.name: service.state == "running" for service in engine.services()}
    if action == "up":
        document["would_start"] = [name for name, runs in running.items() if not runs]
    if action.startswith("down"):
        document["would_stop"] = [name for name, runs in running.items() if runs]
    invocation.console.emit(document, lambda: rendering.dry_run_text(document, volumes))


def _say_equivalent(invocation: Invocation, action: str) -> None:
    if invocation.console.verbose:
        for command in invocation.engine.equivalent(action):
            invocation.console.say(f"$ {command}")


def _agree(invocation: Invocation, volumes: tuple[Volume, ...], command: str, *, yes: bool) -> None:
    if not yes:
        invocation.console.show(rendering.volumes_text(volumes, "To be deleted"))
    _ask(invocation, f"Delete these {len(volumes)} volumes?", command, yes=yes)


def _ask(invocation: Invocation, question: str, command: str, *, yes: bool) -> None:
    """Return where the user agrees; UsageError for a no and where nobody can be asked."""
    if yes:
        return
    answer = invocation.console.confirm(question)
    if answer is None:
        raise UsageError(
            f"`pipectl {command}` deletes data and there is no terminal to ask on; nothing was deleted.",
            hint=f"To agree beforehand: pipectl {command} --yes",
        )
    if not answer:
        raise UsageError("Nothing was deleted.", hint=f"To agree beforehand: pipectl {command} --yes")
