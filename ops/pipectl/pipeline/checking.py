"""What is wrong with DAG files: Airflow parses them as its DAG processor does, without a stack."""

from __future__ import annotations

import ast
import difflib
import re
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipectl import json_text, ordinary
from pipectl.airflow_answers import import_error, shortened
from pipectl.engines.changes import REQUIREMENTS
from pipectl.engines.foreground import outcome
from pipectl.engines.requirements import sentence_of
from pipectl.errors import EngineError
from pipectl.pipeline import context_names, idioms, removed_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pipectl.engines.base import Engine
    from pipectl.observer import Observer

PROGRAM, DETAIL_LINES = "check_dags.py", 10
# Bytes that a file may print while it is read: Airflow took 4 s for them, and gave up 20 times as many.
MOST_PRINTED = 1_000_000
READ_BY = " (read by "
ERROR, WARNING = "error", "warning"
# Folders that hold the user's code, here and in a container, whose stack/ is this project's stack/airflow/.
OWN_FOLDERS = ("dags", "scripts", "stack")
# What Airflow alone can answer, in the words of its versions.
NEEDS_AIRFLOW = ("VARIABLE_NOT_FOUND", "The conn_id `", "SUPERVISOR_COMMS")
PROVIDERS = "airflow.providers."
# Names that are two words, of which the second alone says which provider.
PROVIDER_FAMILIES = frozenset({"apache", "atlassian", "cncf", "common", "dbt", "ibm", "microsoft"})
# Packages that are not called as their modules are.
PACKAGES = {
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "dotenv": "python-dotenv",
    "git": "GitPython",
    "jose": "python-jose",
    "jwt": "PyJWT",
    "kafka": "kafka-python",
    "OpenSSL": "pyOpenSSL",
    "PIL": "Pillow",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}
# Those that are.
SAME_NAME = """
    boto3 catboost dask duckdb fastparquet flask httpx jsonschema kubernetes lightgbm matplotlib
    networkx numpy openpyxl pandas paramiko plotly polars pyarrow pydantic pymongo pymysql pyodbc
    pyspark redis requests scipy seaborn sqlalchemy statsmodels tensorflow torch transformers
    xgboost
"""
# What is wrong with a template, and what to do, by its kind: {} is a name, or Jinja's own words.
TEMPLATE_FAULTS = {
    "syntax": (
        "is no Jinja, and fails: {}",
        "What is meant for another program stands between {{% raw %}} and {{% endraw %}}.",
    ),
    "filter": (
        "uses the filter `{}`, which there is not: it fails.",
        "Give it to the DAG with user_defined_filters.",
    ),
    "test": ("uses the test `{}`, which there is not: it fails.", "Write it with one of Jinja's own tests."),
    "file": (
        "is the file `{}`, which is not there: it fails.",
        "Airflow looks in the DAG file's folder and in template_searchpath. End a command with a space.",
    ),
    "param": (
        "asks for `params.{}`, which neither the DAG nor the task declares: ",
        "Declare it with the DAG's params, or write params.get('{}').",
    ),
    "date": (
        "asks for `{}`, which a run that assets trigger does not have: the task fails in it.",
        "Write dag_run.run_after | ds for the day of the run.",
    ),
}
_FRAME = re.compile(r'^ *File "(?P<path>[^"\n]+)", line (?P<line>\d+)', re.MULTILINE)
_MODULE = re.compile(r"No module named '(?P<name>[\w.]+)'")
_IMPORTED = re.compile(r"^ +(?:from|import) +(?P<name>airflow\.providers\.[\w.]+)", re.MULTILINE)
_ARGUMENT = re.compile(r"got an unexpected keyword argument '(?P<name>\w+)'")
_REQUIREMENT = re.compile(r"^\s*([A-Za-z0-9][\w.-]*)", re.MULTILINE)


@dataclass(frozen=True)
class Finding:
    """One thing to mend: where, what, and what to do. `rule` is ruff's, `detail` Airflow's own words."""

    file: str
    line: int | None
    severity: str
    kind: str
    message: str
    hint: str = ""
    rule: str = field(default="", metadata={"optional": True})
    detail: str = field(default="", metadata={"optional": True})


@dataclass(frozen=True)
class CheckedFile:
    """A file that Airflow reads, the DAGs in it, and how long that took; no time if it did not end."""

    file: str
    dags: tuple[str, ...]
    seconds: float | None


@dataclass(frozen=True)
class Check:
    """The answer of `check`: files, findings, how many lines `--fix` has mended, and in which files."""

    airflow: str
    python: str
    seconds: float
    files: tuple[CheckedFile, ...]
    findings: tuple[Finding, ...]
    fixed: int
    rewritten: tuple[str, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What makes Airflow refuse a DAG, or take one for another."""
        return tuple(finding for finding in self.findings if finding.severity == ERROR)


def check(engine: Engine, project: Path, observer: Observer, *, slow: float, fix: bool = False) -> Check:
    """Parse all DAG files and look for Airflow 2's ways; what takes longer than `slow` seconds is found too.

    Raises EngineError if Airflow cannot be run, UsageError if `fix` cannot write a file.
    """
    began = time.monotonic()
    answer = _parse(engine, observer)
    fixed, rewritten = 0, tuple[Path, ...]()
    if fix:
        fixed, rewritten = idioms.fix(_sources(answer, project), answer["python"])
        if fixed:
            answer = _parse(engine, observer)
    places = Places(project, Path(answer["folder"]))
    found = [
        *_requirements(answer.get("requirements", ""), project),
        *(finding for entry in answer["files"] for finding in _findings(entry, places, answer, slow)),
        *_duplicates(answer["files"], places),
    ]
    broken = {finding.file for finding in found if finding.kind == "syntax"}
    sources = _sources(answer, project)
    found.extend(_variables([*sources, *_templates(project)], answer, places))
    for finding, is_syntax in _old(sources, answer["python"], places):
        # What follows from a syntax error are more of them.
        if not is_syntax or finding.file not in broken:
            found.append(finding)
        if is_syntax:
            broken.add(finding.file)
    unique: dict[tuple[object, ...], Finding] = {}
    for finding in sorted(found, key=lambda finding: (finding.file, finding.line or 0)):
        # A file of the user's that several DAGs import is broken once.
        key = (finding.file, finding.line, finding.kind, finding.message.partition(READ_BY)[0])
        unique.setdefault(key, finding)
    return Check(
        airflow=answer["airflow"],
        python=answer["python"],
        seconds=time.monotonic() - began,
        files=tuple(
            CheckedFile(places.of(entry["path"]), tuple(dict.fromkeys(entry["dags"])), entry["seconds"])
            for entry in answer["files"]
        ),
        findings=tuple(unique.values()),
        fixed=fixed,
        rewritten=tuple(places.of(str(path)) for path in rewritten),
    )


class Places:
    """Paths as Airflow sees them, and as the project has them."""

    def __init__(self, project: Path, folder: Path) -> None:
        self.project = project
        self._root = folder.parent

    def of(self, path: str) -> str:
        """Return a path relative to the project; as it is if it is elsewhere."""
        for root in (self._root, self.project):
            if Path(path).is_relative_to(root):
                relative = Path(path).relative_to(root)
                is_stack = root != self.project and relative.parts[:1] == ("stack",)
                return str(Path("stack", "airflow", *relative.parts[1:]) if is_stack else relative)
        return path

    def is_own(self, path: str) -> bool:
        """Whether a path is in a folder of the user's code."""
        parts = Path(self.of(path)).parts
        return len(parts) > 1 and parts[0] in OWN_FOLDERS


def _parse(engine: Engine, observer: Observer) -> dict[str, Any]:
    """Let Airflow parse the files; return what stack/airflow/check_dags.py prints."""
    done = outcome(engine.apart(PROGRAM, (), observer, tolerant=True))
    answer = None
    if done.returncode == 0:
        try:
            answer = json_text.parse(done.stdout)
        except ValueError:
            answer = None
    if not isinstance(answer, dict):
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise EngineError(
            f"Airflow could not be run to parse the DAG files: exit code {done.returncode}.",
            hint="The lines above are its last.",
            detail="\n".join(lines[-DETAIL_LINES:]),
        )
    return answer


def _requirements(said: str, project: Path) -> Iterator[Finding]:
    """Yield the finding for a requirements.txt that cannot be installed."""
    if not said.strip():
        return
    sentence, detail = sentence_of(said)
    words = set(re.findall(r"[\w.-]+", sentence.removeprefix(REQUIREMENTS)))
    lines = enumerate(_read(project / REQUIREMENTS).splitlines(), start=1)
    named = [
        number for number, line in lines if (found := _REQUIREMENT.match(line)) and words & {found[1], line}
    ]
    numbered = re.search(r"^requirements\.txt, line (\d+)", sentence)
    line = int(numbered[1]) if numbered else next(iter(named), None)
    hint = "Correct it, then run pipectl check again: the DAG files were read without what it lacks."
    yield Finding(REQUIREMENTS, line, ERROR, "requirements", sentence, hint, detail=detail)


def _read(path: Path) -> str:
    """Return a file's text; empty if it cannot be read."""
    try:
        return ordinary.read_text(path, errors="replace")
    except OSError:
        return ""


def _sources(answer: Mapping[str, Any], project: Path) -> list[Path]:
    """Return the files that ruff looks at, as this machine has them."""
    folder = Path(answer["folder"])
    paths = [project / "dags" / Path(path).relative_to(folder) for path in answer["sources"]]
    plugins = project / "stack" / "airflow" / "plugins"
    return [path for path in (*paths, *sorted(plugins.rglob("*.py"))) if path.is_file()]


def _templates(project: Path) -> list[Path]:
    """Return the files beside DAGs that tasks render."""
    paths = sorted((project / "dags").rglob("*"))
    return [path for path in paths if path.suffix in removed_names.TEMPLATES and path.is_file()]


def _variables(paths: Iterable[Path], answer: Mapping[str, Any], places: Places) -> Iterator[Finding]:
    """Yield a finding for each variable in a template that Airflow 3 does not fill in.

    It is an error if Airflow has told of a task that is sure to ask for it: undefined names make that fail.
    """
    entries = answer["files"]
    macros = {name for entry in entries for name in entry.get("macros", ())}
    seen = [
        (places.of(str(path)), line, name, text)
        for path in paths
        for line, name, text in removed_names.in_templates(path)
        if name not in macros
    ]
    failing: set[tuple[str, int, str]] = set()
    for entry in entries:
        file = places.of(entry["path"])
        for template in entry.get("templates", ()):
            yield from (_fault(file, template, fault, places) for fault in template.get("faults", ()))
            for full_name in template["names"]:
                name = full_name.rpartition(".")[2]
                same = [one for one in seen if one[2] == name]
                where = [one for one in same if one[3] in template["text"]]
                where = where or [one for one in same if one[0] == file]
                failing |= {(one[0], one[1], name) for one in where}
                if not where:
                    yield _undefined(file, template, full_name, answer, places)
    for file, line, name, _ in seen:
        fails = (file, line, name) in failing
        message = f"The template variable `{name}` is removed in Airflow 3" + (
            ": rendering the template fails." if fails else "."
        )
        severity = ERROR if fails else WARNING
        yield Finding(file, line, severity, "airflow-2", message, removed_names.in_a_template(name))


def _undefined(
    file: str, template: Mapping[str, Any], name: str, answer: Mapping[str, Any], places: Places
) -> Finding:
    """Return the finding for a name in a template of a task that nothing gives a value."""
    task, line = template["task"], _line_of_template(file, template, places)
    message = f"A template of the task `{task}` asks for `{name}`, which Airflow does not give: it fails."
    removed = name.rpartition(".")[2]
    if removed in removed_names.VARIABLES:
        return Finding(file, line, ERROR, "airflow-2", message, removed_names.in_a_template(removed))
    close = difflib.get_close_matches(name, answer["context"], 1)
    hint = f"Did you mean {close[0]}?" if close else "Give it to the DAG with user_defined_macros."
    return Finding(file, line, ERROR, "template", message, hint)


def _fault(file: str, template: Mapping[str, Any], fault: Mapping[str, Any], places: Places) -> Finding:
    """Return the finding for what Jinja or Airflow refuses in a template of a task."""
    kind, name, subject = fault["kind"], fault["name"], f"A template of the task `{template['task']}`"
    message, hint = TEMPLATE_FAULTS[kind]
    message = f"{subject} {message.format(name)}"
    if kind == "param":
        message += "it fails." if fault["fails"] else "a run that is triggered without it fails."
    if fault["close"]:
        hint = f"Did you mean {fault['close'][0]}?"
    line = _line_of_template(file, template, places)
    if template["path"] and fault["line"]:
        file, line = places.of(template["path"]), fault["line"]
    return Finding(file, line, ERROR if fault["fails"] else WARNING, "template", message, hint.format(name))


def _line_of_template(file: str, template: Mapping[str, Any], places: Places) -> int | None:
    """Return the line of a DAG file that has a template, or else its task."""
    task = template["task"]
    return _line_of(places.project / file, (template.get("value"), task, task.rpartition(".")[2]))


def _findings(
    entry: Mapping[str, Any], places: Places, answer: Mapping[str, Any], slow: float
) -> Iterable[Finding]:
    """Yield what is wrong with one file."""
    file = places.of(entry["path"])
    if "exit" in entry:
        yield _unfinished(file, entry, places, answer["limit"])
        return
    if (printed := entry.get("printed", 0)) > MOST_PRINTED:
        message = f"Reading the file prints {printed / 1e6:.1f} MB."
        yield Finding(
            file,
            None,
            WARNING,
            "output",
            message,
            "Airflow takes seconds to log each megabyte, at each reading, and 50 s at most. Print in a task.",
        )
    python = answer["python"]
    failures = [_import_error(file, text, places, entry["dags"], python) for text in entry["errors"]]
    yield from failures
    late = any(failure.kind == "time-limit" for failure in failures)
    if (seconds := entry["seconds"]) > slow and not late:
        yield Finding(
            file,
            None,
            WARNING,
            "slow",
            f"Reading the file takes {seconds:.1f} s, more than {slow:g}.",
            f"Airflow reads it again every {answer['interval']} s. Do in a task what is slow.",
        )


def _unfinished(file: str, entry: Mapping[str, Any], places: Places, limit: float) -> Finding:
    """Return the finding for a file whose process gave no answer."""
    code, place = entry["exit"], str(entry["place"])
    frames = [frame for frame in _FRAME.finditer(place) if places.is_own(frame["path"])]
    # The innermost comes first in such a trace.
    line = int(frames[0]["line"]) if frames else None
    where = places.of(frames[0]["path"]) if frames else file
    subject = "Reading the file" if file == where else f"Reading {file}"
    if entry.get("late") or place.startswith("Timeout"):
        return Finding(
            where,
            line,
            ERROR,
            "time-limit",
            f"{subject} did not end within {limit:g} s, after which Airflow gives it up.",
            "Do in a task what takes long.",
        )
    hint = "Take out what ends a process, as os._exit and exec do."
    if entry.get("out_of_memory"):
        hint = (
            "The kernel has ended a process just then because memory ran out. Read less, or do it in a task."
        )
    elif code < 0:
        hint = "No Python ends so: compiled code that the file uses does, or another process."
    return Finding(where, line, ERROR, "ended", f"{subject} ended Python: {_how(code)}.", hint)


def _how(code: int) -> str:
    """Return how a process has ended, in the system's words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"{signal.Signals(-code).name} ({signal.strsignal(-code)})"
    except ValueError:
        return f"signal {-code}"


def _import_error(file: str, text: str, places: Places, dags: list[str], python: str) -> Finding:
    """Return the finding for an error in Airflow's words: a traceback, or one line."""
    frames = [frame for frame in _FRAME.finditer(text) if places.is_own(frame["path"])]
    line = int(frames[-1]["line"]) if frames else None
    where = places.of(frames[-1]["path"]) if frames else file
    problem = import_error(text) or "it does not say why"
    name = problem.partition(":")[0].rpartition(".")[2]
    module = _MODULE.search(problem)
    argument = _ARGUMENT.search(problem)
    kind, hint, severity = "import", removed_names.instead(argument["name"]) if argument else "", ERROR
    if any(words in problem for words in NEEDS_AIRFLOW):
        kind, severity = "needs-airflow", WARNING
        hint = "check has no Airflow to ask. Read variables and connections in a task, or in a template."
    elif name in {"SyntaxError", "IndentationError", "TabError"}:
        kind = "syntax"
    elif own := _own_module(module["name"] if module else "", places.project, where) or _relative(problem):
        hint = own
    elif name == "ModuleNotFoundError" and module:
        kind = "package"
        hint = _package_hint(module["name"], text, places.project)
        if not hint and line:
            hint = idioms.about_import(places.project / where, line, python)
    elif name == "ImportError" and "'airflow." in problem and line:
        hint = idioms.about_import(places.project / where, line, python)
    elif name == "AirflowDagCycleException":
        kind, line = "cycle", _line_of(places.project / file, (problem.rpartition(" ")[2], *dags))
    elif name == "AirflowTaskTimeout":
        kind, hint = "time-limit", "Do in a task what takes long."
    message = problem if where == file else f"{problem}{READ_BY}{file})"
    return Finding(where, line, severity, kind, message, hint, detail=shortened(text.strip()))


def _own_module(name: str, project: Path, where: str) -> str:
    """Return how to import a module that lies beside the file `where`, or above it; empty if none does."""
    top, dags = name.partition(".")[0], project / "dags"
    for folder in (project / where).parents if top else ():
        if folder == dags or not folder.is_relative_to(dags):
            break
        if (folder / f"{top}.py").is_file() or (folder / top).is_dir():
            package = ".".join(folder.relative_to(dags).parts)
            return f"Modules are imported from dags/ on. Write: from {package} import {top}"
    return ""


def _relative(problem: str) -> str:
    """Return what to do about a relative import."""
    if "attempted relative import" not in problem:
        return ""
    return "Airflow loads DAG files as no part of a package. Name the module's folders from dags/ on."


def _package_hint(module: str, text: str, project: Path) -> str:
    """Return what to do about a module that is missing; empty for one that Airflow itself had."""
    imported = [found["name"] for found in _IMPORTED.finditer(text)]
    package = package_of(imported[-1] if imported and module.startswith("airflow") else module)
    if not package and module.startswith("airflow."):
        return ""
    if not package:
        return (
            "Add the package that has it to requirements.txt; a module of your own belongs into dags/,"
            " and its name must not be that of an installed one."
        )
    names = {_normal(name) for name in _REQUIREMENT.findall(_read(project / REQUIREMENTS))}
    if _normal(package) in names:
        return f"requirements.txt has {package}, but it is not installed: pipectl up"
    return f"Add this line to requirements.txt: {package}"


def package_of(module: str) -> str:
    """Return the package that a module is known to come from; empty if none is known."""
    if module.startswith(PROVIDERS):
        words = module.removeprefix(PROVIDERS).split(".")
        length = 2 if words[0] in PROVIDER_FAMILIES else 1
        return "-".join(["apache-airflow-providers", *words[:length]]) if len(words) >= length else ""
    top = module.partition(".")[0]
    return PACKAGES.get(top) or (top if top in SAME_NAME.split() else "")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _duplicates(entries: Iterable[Mapping[str, Any]], places: Places) -> Iterable[Finding]:
    """Yield an error for each further place of a DAG's id: Airflow would take one DAG for the other."""
    first: dict[str, str] = {}
    for entry in entries:
        file = places.of(entry["path"])
        for number, dag_id in enumerate(entry["dags"]):
            if dag_id in first:
                yield Finding(
                    file,
                    _line_of(places.project / file, (dag_id,), entry["dags"][:number].count(dag_id)),
                    ERROR,
                    "duplicate",
                    f"The DAG id {dag_id!r} is that of another DAG too, in {first[dag_id]}.",
                    "Give one of them another id: Airflow shows now this one, now that one.",
                )
            first.setdefault(dag_id, file)


def _line_of(path: Path, names: Iterable[str | None], earlier: int = 0) -> int | None:
    """Return the line of a file on which one of the names stands as a string, or is a function's.

    `earlier` is how many of such lines are meant by something else.
    """
    try:
        tree = ast.parse(ordinary.read_text(path))
    except (OSError, ValueError, SyntaxError, RecursionError):
        return None
    for name in names:
        lines = sorted(
            node.lineno
            for node in ast.walk(tree)
            if (isinstance(node, ast.Constant) and node.value == name)
            or (isinstance(node, ast.FunctionDef) and node.name == name)
        )
        if lines:
            return lines[min(earlier, len(lines) - 1)]
    return None


def _old(sources: Sequence[Path], python: str, places: Places) -> Iterator[tuple[Finding, bool]]:
    """Yield what programs have of Airflow 2, and whether they are no programs."""
    judged: set[tuple[str, int, int]] = set()
    for path in sources:
        for use in context_names.find(path):
            judged.add((str(path), use.line, use.column))
            if use.message:
                severity, file = (ERROR if use.fails else WARNING), places.of(str(path))
                yield Finding(file, use.line, severity, "airflow-2", use.message, use.instead), False
    for entry in idioms.find(sources, python):
        if (entry.path, entry.line, entry.column) not in judged:
            yield _idiom(entry, places), not entry.rule


def _idiom(entry: idioms.Idiom, places: Places) -> Finding:
    file = places.of(entry.path)
    if not entry.rule:
        return Finding(file, entry.line, ERROR, "syntax", f"{entry.message}.")
    severity = WARNING if entry.rule.startswith(idioms.LATER) else ERROR
    fix = "pipectl check --fix rewrites it." if entry.fixable else ""
    hint = " ".join(filter(None, (f"{entry.instead.rstrip('.')}." if entry.instead else "", fix)))
    return Finding(file, entry.line, severity, "airflow-2", f"{entry.message}.", hint, rule=entry.rule)
