"""Rules of the design that a reader of the code relies on."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from pipectl.engines.base import Engine
from pipectl.engines.choice import ENGINES

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ops" / "pipectl"


def layers() -> list[list[str]]:
    """The layers of CONTRIBUTING.md: a module may import from its own layer and from those after it."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = next(part for part in text.split("```")[1::2] if "→" in part)
    return [[name.strip() for name in layer.split(",")] for layer in block.split("→")]


LEVEL = {name: level for level, names in enumerate(layers()) for name in names}
LEVEL |= {"__main__": LEVEL["cli"], "__init__": len(layers())}
HEAVY = (
    "airflow_client",
    "python_on_whales",
    "psycopg2",
    "mysql",
    "psutil",
    "dotenv",
    "supervisor",
    "rich",
    "plotly",
    "jsonschema",
    "pymysqlreplication",
    "pyarrow",
)
# Who may import an outside tool: modules, or folders that end in a slash.
IMPORTERS = {
    "airflow_client": ["airflow_client_parts.py"],
    "dotenv": ["env_file.py"],
    "jsonschema": ["pipeline/run_conf.py"],
    "mysql": ["database_connections.py"],
    "numpy": ["pipeline/exporting.py"],
    "platformdirs": ["settings.py"],
    "plotly": ["commands/"],
    "psutil": ["engines/local/processes.py"],
    "psycopg2": ["database_connections.py", "replication.py"],
    "pyarrow": ["pipeline/exporting.py"],
    "pymysql": ["replication.py"],
    "pymysqlreplication": ["replication.py"],
    "python_on_whales": ["engines/docker/compose.py"],
    "ruff": ["pipeline/idioms.py"],
    "rich": ["console.py", "commands/"],
    "typer": ["cli.py", "completion_scripts.py", "options.py", "commands/"],
    "urllib3": ["airflow_api.py"],
    "uv": ["engines/local/uv.py"],
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_module_has_a_layer() -> None:
    assert {layer(path) for path in modules()} == set(LEVEL)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    for name in imports(path):
        if name.startswith("pipectl."):
            imported = name.split(".")[1]
            assert LEVEL.get(imported, LEVEL["__init__"]) >= LEVEL[layer(path)], name


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_console_prints(path: Path) -> None:
    printing = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert not printing


def outside_tools() -> dict[str, set[str]]:
    """The modules that import each package which is neither pipectl's nor Python's."""
    importers: dict[str, set[str]] = {}
    for path in modules():
        for name in imports(path):
            package = name.split(".")[0]
            if package not in {"pipectl", *sys.stdlib_module_names}:
                importers.setdefault(package, set()).add(path.relative_to(PACKAGE).as_posix())
    return importers


def test_each_outside_tool_has_its_importers() -> None:
    assert set(outside_tools()) == set(IMPORTERS)
    for package, importers in outside_tools().items():
        strangers = [path for path in importers if not path.startswith(tuple(IMPORTERS[package]))]
        assert not strangers, package


def test_every_engine_is_in_the_folder_of_its_name() -> None:
    for name, class_name in ENGINES.items():
        engine = getattr(import_module(f"pipectl.engines.{name}.engine"), class_name)
        assert issubclass(engine, Engine)
        assert engine.name == name


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_start_up_imports_nothing_heavy() -> None:
    assert not loaded_by("import pipectl.cli") & set(HEAVY)


def test_text_is_written_without_rich() -> None:
    code = (
        "from pipectl.console import Console; from pipectl.commands import up, shared; console = Console();"
        " console.say('a'); console.emit(None, lambda: shared.group(shared.line('a', 'bold')))"
    )
    assert not loaded_by(code) & set(HEAVY)


def test_up_on_a_running_stack_needs_nothing_heavy() -> None:
    """What it imports when it is called, tests/e2e sees."""
    code = (
        "import pipectl.cli, pipectl.commands.up, pipectl.pipeline.lifecycle, pipectl.engines.{0}.engine,"
        " pipectl.engines.local.start"
    )
    for engine in ENGINES:
        assert not loaded_by(code.format(engine)) & set(HEAVY)


def test_status_does_without_airflow_client_and_python_on_whales() -> None:
    code = "import pipectl.cli, pipectl.pipeline.overview, pipectl.engines.local.engine"
    assert not loaded_by(code) & {"airflow_client", "python_on_whales"}
