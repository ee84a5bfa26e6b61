"""Changes to Airflow's own code, made while a service starts.

They save only time and memory, and the launcher leaves them out if PIPECTL_NO_SHORTCUTS is 1. They are
written for the versions of Airflow, FastAPI and cadwyn that airflow-requirements.txt pins, and a test
compares what Airflow's APIs offer with and without them.
"""

from __future__ import annotations

import functools
import importlib
import sys
import threading
import time
import types
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

# Versions of the API by which tasks talk to the API server.
KEPT_VERSIONS = 3
# What a scheme of assets' addresses is read, made from and told to OpenLineage by.
REGISTRIES_OF_ASSETS = ("_asset_uri_handlers", "_asset_factories", "_asset_to_openlineage_converters")
DECORATORS = "airflow.sdk.definitions._internal.decorators"


def read_yaml_with_libyaml() -> None:
    """Let Airflow read the descriptions of its settings with the parser in C: 0.1 s in each process."""
    yaml: Any = importlib.import_module("yaml")
    yaml.SafeLoader = yaml.CSafeLoader


def leave_out_the_log_server() -> None:
    """Keep the server of task logs, which does not run, from being imported: 0.3 s, and FastAPI's memory."""
    name = "airflow.utils.serve_logs"
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name])["serve_logs"] = None


def import_libcst_when_used() -> None:
    """Let Airflow's decorators do without libcst until a task's source is rewritten: 0.2 s, and 6 MB.

    They derive a class from one of libcst's, and use it for tasks that run in an environment of their own.
    """
    placeholder = types.ModuleType("libcst")

    def load(name: str) -> Any:  # noqa: ANN401  whatever the library has
        library = importlib.import_module("libcst")
        # Makes the class anew, in the same module.
        importlib.reload(sys.modules[DECORATORS])
        return getattr(library, name)

    vars(placeholder).update(CSTTransformer=object, __getattr__=load)
    sys.modules[placeholder.__name__] = placeholder
    try:
        importlib.import_module(DECORATORS)
    finally:
        # Others that import it get the library.
        del sys.modules[placeholder.__name__]


def build_models_when_used() -> None:
    """Build the validator of a pydantic model at its first use: of a thousand few are used, 1.5 s, and 10 MB.

    For the API server alone: every process of a task would build anew what it inherits from the scheduler.
    """
    defaults: Any = importlib.import_module("pydantic._internal._config").config_defaults
    if "defer_build" in defaults:
        defaults["defer_build"] = True


def import_asset_handlers_when_used() -> None:
    """Import what reads a scheme of assets' addresses at its first use: 0.4 s of CPU in official images.

    Airflow imports the handlers of all providers, Google's and Amazon's libraries among them, once a DAG file
    has an asset with an address: in each process that parses the file or runs one of its tasks.
    """
    runtime: Any = importlib.import_module("airflow.sdk.providers_manager_runtime")
    lazy_dict = importlib.import_module("airflow.sdk._shared.providers_discovery").LazyDictWithCache
    manager = runtime.ProvidersManagerTaskRuntime
    discover = manager._discover_asset_uri_resources  # noqa: SLF001  there is no public place for it
    check = runtime._correctness_check  # noqa: SLF001  it imports what it checks

    def check_when_used(*arguments: Any) -> Any:  # noqa: ANN401  passed through
        return functools.partial(check, *arguments)

    names = {**discover.__globals__, check.__name__: check_when_used}
    discover_names = types.FunctionType(discover.__code__, names)

    def discover_lazily(self: Any) -> None:  # noqa: ANN401  Airflow's own
        for registry in REGISTRIES_OF_ASSETS:
            setattr(self, registry, {})
        discover_names(self)
        for registry in REGISTRIES_OF_ASSETS:
            # Such a dict calls each value at its first use, also a handler that needs no import.
            when_used = {
                scheme: found if isinstance(found, functools.partial) else functools.partial(identity, found)
                for scheme, found in getattr(self, registry).items()
            }
            setattr(self, registry, lazy_dict(when_used))

    manager._discover_asset_uri_resources = discover_lazily  # noqa: SLF001


def identity(value: Any) -> Any:  # noqa: ANN401  of any kind
    """Return the value."""
    return value


def note_heartbeats(path: Path) -> None:
    """Write the time of each heartbeat that the database has into `path`: 0.1 s less per health check."""
    job: Any = importlib.import_module("airflow.jobs.job").Job
    heartbeat = job.heartbeat

    def heartbeat_and_note(self: Any, *arguments: Any, **options: Any) -> None:  # noqa: ANN401  passed through
        heartbeat(self, *arguments, **options)
        if not self.heartbeat_failed:
            path.write_text(f"{int(time.time())}\n", encoding="ascii")

    job.heartbeat = heartbeat_and_note


def build_apis_quickly() -> None:
    """Let Airflow build less of its two APIs at its start; what they offer stays the same."""
    keep_few_versions_of_the_tasks_api()
    build_routes_when_used()
    build_validators_when_used()


def keep_few_versions_of_the_tasks_api() -> None:
    """Make routes for the newest versions only: 2.5 s become 0.8.

    Nine versions serve workers of older releases; here all processes are of one. Not one version alone,
    since what the newest ones dropped has to exist in an older one.
    """
    cadwyn: Any = importlib.import_module("cadwyn")
    version_bundle = cadwyn.VersionBundle

    def shortened(head: Any, *versions: Any, **options: Any) -> Any:  # noqa: ANN401  passed through
        if len(versions) > KEPT_VERSIONS:
            # The oldest one may describe no changes.
            oldest = cadwyn.Version(versions[KEPT_VERSIONS - 1].value)
            versions = (*versions[: KEPT_VERSIONS - 1], oldest)
        return version_bundle(head, *versions, **options)

    cadwyn.VersionBundle = shortened


def build_routes_when_used() -> None:
    """Find out at a route's first request which parameters its function takes: 0.9 s.

    Of 1,100 routes few are ever asked: each router that includes another one makes all of its routes anew.
    The constructor of a route runs up to the call of `get_dependant`, which looks at the parameters, and is
    broken off there. It runs again, to its end, when an attribute that it sets after that is asked for.
    """
    routing: Any = importlib.import_module("fastapi.routing")
    route_class = routing.APIRoute
    build, get_dependant = route_class.__init__, routing.get_dependant
    lock = threading.RLock()

    class TooEarlyError(Exception):
        pass

    def refuse(**_: Any) -> None:  # noqa: ANN401  passed through
        raise TooEarlyError

    def build_early_part(self: Any, *arguments: Any, **options: Any) -> None:  # noqa: ANN401  passed through
        routing.get_dependant = refuse
        try:
            build(self, *arguments, **options)
        except TooEarlyError:
            self.late_arguments = arguments, options
        finally:
            routing.get_dependant = get_dependant

    def build_late_part(self: Any, name: str) -> Any:  # noqa: ANN401  passed through
        if name not in late:
            raise AttributeError(name)
        with lock:
            if "late_arguments" in vars(self):
                arguments, options = self.late_arguments
                complete = route_class.__new__(type(self))
                build(complete, *arguments, **options)
                for attribute in late:
                    vars(self).setdefault(attribute, vars(complete)[attribute])
                del self.late_arguments
        return vars(self)[name]

    def example() -> None:
        pass

    # The attributes that the constructor of this FastAPI sets after the call of get_dependant.
    complete, early = route_class("/", example), route_class.__new__(route_class)
    build_early_part(early, "/", example)
    late = vars(complete).keys() - vars(early).keys()
    if "app" in late:
        route_class.__init__ = build_early_part
        # Python calls it only for an attribute that is missing.
        route_class.__getattr__ = build_late_part


def build_validators_when_used() -> None:
    """Build the validator of a parameter at its first use: of 9,000 most are never used, 0.8 s.

    FastAPI makes them as pydantic's TypeAdapter.
    """
    fields: Any = importlib.import_module("fastapi._compat.v2")
    type_adapter = fields.TypeAdapter
    # FastAPI silences this warning while it builds validators; now they are built elsewhere.
    category = importlib.import_module("pydantic.warnings").UnsupportedFieldAttributeWarning
    warnings.filterwarnings("ignore", category=category)

    class TypeAdapterWhenUsed:
        def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401  passed through
            self.build = functools.partial(type_adapter, *arguments, **options)

        @functools.cached_property
        def built(self) -> Any:  # noqa: ANN401  pydantic's TypeAdapter
            return self.build()

        def __getattr__(self, name: str) -> Any:  # noqa: ANN401  passed through
            if name.startswith("__"):  # `copy` asks a new object, which has no `build` yet
                raise AttributeError(name)
            return getattr(self.built, name)

    fields.TypeAdapter = TypeAdapterWhenUsed
