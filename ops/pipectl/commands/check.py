"""check."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path  # noqa: TC003  Typer reads annotations at run time
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipectl.commands.junit import Case, document
from pipectl.commands.output_file import OutputFile
from pipectl.commands.shared import Progress, group, line
from pipectl.errors import DagError
from pipectl.names import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipectl.invocation import Invocation
    from pipectl.pipeline.checking import Check, Finding

STYLES = {"error": "bold red", "warning": "yellow"}

Document: TypeAlias = "Check"


def check(
    ctx: typer.Context,
    *,
    fix: Annotated[
        bool, typer.Option("--fix", help="Rewrite what is written for Airflow 2, where ruff knows how.")
    ] = False,
    slow: Annotated[
        float, typer.Option(min=0, help="Seconds that reading a file may take without a warning.")
    ] = 1.0,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the findings as JUnit XML, for a CI server.")
    ] = None,
) -> None:
    """Parse the DAG files as Airflow does, without a stack, and say what is wrong; exit 9 for errors.

    It finds syntax and import errors, missing packages, cycles, ids that two DAGs have, files that are slow
    to read, and what is written for Airflow 2. A warning alone ends with 0.

    Examples: `pipectl check` · `pipectl check --fix` · `pipectl check --junit check.xml --json`
    """
    invocation: Invocation = ctx.obj
    from pipectl.pipeline import checking  # noqa: PLC0415  20 ms

    target = OutputFile(junit, "--junit") if junit else None
    if target:
        target.check()
    engine, project = invocation.engine, invocation.settings.project
    if fix:
        invocation.if_interrupted = "What was rewritten stays so: pipectl check shows the rest."
    result = checking.check(engine, project, Progress(invocation.console), slow=slow, fix=fix)
    if target:
        target.write(_junit(result))
    invocation.console.emit(result, lambda: result_text(result))
    if result.errors:
        files = len({finding.file for finding in result.errors})
        raise DagError(
            f"{counted(len(result.errors), 'error')} in {counted(files, 'file')}.",
            hint="Mend what the lines above name, then run pipectl check again.",
        )


def result_text(result: Check) -> RenderableType:
    """Return a line per finding, with its hint below it, and what was looked at."""
    parts: list[RenderableType] = []
    for finding in result.findings:
        parts.append(line(_sentence(finding), STYLES[finding.severity]))
        if finding.hint:
            parts.append(line(f"  {finding.hint}"))
    if result.fixed:
        parts.append(line(f"Rewrote {counted(result.fixed, 'line')} in {', '.join(result.rewritten)}."))
    dags = sum(len(file.dags) for file in result.files)
    warnings = len(result.findings) - len(result.errors)
    summary = (
        f"{counted(len(result.files), 'file')} with {counted(dags, 'DAG')} parsed by Airflow {result.airflow}"
        f" in {result.seconds:.1f} s: {counted(len(result.errors), 'error')}, {counted(warnings, 'warning')}."
    )
    return group(*parts, line(summary, "" if result.errors else "bold green"))


def _sentence(finding: Finding) -> str:
    place = finding.file if finding.line is None else f"{finding.file}:{finding.line}"
    rule = f" [{finding.rule}]" if finding.rule else ""
    return f"{place}: {finding.severity}: {finding.message}{rule}"


def _junit(result: Check) -> str:
    """Return a test case per file, which fails if the file has an error."""
    seconds = {file.file: file.seconds for file in result.files}
    cases = []
    for name in _files(result):
        findings = [finding for finding in result.findings if finding.file == name]
        text = "\n\n".join(
            "\n".join(filter(None, (_sentence(finding), finding.hint, finding.detail)))
            for finding in findings
        )
        case = Case("dags", name, seconds.get(name) or 0.0, text=text)
        if errors := [finding for finding in findings if finding.severity == "error"]:
            case = replace(case, kind=errors[0].kind, message=errors[0].message)
        cases.append(case)
    return document("pipectl check", cases, result.seconds)


def _files(result: Check) -> list[str]:
    """Return all files that were read, and others that something was found in."""
    return list(
        dict.fromkeys([*(file.file for file in result.files), *(finding.file for finding in result.findings)])
    )
