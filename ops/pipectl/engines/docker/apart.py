"""A container beside the stack, for a program that needs Airflow's environment and no service."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from pipectl import surroundings
from pipectl.engines import airflow_env
from pipectl.engines.foreground import Command
from pipectl.errors import UsageError, remedy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

HOME = "/opt/airflow"
# The stack's services write these; one container more would write between theirs.
NOT_SHARED = frozenset({f"{HOME}/logs"})
# pytest's option for a file that is to be on this machine, and where it is in the container.
REPORT_OPTIONS = ("--junit-xml", "--junitxml")
REPORT = f"{HOME}/report.xml"
ALL_MAY_WRITE = 0o666


def docker_run(
    host: str,
    service: Mapping[str, Any],
    volumes: Mapping[str, str],
    program: tuple[str, ...],
    folder: Path,
    pytest: Path | None = None,
) -> Command:
    """Return what runs a program of stack/airflow/ in a container like that of `service`.

    `service` is Compose's own reading of it, `volumes` are those that the project has, by their names in the
    Compose file. The values of variables are no arguments, which any user of the machine could read.
    Raises UsageError if pytest's words name a report that cannot be written.
    """
    given = {name: str(value or "") for name, value in service["environment"].items()}
    variables = airflow_env.without_stack(given)
    layer: tuple[str, ...] = ()
    if pytest is not None:
        variables[airflow_env.PYTEST] = f"{HOME}/pytest-packages"
        target = f"target={variables[airflow_env.PYTEST]}"
        layer = ("--mount", _csv("type=bind", f"source={pytest}", target, "readonly"))
        program, report = _with_report(program, folder)
        if report is not None:
            layer += ("--mount", _csv("type=bind", f"source={report}", f"target={REPORT}"))
    terminal = ("--tty", "--env", "TERM") if sys.stdin.isatty() and sys.stdout.isatty() and pytest else ()
    limits = [f"--cap-drop={name}" for name in service.get("cap_drop", ())]
    limits += [f"--security-opt={option}" for option in service.get("security_opt", ())]
    words = (
        *("docker", "--host", host, "run", "--rm", "--init", "--interactive", *terminal),
        *("--user", str(service["user"]), "--workdir", HOME, "--entrypoint", "/bin/sh"),
        *limits,
        *_mounts(service, volumes),
        *layer,
        *(word for name in sorted(variables) for word in ("--env", name)),
        str(service["image"]),
        *(f"{HOME}/entrypoint.sh", "python", "-P", f"{HOME}/stack/{program[0]}", *program[1:]),
    )
    return Command(words, {**surroundings.of_docker(), **variables}, folder)


def _with_report(words: tuple[str, ...], folder: Path) -> tuple[tuple[str, ...], Path | None]:
    """Return pytest's words with a report's path in the container, and the report, which is there now.

    A path is relative to the project's `folder`, as pytest has it there. The container's user is another one.
    """
    inside, report, is_next = list[str](), None, False
    for word in words:
        name, sign, value = word.partition("=")
        if is_next or (name in REPORT_OPTIONS and sign):
            report = folder / (word if is_next else value)
            inside.append(REPORT if is_next else f"{name}={REPORT}")
        else:
            inside.append(word)
        is_next = not is_next and word in REPORT_OPTIONS
    if report is not None:
        try:
            report.parent.mkdir(parents=True, exist_ok=True)
            report.touch()
            report.chmod(ALL_MAY_WRITE)
        except OSError as error:
            raise UsageError(
                f"{report} cannot be written: {error.strerror}.", hint=remedy(error, report)
            ) from error
    return tuple(inside), report


def _mounts(service: Mapping[str, Any], volumes: Mapping[str, str]) -> Iterator[str]:
    for mount in service.get("volumes", ()):
        target, source = mount["target"], mount["source"]
        if mount["type"] == "volume":
            if source not in volumes or target in NOT_SHARED:
                continue
            source = volumes[source]
        yield "--mount"
        yield _csv(
            f"type={mount['type']}",
            f"source={source}",
            f"target={target}",
            *(["readonly"] if mount.get("read_only") else []),
        )


def _csv(*fields: str) -> str:
    """Return fields as the docker command reads them: one with a comma or a quote stands in quotes."""
    return ",".join(
        '"' + field.replace('"', '""') + '"' if set(field) & set(',"') else field for field in fields
    )
