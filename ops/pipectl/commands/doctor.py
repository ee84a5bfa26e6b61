"""doctor."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path  # noqa: TC003  Typer reads annotations at run time
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipectl import surroundings
from pipectl.commands.output_file import OutputFile
from pipectl.commands.shared import group, line
from pipectl.errors import EngineError, UsageError
from pipectl.names import CHECK_IDS, counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipectl.invocation import Invocation
    from pipectl.pipeline.doctor.checks import Finding

Document: TypeAlias = "DoctorResult"


@dataclass(frozen=True)
class DoctorResult:
    """What the checks have found; `fixed` has the commands that --fix has run, by check."""

    project: Path
    engine: str
    checks: tuple[Finding, ...]
    fixed: dict[str, str] = field(default_factory=dict)


def doctor(
    ctx: typer.Context,
    *,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="ID[,ID]",
            help=f"Run these checks alone, of: {', '.join(CHECK_IDS)}.",
            show_default=False,
        ),
    ] = None,
    fix: Annotated[
        bool,
        typer.Option(
            "--fix", help="Run those remedies that lose nothing and stop nothing; says each before."
        ),
    ] = False,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", metavar="FILE", help="Write logs, versions, settings and checks: a tar.gz."),
    ] = None,
) -> None:
    """Look at machine, project, engine, Airflow and databases; say what is wrong, and what to type.

    Works whether the stack runs or not; ends with 3 if a check fails. Secrets are masked in the bundle.

    Examples: `pipectl doctor` · `pipectl doctor --only ports,secrets` · `pipectl doctor --bundle help.tar.gz`
    """
    invocation: Invocation = ctx.obj
    from pipectl import settings  # noqa: PLC0415  30 ms
    from pipectl.pipeline import doctor as checking  # noqa: PLC0415  with what it imports 80 ms
    from pipectl.pipeline.doctor import bundle as bundling  # noqa: PLC0415

    chosen = checking.named(",".join(only or ()))
    output = OutputFile(bundle, "--bundle") if bundle else None
    if output:
        output.check()
        bundling.require_replaceable(output.path)
    project = settings.root(invocation.project)
    try:
        engine = invocation.engine
    except UsageError as error:
        # Without settings nothing else can be looked at.
        if not (finding := checking.of_settings(project, error)):
            raise
        if output:
            invocation.console.say(f"{output.path} was not written: without settings no secret is known.")
        _end(invocation, DoctorResult(project, "", (finding,)), set())
        return
    shown: set[str] = set()

    def report(findings: list[Finding], late: list[str]) -> None:
        # What is to be mended first, or is one document, is shown in the end.
        if not (fix or invocation.console.json or invocation.console.quiet):
            new = tuple(each for each in findings if each.ok is not None and each.id not in shown)
            if new:
                known = DoctorResult(project, engine.name, new)
                invocation.console.emit(known, lambda: _rest_text(known, shown))
            shown.update(each.id for each in new)
        invocation.console.say(f"Still looking: {', '.join(late)}")

    findings = checking.examine(engine, chosen, report)
    fixed = _fix(invocation, findings) if fix else {}
    if fixed:
        again = {finding.id: finding for finding in checking.examine(engine, fixed)}
        findings = tuple(again.get(finding.id, finding) for finding in findings)
    if output:
        output.write_private(bundling.bundle(engine, findings))
        invocation.console.say(f"Wrote {output.path}")
    _end(invocation, DoctorResult(project, engine.name, findings, fixed), shown)


def _fix(invocation: Invocation, findings: tuple[Finding, ...]) -> dict[str, str]:
    """Run the safe remedies of the checks that failed, and return them by check."""
    ran = {}
    for finding in findings:
        if finding.ok is False and finding.is_safe:
            invocation.console.say(f"Fixing {finding.id}: {finding.remedy}")
            done = subprocess.run(
                ("sh", "-c", finding.remedy),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                env=surroundings.environment(),
            )
            if done.returncode:
                invocation.console.say(
                    f"That failed: {done.stderr.strip() or f'exit code {done.returncode}'}"
                )
            else:
                ran[finding.id] = finding.remedy
    return ran


def _end(invocation: Invocation, result: DoctorResult, shown: set[str]) -> None:
    """Show what was found and has not been `shown`; raise EngineError if a check failed."""
    failed = [finding for finding in result.checks if finding.ok is False]
    console = invocation.console
    if console.json or not console.quiet:
        left = replace(result, checks=tuple(each for each in result.checks if each.id not in shown))
        console.emit(result, lambda: _rest_text(left, shown))
    elif failed:
        console.emit(result, lambda: result_text(replace(result, checks=tuple(failed))))
    if failed:
        names = ", ".join(finding.id for finding in failed)
        raise EngineError(
            f"{len(failed)} of {counted(len(result.checks), 'check')} failed: {names}.",
            hint=("Its remedy is above." if len(failed) == 1 else "Their remedies are above.")
            + (" --fix runs those that are safe." if _has_safe(failed) else ""),
        )


def _has_safe(failed: list[Finding]) -> bool:
    return any(finding.is_safe for finding in failed)


def result_text(result: DoctorResult) -> RenderableType:
    """Return a line for each check, the remedy below one that failed, and one for each reason to skip."""
    title = f"{result.project} ({result.engine})" if result.engine else str(result.project)
    return group(line(title, "table.title"), *_lines(result))


def _rest_text(result: DoctorResult, shown: set[str]) -> RenderableType:
    """Return it without the title, which stands above what has been shown."""
    return group(*_lines(result)) if shown else result_text(result)


def _lines(result: DoctorResult) -> list[RenderableType]:
    lines: list[RenderableType] = []
    width = max(map(len, CHECK_IDS))
    skipped: dict[str, list[str]] = {}
    for finding in result.checks:
        if finding.ok is None:
            skipped.setdefault(finding.found, []).append(finding.id)
            continue
        told = f"{'ok' if finding.ok else 'FAILED':<6}  {finding.id:<{width}}  {finding.found}"
        lines.append(line(told, "" if finding.ok else "bold red"))
        if not finding.ok:
            lines.append(line(f"{'':<{width + 8}}→ {finding.remedy}"))
    lines += [line(f"skipped {', '.join(names)}: {why}", "dim") for why, names in skipped.items()]
    return lines
