"""pause and unpause."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import typer  # noqa: TC002  Typer reads annotations at run time

from pipectl import options  # noqa: TC001  Typer reads annotations at run time
from pipectl.commands.shared import airflow_api, line

if TYPE_CHECKING:
    from pipectl.invocation import Invocation

Document: TypeAlias = "DagSwitch"


@dataclass(frozen=True)
class DagSwitch:
    """A DAG and whether it is paused now."""

    dag_id: str
    paused: bool


def pause(ctx: typer.Context, dag_id: options.DagId = None) -> None:
    """Pause a DAG: Airflow schedules no new runs, a run that is active goes on.

    Examples: `pipectl pause` · `pipectl pause my_dag`
    """
    _set_paused(ctx.obj, dag_id, paused=True)


def unpause(ctx: typer.Context, dag_id: options.DagId = None) -> None:
    """Unpause a DAG: Airflow starts the scheduled run that is due at once; with catch-up, all that it missed.

    Examples: `pipectl unpause` · `pipectl unpause my_dag`
    """
    _set_paused(ctx.obj, dag_id, paused=False)


def _set_paused(invocation: Invocation, dag_id: str | None, *, paused: bool) -> None:
    switch = DagSwitch(invocation.dag_id(dag_id), paused)
    invocation.if_interrupted = "Which DAGs are paused: pipectl dags"
    airflow_api(invocation).set_paused(switch.dag_id, paused=paused)
    invocation.console.emit(switch, lambda: line(f"{switch.dag_id} is {'paused' if paused else 'unpaused'}."))
