"""explain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipectl import options  # noqa: TC001  Typer reads annotations at run time
from pipectl.commands.shared import group, line

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipectl.invocation import Invocation
    from pipectl.pipeline.evidence import Explanation

Document: TypeAlias = "Explanation"


def explain(
    ctx: typer.Context,
    dag_or_run: options.DagOrRun = None,
    run_id: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN_ID",
            help="The run's id, or `latest` for the one made last.",
            show_default="one that has not ended, or the one made last",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Argument(
            metavar="TASK",
            help="The task's id; of a mapped one with its index: `'load[3]'`.",
            show_default="the one that says most",
        ),
    ] = None,
) -> None:
    """Say why a DAG, a run or a task waits, runs or failed: one sentence, its evidence, what to type next.

    Programs decide by `cause` of --json. What no evidence explains has the cause `unknown`.

    Examples: `pipectl explain` · `pipectl explain my_dag` · `pipectl explain my_dag latest 'load[3]' --json`
    """
    invocation: Invocation = ctx.obj
    default = invocation.dag_id(dag_or_run if run_id else None)
    from pipectl.pipeline import explaining  # noqa: PLC0415  with what it imports 60 ms

    result = explaining.explain(invocation.engine, invocation.settings, default, dag_or_run, run_id, task)
    invocation.console.emit(result, lambda: result_text(result))


def result_text(result: Explanation) -> RenderableType:
    """Return the sentence, below it what was looked at, and then the commands to type next."""
    width = max((len(fact.name) for fact in result.evidence), default=0)
    return group(
        line(result.sentence, "bold"),
        *(line(text) for fact in result.evidence for text in _aligned(fact.name, fact.value, width)),
        *(line(f"{step.purpose}: {step.command}") for step in result.next),
    )


def _aligned(name: str, value: str, width: int) -> list[str]:
    first, *others = value.splitlines() or [""]
    return [f"  {name:<{width}}  {first}", *(f"  {'':<{width}}  {text}" for text in others)]
