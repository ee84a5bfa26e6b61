"""Rules of the design that a reader of the code relies on."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "ops" / "pipectl"
# A module may import from its own layer and from those below it.
LAYERS = (
    ("cli", "__main__"),
    ("commands",),
    ("invocation", "options"),
    ("console",),
    ("pipeline",),
    ("engines", "airflow_api", "airflow_health", "replication"),
    ("databases",),
    ("settings", "env_file"),
    ("models", "report_models"),
    ("errors", "names", "published", "__init__"),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
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
    "pymysqlreplication",
)
ONE_IMPORTER = {
    "airflow_client": ["airflow_api.py"],
    "python_on_whales": ["engines/docker/engine.py"],
    "mysql": ["databases.py"],
    "pymysqlreplication": ["replication.py"],
    "psycopg2": ["databases.py", "replication.py"],
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(parts: tuple[str, ...]) -> str:
    return parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    own = layer(path.relative_to(PACKAGE).parts)
    for name in imports(path):
        if name.startswith("pipectl."):
            other = layer(tuple(name.split(".")[1:]))
            assert LEVEL.get(other, LEVEL["errors"]) >= LEVEL[own], f"{own} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_console_prints(path: Path) -> None:
    printing = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert not printing


@pytest.mark.parametrize("package", ONE_IMPORTER)
def test_each_outside_tool_has_one_importer(package: str) -> None:
    importers = [
        str(path.relative_to(PACKAGE))
        for path in modules()
        if any(name.split(".")[0] == package for name in imports(path))
    ]
    assert set(importers) <= set(ONE_IMPORTER[package])


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


def test_status_does_without_airflow_client_and_python_on_whales() -> None:
    code = "import pipectl.cli, pipectl.pipeline.overview, pipectl.engines.local.engine"
    assert not loaded_by(code) & {"airflow_client", "python_on_whales"}
