"""Parse the DAG files as Airflow's DAG processor does, without a database.

Runs inside Airflow's environment, and never imports pipectl. Prints one JSON object: the versions, and for
each file its DAGs, its seconds, and the error in Airflow's own words. The files are the user's code: each is
parsed in a process of its own, forked from one that has imported Airflow, with nothing to write to, and is
ended with all that it started once Airflow would give it up.
"""

from __future__ import annotations

import contextlib
import difflib
import faulthandler
import fcntl
import gc
import importlib
import inspect
import json
import os
import platform
import re
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

POLL_SECONDS = 0.005
# So much is read of what a file prints, before others are looked at.
PIPE_BYTES, MOST_READS = 2**20, 16
# After Airflow's own time limit, which a file can catch.
GRACE_SECONDS = 1.0
# Where Airflow's settings name no limit for the import, and its processor's own counts.
NO_LIMIT_SECONDS = 50.0
# What was said of requirements.txt if it could not be installed.
PROBLEM = "PIPECTL_REQUIREMENTS_PROBLEM"
# So many templates of a file that fail are told.
MOST_TEMPLATES = 1000
# Of an error's text: its beginning has the lines, its end names the error, and between may be megabytes.
TEXT_CHARACTERS = 20_000
# The methods of an operator that make texts of its templates.
RENDERERS = ("render_template_fields", "render_template", "resolve_template_files", "prepare_template")
# What a run without a logical date has not: one that assets have triggered.
DATES = frozenset(
    {
        *("logical_date", "ds", "ds_nodash", "ts", "ts_nodash", "ts_nodash_with_tz"),
        *("data_interval_start", "data_interval_end"),
        *("prev_data_interval_start_success", "prev_data_interval_end_success"),
    }
)
SETTINGS = {
    # The frame of the DAG file is the last but many if a library raises the error.
    "AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACKS": "True",
    "AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACK_DEPTH": "50",
    # As in the process that parses: Airflow's own variables and connections are asked for elsewhere.
    "_AIRFLOW_PROCESS_CONTEXT": "client",
}


# What most DAGs have: a schedule, an operator, a task of Python, an Asset.
WARM_UP = """
from airflow.sdk import DAG, Asset, BaseOperator, task
with DAG("warm_up", schedule="*/5 * * * *", params={"a": 1}):
    @task
    def python():
        pass
    BaseOperator(task_id="operator", outlets=[Asset("asset", "postgres://h:1/d/s/t")]) >> python()
"""


@dataclass
class Running:
    """A process that parses a file."""

    path: str
    answer: int  # the file that it writes its answer to
    output: int  # what it prints, to be read
    deadline: float
    victims: int  # before it
    printed: int = 0  # bytes

    def drain(self) -> None:
        """Read what it has printed."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(MOST_READS):
                text = os.read(self.output, PIPE_BYTES)
                self.printed += len(text)
                if not text:
                    break


def main() -> int:
    """Parse all files, and print what came of it."""
    stdout = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(nothing, number)
    logs = tempfile.TemporaryDirectory()
    os.environ.update(SETTINGS, AIRFLOW__LOGGING__BASE_LOG_FOLDER=logs.name)
    gc.disable()  # imports make objects by the ten thousand, and keep them
    processor = importlib.import_module("airflow.dag_processing.processor")
    from airflow.configuration import conf
    from airflow.version import version

    folder = conf.get_mandatory_value("core", "dags_folder")
    listed = list_files(folder)
    paths = [path for path in listed if has_dag(path)]
    for path in paths:
        import_ahead(processor, path)
    # A negative one means none, as zero does.
    limit = max(conf.getfloat("core", "dagbag_import_timeout", fallback=30.0), 0)
    warm_up(processor, logs.name, limit or NO_LIMIT_SECONDS)
    keys = context_keys()
    gc.freeze()
    gc.enable()
    answer = {
        "airflow": version,
        "context": sorted(keys),
        "requirements": os.environ.get(PROBLEM, ""),
        "python": platform.python_version(),
        "folder": folder,
        "limit": limit,
        "interval": conf.getint("dag_processor", "min_file_process_interval", fallback=30),
        "sources": [path for path in listed if path.endswith(".py")],
        "files": ask_all(paths, lambda path: parse(processor, folder, path, keys), limit or NO_LIMIT_SECONDS),
    }
    with logs, os.fdopen(stdout, "w", encoding="utf-8") as stream:
        json.dump(answer, stream)
    return 0


def list_files(folder: str) -> list[str]:
    """Return all Python files and archives that .airflowignore lets Airflow see."""
    from airflow.configuration import conf
    from airflow.utils.file import find_path_from_directory

    syntax = conf.get_mandatory_value("core", "dag_ignore_file_syntax", fallback="glob")
    found = map(str, find_path_from_directory(folder, ".airflowignore", syntax))
    return sorted(path for path in found if path.lower().endswith((".py", ".zip")) and os.path.isfile(path))  # noqa: PTH113


def has_dag(path: str) -> bool:
    """Whether Airflow would read a file: by its words, unless settings say otherwise."""
    from airflow.configuration import conf
    from airflow.utils import file

    try:
        return bool(file.might_contain_dag(path, conf.getboolean("core", "dag_discovery_safe_mode")))
    except Exception:  # noqa: BLE001  the function of another Airflow; it looks once more when it parses
        return True


def import_ahead(processor: Any, path: str) -> None:  # noqa: ANN401  Airflow's own module
    """Import the modules of Airflow that a file asks for, as the DAG processor does before it forks."""
    with contextlib.suppress(Exception):
        processor._pre_import_airflow_modules(path, logger())  # noqa: SLF001  as in Airflow


def warm_up(processor: Any, folder: str, limit: float) -> None:  # noqa: ANN401
    """Import what Airflow imports only when it parses: each file would else pay for it, and seem slow.

    It shows in a process of its own, because plugins are loaded there, which may do anything.
    """
    path = os.path.join(folder, "warm_up.py")  # noqa: PTH118
    with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(WARM_UP)
    before = set(sys.modules)
    airflow = os.path.dirname(os.path.dirname(importlib.import_module("airflow").__file__ or ""))  # noqa: PTH120

    def question() -> dict[str, Any]:
        parse(processor, folder, path, set())
        new = [
            (name, getattr(sys.modules[name], "__file__", None) or "") for name in set(sys.modules) - before
        ]
        return {"modules": sorted(name for name, file in new if file.startswith(airflow + os.sep))}

    [answer] = ask_all([path], lambda _: question(), limit)
    for name in answer.get("modules", ()):
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def logger() -> Any:  # noqa: ANN401  structlog's own
    """Return what the DAG processor logs to."""
    return importlib.import_module("structlog").get_logger()


def ask_all(
    paths: Iterable[str], question: Callable[[str], dict[str, Any]], limit: float
) -> list[dict[str, Any]]:
    """Ask about files side by side, one per core; return an answer for each, in their order."""
    waiting, running, answers = list(reversed(list(paths))), dict[int, Running](), dict[str, dict[str, Any]]()
    cores = os.cpu_count() or 1
    try:
        while waiting or running:
            while waiting and len(running) < cores:
                path = waiting.pop()
                before = victims()
                pid, answer, output = start(partial(question, path), limit)
                deadline = time.monotonic() + limit + 2 * GRACE_SECONDS
                running[pid] = Running(path, answer, output, deadline, before)
            for pid in list(running):
                file = running[pid]
                file.drain()
                ended, status = os.waitpid(pid, os.WNOHANG)
                late = not ended and time.monotonic() > file.deadline
                if late:
                    os.kill(pid, signal.SIGKILL)
                    ended, status = os.waitpid(pid, 0)
                if ended:
                    end_group(pid)
                    file.drain()
                    os.close(file.output)
                    del running[pid]
                    told = {
                        "late": late,
                        "printed": file.printed,
                        "out_of_memory": status == signal.SIGKILL and not late and victims() > file.victims,
                    }
                    answers[file.path] = {"path": file.path, **told, **read_answer(file.answer, status)}
            time.sleep(POLL_SECONDS)
    finally:
        for pid in running:
            end_group(pid)
    return [answers[path] for path in sorted(answers)]


def victims() -> int:
    """Return how many processes the kernel has ended so far because memory ran out; 0 if it does not say."""
    with contextlib.suppress(OSError):
        found = re.search(r"^oom_kill (\d+)", Path("/proc/vmstat").read_text(encoding="utf-8"), re.MULTILINE)
        return int(found[1]) if found else 0
    return 0


def end_group(pid: int) -> None:
    """End what a file has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def start(question: Callable[[], dict[str, Any]], limit: float) -> tuple[int, int, int]:
    """Ask in a new process; return its id, the file that it writes its answer to, and its output."""
    descriptor, name = tempfile.mkstemp()
    os.unlink(name)  # noqa: PTH108  a file without a name
    output, end = os.pipe()
    os.set_blocking(output, False)
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):
            fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    pid = os.fork()
    if pid:
        os.close(end)
        return pid, descriptor, output
    code = 1
    try:
        os.setsid()
        for number in (1, 2):
            os.dup2(end, number)
        faulthandler.enable(descriptor)
        leave_faults_alone()
        faulthandler.dump_traceback_later(limit + GRACE_SECONDS, exit=True, file=descriptor)
        answer = question()
        faulthandler.cancel_dump_traceback_later()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(answer).encode(), 0)
        code = 0
    finally:
        # Nothing that a file registered for the end of Python runs.
        os._exit(code)


def leave_faults_alone() -> None:
    """Let no handler be set for a fault: Python never runs it, and Airflow's so makes a loop of the fault."""
    set_handler: Any = signal.signal

    def set_other(number: int, handler: Any) -> Any:  # noqa: ANN401  as Python has it
        return None if number == signal.SIGSEGV else set_handler(number, handler)

    vars(signal)["signal"] = set_other


def context_keys() -> set[str]:
    """Return the names that Airflow gives to templates and tasks; its annotations have more."""
    with contextlib.suppress(Exception):
        runner = importlib.import_module("airflow.sdk.execution_time.task_runner").RuntimeTaskInstance
        if found := re.findall(r'^ +"(\w+)": ', inspect.getsource(runner.get_template_context), re.MULTILINE):
            return set(found)
    return set(importlib.import_module("airflow.sdk.definitions.context").Context.__annotations__)


def parse(processor: Any, folder: str, path: str, keys: set[str]) -> dict[str, Any]:  # noqa: ANN401
    """Parse a file with the DAG processor's own function; `keys` are what Airflow gives to its templates."""
    bagged: list[str] = []
    rendered: list[dict[str, Any]] = []
    macros: set[str] = set()
    kind = getattr(processor, "BundleDagBag", None) or processor.DagBag
    bag_dag = kind.bag_dag

    def note(bag: Any, dag: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        bagged.append(str(dag.dag_id))
        with contextlib.suppress(Exception):
            macros.update(map(str, dag.user_defined_macros or ()))
            rendered.extend(islice(templates_of(dag, keys), MOST_TEMPLATES - len(rendered)))
        return bag_dag(bag, dag, *arguments, **options)

    # The processor keeps one of two DAGs with the same id, without a word, and before that of two equal ones.
    kind.bag_dag = note
    with contextlib.suppress(Exception):
        dag_class = importlib.import_module("airflow.sdk").DAG
        dag_class.__eq__, dag_class.__hash__ = object.__eq__, object.__hash__
    request = processor.DagFileParseRequest(file=path, bundle_path=Path(folder), bundle_name="dags-folder")
    began = time.monotonic()
    result = processor._parse_file(request, logger())  # noqa: SLF001  as in Airflow
    seconds = time.monotonic() - began
    errors = [middle_out(str(text)) for text in (result.import_errors or {}).values()]
    return {
        "dags": bagged,
        "seconds": seconds,
        "errors": errors,
        "templates": rendered,
        "macros": sorted(macros),
    }


def templates_of(dag: Any, keys: set[str]) -> Iterator[dict[str, Any]]:  # noqa: ANN401  of any version
    """Yield the DAG's templates that cannot be rendered, or not in each run: their tasks fail."""
    env = dag.get_template_env()
    for task in dag.tasks:
        kind = getattr(task, "operator_class", type(task))
        if not all(getattr(kind, name).__module__.startswith("airflow.") for name in RENDERERS):
            continue  # it may give more
        for value in texts_of(task):
            with contextlib.suppress(Exception):  # of a loader or of an environment of the user's
                told, asked = examine(value, task, env, keys)
                told["faults"] += not_in_each_run(asked, task, dag)
                if told["names"] or told["faults"]:
                    yield {"dag": str(dag.dag_id), "task": str(task.task_id), **told}


def examine(value: str, task: Any, env: Any, keys: set[str]) -> tuple[dict[str, Any], set[str]]:  # noqa: ANN401
    """Return what is wrong with a template, and the variables that rendering it asks for in any case."""
    jinja2 = importlib.import_module("jinja2")
    told: dict[str, Any] = {"value": value, "text": value, "path": "", "names": [], "faults": []}
    try:
        if value.endswith(tuple(task.template_ext)):
            told["text"], told["path"], _ = env.loader.get_source(env, value)
        tree = env.parse(told["text"])
        for node in tree.body:
            name = getattr(getattr(node, "template", None), "value", None)  # of {% include %} and its like
            if isinstance(name, str) and not getattr(node, "ignore_missing", False):
                env.loader.get_source(env, name)
        undeclared = importlib.import_module("jinja2.meta").find_undeclared_variables(tree) - set(env.globals)
    except jinja2.TemplateNotFound as error:
        return {**told, "faults": [fault("file", str(error.name))]}, set()
    except jinja2.TemplateSyntaxError as error:
        message = str(error.message)
        named = re.match(r"No (filter|test) named '(.+)'", message)
        wrong = fault(named[1], named[2], getattr(env, f"{named[1]}s")) if named else fault("syntax", message)
        return {**told, "faults": [{**wrong, "line": error.lineno}]}, set()
    if not issubclass(env.undefined, jinja2.StrictUndefined):
        return told, set()
    # Of a dotted name, what is before the dot is the template's own if it is declared.
    asked = {name for name in asked_for(tree, jinja2.nodes) if name.partition(".")[0] in undeclared}
    told["names"] = sorted(name for name in asked - keys if not name.startswith("params."))
    return told, asked


def not_in_each_run(asked: set[str], task: Any, dag: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401
    """Yield what a template asks for that some runs of the DAG have not, or none."""
    from airflow.configuration import conf

    # What a run is triggered with becomes its params; a scheduled one has but the declared ones.
    overridden = conf.getboolean("core", "dag_run_conf_overrides_params", fallback=True)
    fails = bool(dag.timetable.can_be_scheduled) or not overridden
    if (params := params_of(task, dag)) is not None:
        wanted = {name.partition(".")[2] for name in asked if name.startswith("params.")}
        for name in sorted(wanted - params - set(dir(dict))):
            yield fault("param", name, params, fails=fails)
    if any(base.__name__ == "AssetTriggeredTimetable" for base in type(dag.timetable).__mro__):
        for name in sorted(asked & DATES):
            yield fault("date", name, fails=False)


def fault(kind: str, name: str, known: Iterable[str] = (), *, fails: bool = True) -> dict[str, Any]:
    """Return one thing that is wrong with a template, and the name that was perhaps meant."""
    close = difflib.get_close_matches(name, list(known), 1)
    return {"kind": kind, "name": middle_out(name), "close": close, "line": None, "fails": fails}


def params_of(task: Any, dag: Any) -> set[str] | None:  # noqa: ANN401
    """Return the params that a task has; None if only its run tells."""
    inputs = [getattr(task, name, None) for name in ("expand_input", "op_kwargs_expand_input")]
    values = [getattr(one, "value", None) for one in inputs if one is not None]
    if any(not isinstance(value, dict) or "params" in value for value in values):
        return None
    return {*map(str, dag.params), *map(str, task.params or ())}


def texts_of(task: Any) -> Iterator[str]:  # noqa: ANN401
    """Yield the texts of a task that Airflow renders, and the names of files that it does."""
    suffixes = tuple(task.template_ext)
    mapped = getattr(task, "partial_kwargs", None)
    if mapped is None:
        values = [getattr(task, name, None) for name in task.template_fields]
    else:
        inputs = [getattr(task, name, None) for name in ("expand_input", "op_kwargs_expand_input")]
        given = [mapped, *(value for one in inputs if isinstance(value := getattr(one, "value", None), dict))]
        values = [each.get(name) for each in given for name in task.template_fields]
        values += [each for one in given[1:] for each in one.values() if "op_kwargs" in task.template_fields]
    seen: set[int] = set()
    while values:
        value = values.pop()
        if isinstance(value, str):
            if "{" in value or value.endswith(suffixes):
                yield value
        elif id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, dict):
                values.extend(value.values())
            elif isinstance(value, list | tuple | set):
                values.extend(value)
            elif not hasattr(value, "resolve"):
                values.extend(
                    getattr(value, name, None) for name in getattr(value, "template_fields", None) or ()
                )


def asked_for(node: Any, nodes: Any) -> set[str]:  # noqa: ANN401
    """Return the names that rendering a template asks for in any case: not below a condition or a default."""
    parts: Any = node.iter_child_nodes()
    if isinstance(node, nodes.Name):
        return {node.name} if node.ctx == "load" else set()
    if isinstance(node, nodes.Getattr | nodes.Getitem) and isinstance(node.node, nodes.Name):
        key = node.attr if isinstance(node, nodes.Getattr) else getattr(node.arg, "value", None)
        owner = node.node.name
        if isinstance(key, str) and (
            owner == "params" or (key == "execution_date" and owner in {"ti", "task_instance", "dag_run"})
        ):
            return {f"{owner}.{key}"}
    elif isinstance(node, nodes.If | nodes.CondExpr):
        parts = [node.test]
    elif isinstance(node, nodes.And | nodes.Or):
        parts = [node.left]
    elif isinstance(node, nodes.For):
        parts = [node.iter]
    elif isinstance(node, nodes.Macro | nodes.CallBlock | nodes.Block) or (
        isinstance(node, nodes.Test | nodes.Filter) and node.name in {"defined", "undefined", "default", "d"}
    ):
        parts = []
    return set().union(*(asked_for(part, nodes) for part in parts))


def middle_out(text: str) -> str:
    """Return a text without the middle of a long one."""
    half = TEXT_CHARACTERS // 2
    return f"{text[:half]} … {text[-half:]}" if len(text) > TEXT_CHARACTERS else text


def read_answer(descriptor: int, status: int) -> dict[str, Any]:
    """Return what a process has answered; if it has not, how it ended, and where it was."""
    with open(descriptor, "rb") as file:
        text = os.pread(file.fileno(), 10_000_000, 0).decode(errors="replace")
    with contextlib.suppress(ValueError):
        answer = json.loads(text)
        if isinstance(answer, dict):
            return answer
    code = os.waitstatus_to_exitcode(status)
    return {"dags": [], "seconds": None, "errors": [], "exit": code, "place": text[:TEXT_CHARACTERS]}


if __name__ == "__main__":
    sys.exit(main())
