"""The parts of airflow_client that a call needs, each imported alone: the whole takes 1.1 s, a part 0.05 s.

The package's `__init__` files import every API and every model; an API's file imports the models of all its
answers, which pipectl never reads, and pydantic, which builds a validator for each method. Here a package's
`__init__` runs once somebody asks for a name that no file of it bears, an API knows its models as Any, and
its methods take what they are given. A body of few fields is a dictionary, as those of the commonest calls.
"""

from __future__ import annotations

import re
import sys
import threading
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLIENT = "airflow_client.client"
MODELS = f"{CLIENT}.models"
PACKAGES = (CLIENT, f"{CLIENT}.api", MODELS)
_IMPORTING = threading.Lock()
# How the generator of the client names the file of a class: DAGRunPatchBody is in dag_run_patch_body.py.
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=.)(?=[A-Z][a-z])")


def part(name: str) -> Any:  # noqa: ANN401  a class of the client
    """Return the class that `airflow_client.client` exports by this name.

    What is not in a file of its own comes from the package as a whole.
    """
    with _IMPORTING:
        try:
            return getattr(_module_of(name), name)
        except (ImportError, AttributeError):
            import airflow_client.client as whole

            return getattr(whole, name)


def _module_of(name: str) -> ModuleType:
    """Import the file of a class. ImportError if it has none."""
    for package in PACKAGES:
        if package not in sys.modules:
            _install(package)
    file = _WORDS.sub("_", name).lower()
    for package in PACKAGES:
        try:
            if package == MODELS:
                return import_module(f"{package}.{file}")
            with _models_as_any(), _without_pydantic():
                return import_module(f"{package}.{file}")
        except ModuleNotFoundError as error:
            if error.name != f"{package}.{file}":
                raise
    raise ImportError(name)


def _install(package: str) -> None:
    """Let Python find the modules of a package, and leave its `__init__` for later."""
    parent, _, own_name = package.rpartition(".")
    spec = PathFinder.find_spec(package, import_module(parent).__path__)
    if spec is None or spec.loader is None or not spec.submodule_search_locations:
        raise ImportError(package)
    module = module_from_spec(spec)
    module.__class__ = _Package
    sys.modules[package] = module
    setattr(sys.modules[parent], own_name, module)


class _Package(ModuleType):
    """A package whose `__init__` has not run."""

    __spec__: ModuleSpec

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  whatever the package has
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return import_module(f"{self.__name__}.{name}")
        except ModuleNotFoundError:
            self.__class__ = ModuleType  # type: ignore[assignment]
            if self.__spec__.loader:
                self.__spec__.loader.exec_module(self)
            return getattr(self, name)


class _AnyModel(MetaPathFinder, Loader):
    """Finds, for every file of a model, a module in which each class is Any."""

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname.startswith(f"{MODELS}.") else None

    def exec_module(self, module: ModuleType) -> None:
        module.__getattr__ = lambda _: Any  # type: ignore[method-assign]


@contextmanager
def _models_as_any() -> Iterator[None]:
    """Have what is imported take models for Any; those that are made later are the real ones."""
    before, finder = set(sys.modules), _AnyModel()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            if name.startswith(f"{MODELS}."):
                del sys.modules[name]
                delattr(sys.modules[MODELS], name.rpartition(".")[2])


class _Unchecked(ModuleType):
    """What stands for pydantic: functions as they are, fields without rules, and classes without any use."""

    @staticmethod
    def validate_call(function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    @staticmethod
    def Field(*_: object, **__: object) -> None:  # noqa: N802  pydantic's name
        pass

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  whatever is imported from it
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


@contextmanager
def _without_pydantic() -> Iterator[None]:
    """Have what is imported do without pydantic, which takes 80 ms, and 10 ms for a method's validator."""
    before = sys.modules.get("pydantic")
    sys.modules["pydantic"] = _Unchecked("pydantic")
    try:
        yield
    finally:
        del sys.modules["pydantic"]
        if before is not None:
            sys.modules["pydantic"] = before
