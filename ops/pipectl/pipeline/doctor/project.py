"""Checks of the project's files: settings, secrets, modes, and what interrupted commands have left."""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

from pipectl import __version__, json_text
from pipectl.engines import airflow_env, project
from pipectl.engines.choice import choose
from pipectl.errors import PipectlError
from pipectl.names import command, counted, listed, shell
from pipectl.observer import Observer
from pipectl.pipeline.agreement import disagreements
from pipectl.pipeline.doctor.checks import (
    UP,
    Desk,
    Finding,
    NotNowError,
    bad,
    check,
    fine,
    in_place,
    of_error,
    without_line,
)
from pipectl.pipeline.scaffold import recorded
from pipectl.pipeline.snapshot_store import Store
from pipectl.pipeline.snapshot_versions import is_newer
from pipectl.pipeline.upgrading import NEW, unmerged
from pipectl.settings import kept_path

if TYPE_CHECKING:
    from pathlib import Path

NAMED = 3
OF_OTHERS = stat.S_IRWXG | stat.S_IRWXO
# How a sentence about a setting begins.
VARIABLE = re.compile(r"(?:The environment variable )?([A-Z][A-Z0-9_]+)\b")


@check("env-file", brief=True)
def env_file(desk: Desk) -> Finding:
    """stack/.env and stack/airflow/user.env can be read, and hold values that make sense."""
    settings = desk.settings
    try:
        settings.check()
        own = airflow_env.user_settings(settings.project)
        airflow_env.read(settings.project, settings.variables)
    except PipectlError as error:
        variable = VARIABLE.match(error.message)
        if variable is None or variable[1] not in settings.variables:
            return of_error(error)
        is_foreign = variable[1] in settings.from_environment
        default = f"unset {variable[1]}" if is_foreign else without_line(settings.env_path, variable[1])
        return bad(error.message.removesuffix("."), default)
    if unknown := tuple(project.unknown_names(settings)):
        name = unknown[0].split()[2].rstrip(",.")
        return bad(unknown[0].removesuffix("."), without_line(settings.env_path, name))
    return fine(f"{counted(len(settings.variables), 'setting')}, {len(own)} of user.env")


@check("env-modes", brief=True)
def env_modes(desk: Desk) -> Finding:
    """Files with secrets can be read by their owner alone."""
    settings = desk.settings
    paths = [settings.env_path, kept_path(settings.project)]
    paths += sorted((settings.state_dir / "run").glob("*.json"))
    there = [path for path in paths if path.is_file()]
    loose = [path for path in there if path.stat().st_mode & OF_OTHERS]
    if loose:
        names = listed([_name(desk, path) for path in loose[:NAMED]], len(loose))
        return bad(f"others may read {names}", shell("chmod", "600", *loose), safe=True)
    return fine(f"{counted(len(there), 'file')} with secrets, for their owner alone")


def _name(desk: Desk, path: Path) -> str:
    return path.relative_to(desk.settings.project).as_posix()


@check("env-running")
def env_running(desk: Desk) -> Finding:
    """What runs was started with the settings and files that there are now."""
    desk.require()
    desk.require_user_settings()
    plan = choose(desk.settings).plan(Observer(), executor=None, workers=None)
    if plan.restarts:
        (service, change), *others = plan.restarts.items()
        more = f" ({counted(len(others), 'other service')} too)" if others else ""
        return bad(f"{service} runs with what was before: {change}{more}", UP)
    if plan.removes:
        return bad(f"no longer asked for: {', '.join(plan.removes)}", UP)
    return fine("no service would be restarted")


@check("env-volumes", brief=True)
def env_volumes(desk: Desk) -> Finding:
    """The data can be used with the secrets and passwords of stack/.env."""
    settings = desk.settings
    desk.require_engine()
    volumes = desk.engine.volumes()
    if not volumes:
        raise NotNowError("there are no data yet")
    if settings.restored:
        names = sorted(settings.restored)
        return bad(f"stack/.env has lost {listed(names[:NAMED], len(names))}, which its copy has", UP)
    if lost := desk.engine.lost_secrets():
        return bad(
            f"stack/.env has no {', '.join(lost)}, with which the data were made",
            "Put the file back; pipectl down, then pipectl up make new ones and say what that loses.",
        )
    logins = desk.log_in()
    if refused := desk.refused(logins):
        return refused
    proven = dict.fromkeys(address.service for address, error in logins if error is None)
    found = f"{counted(len(volumes), 'volume')}, all secrets there"
    return fine(found + (f", logged in to {listed([*proven], len(proven))}" if proven else ""))


@check("secrets", brief=True)
def secrets(desk: Desk) -> Finding:
    """All services were started with the same secrets, those of stack/.env."""
    desk.require()
    settings = desk.settings
    started = desk.engine.started_with()
    own = airflow_env.user_settings(settings.project)
    found = disagreements(started, settings.variables, own)
    if not found:
        return fine(f"{counted(len(started), 'service')} agree")
    first = found[0]
    others = [name for name in started if name not in first.services]
    than = f"than {' and '.join(others)}" if first.among_themselves and others else "than stack/.env has"
    kept = json_text.read_object(kept_path(settings.project)).get(first.variable)
    # What the latest start used is in its copy, which counts once stack/.env has no such line.
    is_changed = kept and kept != settings.variables.get(first.variable) and not first.among_themselves
    remedy = f"{without_line(settings.env_path, first.variable)} && {UP}" if is_changed else UP
    return bad(f"{', '.join(first.services)} started with another {first.variable} {than}", remedy)


@check("line-ends", brief=True)
def line_ends(desk: Desk) -> Finding:
    """Files that Linux and the servers read have Linux' line ends."""
    files = project.with_windows_line_ends(desk.settings)
    if files:
        names = listed([_name(desk, path) for path in files[:NAMED]], len(files))
        return bad(f"{names} has Windows line ends (CRLF)", in_place(r"s/\r$//", *files), safe=True)
    return fine("no file with CRLF")


@check("mounts", brief=True)
def mounts(desk: Desk) -> Finding:
    """Airflow's services may read the DAGs, the scripts and the other files that they are given."""
    missing = [
        name
        for name in ("dags", "scripts", "stack/airflow", "requirements.txt", "entrypoint.sh")
        if not (desk.settings.project / name).exists()
    ]
    if missing:
        paths = [desk.settings.project / name for name in missing]
        return bad(f"missing: {', '.join(missing)}", project.restoring(*paths))
    # Docker makes a folder of a file that it is to mount, and that is not there.
    folders = [
        name for name in ("requirements.txt", "entrypoint.sh") if (desk.settings.project / name).is_dir()
    ]
    if folders:
        path = desk.settings.project / folders[0]
        return bad(
            f"{folders[0]} is a folder",
            f"{shell('rmdir', path)} && {project.restoring(path)}",
        )
    desk.require_engine()
    try:
        desk.engine.check_mounts()
    except PipectlError as error:
        # What lets them be read is a command, behind what it does, for the project's folder.
        command = error.hint.partition("\n")[0].partition(": ")[2]
        is_safe = command.startswith("chmod ")
        remedy = f"{shell('cd', desk.settings.project)} && {command}" if is_safe else error.hint
        return bad(error.message.removesuffix("."), remedy, safe=is_safe)
    return fine("all can be read")


@check("run-bits", brief=True)
def run_bits(desk: Desk) -> Finding:
    """Scripts and programs that are started have the right to run."""
    paths = (desk.settings.project / "entrypoint.sh", *desk.engine.programs())
    there = [path for path in paths if path.is_file()]
    without = [path for path in there if not os.access(path, os.X_OK)]
    if without:
        names = listed([path.name for path in without[:NAMED]], len(without))
        return bad(f"{names} may not be run", shell("chmod", "+x", *without), safe=True)
    return fine(f"{counted(len(there), 'program')} may run")


@check("scaffold", brief=True)
def scaffold(desk: Desk) -> Finding:
    """The project's files are those of this pipectl, and none is left to be merged."""
    folder = desk.settings.project
    if not (folder / project.RECORD).exists():
        raise NotNowError(f"there is no {project.RECORD}: a clone of pipectl has none")
    try:
        made_by = recorded(folder).version
    except PipectlError as error:
        return of_error(error)
    both = f"the project is of pipectl {made_by}, and this pipectl is {__version__}"
    if is_newer(made_by, __version__):
        return bad(f"{both}, which is older", shell("uv", "tool", "install", f"pipectl>={made_by}"))
    if is_newer(__version__, made_by):
        return bad(both, command("--project", str(folder), "upgrade"))
    if left := unmerged(folder):
        return bad(
            f"{left[0]}{NEW} is not merged yet", f"Take what you need of it into {left[0]}, and delete it."
        )
    return fine(f"of pipectl {made_by}")


@check("snapshots")
def snapshots(desk: Desk) -> Finding:
    """Every snapshot says what it is, and has as many files and bytes as were saved; none is read."""
    whole, unusable = Store(desk.settings).all()
    for error in unusable.values():
        return of_error(error)
    return fine(counted(len(whole), "snapshot"))


@check("leftovers", brief=True)
def leftovers(desk: Desk) -> Finding:
    """No interrupted command has left anything behind."""
    if project.is_locked(desk.settings):
        raise NotNowError("another command is changing the stack")
    desk.require_engine()
    found = desk.engine.leftovers()
    if not found:
        return fine("nothing")
    first, *others = found
    more = f", and {counted(len(others), 'thing')} more" if others else ""
    return bad(f"{first.what}{more}", first.remedy, safe=first.is_safe)
