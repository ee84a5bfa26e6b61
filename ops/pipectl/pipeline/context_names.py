"""What a program takes from a task's context that Airflow 3 does not put there."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from pipectl import ordinary
from pipectl.pipeline.removed_names import VARIABLES, in_a_task

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
# The parameter that operators' methods and callbacks have.
CONTEXT = "context"
INSTANCES = frozenset({"ti", "task_instance", "dag_run"})


@dataclass(frozen=True)
class Use:
    """A place that asks for a name; `fails` if whoever runs it fails. No message: a value is given."""

    line: int
    column: int
    name: str
    fails: bool
    message: str
    instead: str


def find(path: Path) -> list[Use]:
    """Return what a file's functions take from the context of a task."""
    try:
        text = ordinary.read_text(path)
        tree = ast.parse(text) if "airflow" in text else ast.Module([], [])
    except (OSError, ValueError, SyntaxError, RecursionError):
        return []
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    uses: list[Use] = []
    for function in (node for node in ast.walk(tree) if isinstance(node, Function)):
        uses.extend(_parameters(function, calls))
        uses.extend(_lookups(function, is_task=_is_decorated(function) or bool(_operators(function, calls))))
    return uses


def _parameters(function: Function, calls: list[ast.Call]) -> Iterator[Use]:
    """Yield the parameters that Airflow 2 filled in."""
    operators, decorated = _operators(function, calls), _is_decorated(function)
    if isinstance(function, ast.Lambda) or not (operators or decorated):
        return
    arguments = function.args
    by_place = [*arguments.posonlyargs, *arguments.args]
    optional = {one.arg for one in by_place[len(by_place) - len(arguments.defaults) :]}
    optional |= {
        one.arg
        for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if default is not None
    }
    own = [call for call in calls if _name(call.func) == function.name] if decorated else operators
    for one in (*by_place, *arguments.kwonlyargs):
        if one.arg not in VARIABLES:
            continue
        place = by_place.index(one) if one in by_place else len(by_place)
        if any(_gives(call, one.arg, place, decorated=decorated) for call in own):
            yield Use(one.lineno, one.col_offset + 1, one.arg, fails=False, message="", instead="")
            continue
        # Without a default, Airflow itself refuses a decorated function when it reads the file.
        fails = one.arg not in optional
        message = f"Airflow 3 has no `{one.arg}` to give to {function.name}(): " + (
            "calling it fails." if fails else "it stays at its default."
        )
        context = function.args.kwarg.arg if function.args.kwarg else CONTEXT
        hint = in_a_task(one.arg, context)
        if not function.args.kwarg and f"{context}[" in hint:
            hint = f"Take **{context} in its place. {hint}"
        yield Use(one.lineno, one.col_offset + 1, one.arg, fails, message, hint)


def _gives(call: ast.Call, name: str, place: int, *, decorated: bool) -> bool:
    """Whether a call gives a parameter a value, or may do so."""
    if decorated:
        names = {word.arg for word in call.keywords}
        return len(call.args) > place or bool(names & {name, None})
    given = {word.arg: word.value for word in call.keywords}
    words = given.get("op_kwargs")
    if isinstance(words, ast.Dict):
        return any(key is None or (isinstance(key, ast.Constant) and key.value == name) for key in words.keys)
    return words is not None or "op_args" in given or None in given


def _is_decorated(function: Function) -> bool:
    """Whether a function has @task, @task.branch, @task(…) and so on."""
    return any("task" in _words(one) for one in getattr(function, "decorator_list", ()))


def _operators(function: Function, calls: list[ast.Call]) -> list[ast.Call]:
    """Return the calls that make a task of a function, or a callback."""
    return [
        call
        for call in calls
        for word in call.keywords
        if (word.arg == "python_callable" or str(word.arg).endswith("_callback"))
        and (word.value is function or _name(word.value) == getattr(function, "name", None))
    ]


def _lookups(function: Function, *, is_task: bool) -> Iterator[Use]:
    """Yield what a function, but none inside it, takes from the context."""
    stored = {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    arguments = function.args
    names = {one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)} & {CONTEXT}
    rest = {arguments.kwarg.arg} if arguments.kwarg else set()
    # Keyword arguments of another function may be anything.
    sure = (names | (rest if is_task else set())) - stored
    names = (names | rest) - stored
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and _is_current_context(node.value):
            sure |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    given = {
        (_name(node.value), node.slice.value)
        for node in ast.walk(function)
        if isinstance(node, ast.Subscript)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.slice, ast.Constant)
    }
    body = [function.body] if isinstance(function, ast.Lambda) else function.body
    for node, certain in _nodes(body):
        receiver, key, is_get = _lookup(node)
        if isinstance(node, ast.Attribute) and _is_instance(node.value) and node.attr == "execution_date":
            yield Use(
                node.lineno,
                node.col_offset + 1,
                node.attr,
                certain,
                f"`{_text(node)}` is removed in Airflow 3.",
                f"Write {_logical_date(node.value)}.",
            )
        if receiver is None or key is None or key.value not in VARIABLES:
            continue
        name, expression = str(key.value), _text(receiver)
        known = expression in sure or _is_current_context(receiver)
        if not known and (expression not in names or name == "conf"):
            continue
        if (expression, name) in given:
            yield Use(key.lineno, key.col_offset + 1, name, fails=False, message="", instead="")
            continue
        message = f"The context of Airflow 3 has no `{name}`."
        hint = in_a_task(name, expression)
        yield Use(key.lineno, key.col_offset + 1, name, known and certain and not is_get, message, hint)


def _lookup(node: ast.AST) -> tuple[ast.expr | None, ast.Constant | None, bool]:
    """Return what is asked, for which key, and whether the answer may be None."""
    match node:
        case ast.Subscript(value=receiver, slice=ast.Constant() as key, ctx=ast.Load()):
            return receiver, key, False
        case ast.Call(
            func=ast.Attribute(value=receiver, attr="get" | "pop"), args=[ast.Constant() as key, *_]
        ):
            return receiver, key, True
    return None, None, False


def _nodes(parts: Sequence[ast.AST]) -> Iterator[tuple[ast.AST, bool]]:
    """Yield all below some statements, and whether it is done in any case."""
    waiting: list[tuple[ast.AST, bool]] = [(part, True) for part in reversed(parts)]
    while waiting:
        node, is_certain = waiting.pop()
        if isinstance(node, Function | ast.ClassDef):
            continue
        yield node, is_certain
        first: ast.AST | None = None
        below = is_certain
        if isinstance(node, ast.If | ast.IfExp):
            first, below = node.test, False
        elif isinstance(node, ast.BoolOp):
            first, below = node.values[0], False
        elif isinstance(node, ast.Try) and node.handlers:
            below = False
        children = [(child, below or (child is first and is_certain)) for child in ast.iter_child_nodes(node)]
        waiting.extend(reversed(children))


def _text(node: ast.expr) -> str:
    """Return an expression as a program has it, in double quotes."""
    return ast.unparse(node).replace("'", '"')


def _is_current_context(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and _name(node.func) == "get_current_context"


def _is_instance(node: ast.expr) -> bool:
    """Whether an expression is the task instance or the DAG run, by its name."""
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return node.slice.value in INSTANCES
    return _name(node) in INSTANCES


def _logical_date(instance: ast.expr) -> str:
    """Return where the logical date is: a DAG run has it, a task instance knows but the context."""
    subscript = instance if isinstance(instance, ast.Subscript) else None
    name = (
        subscript.slice.value if subscript and isinstance(subscript.slice, ast.Constant) else _name(instance)
    )
    if name == "dag_run":
        return f"{_text(instance)}.logical_date"
    context = _text(subscript.value) if subscript else f"{_text(instance)}.get_template_context()"
    return f'{context}["logical_date"]'


def _name(node: ast.expr) -> str:
    """Return the last word of a dotted name."""
    return (_words(node) or [""])[-1]


def _words(node: ast.expr) -> list[str]:
    """Return the words of a dotted name, called or not; none if it is something else."""
    match node:
        case ast.Name(id=name):
            return [name]
        case ast.Attribute(value=value, attr=name):
            return [*_words(value), name]
        case ast.Call(func=function):
            return _words(function)
    return []
