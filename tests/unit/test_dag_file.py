"""The DAG's file, as far as it can be judged without Airflow; tests/integration parses it with Airflow."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DAG_FILE = ROOT / "dags" / "generate_data_dag.py"


@pytest.mark.parametrize("name", ["fraud_share_dag.py", "generate_data_dag.py", "load_history_dag.py"])
def test_no_idiom_of_airflow_2(name: str) -> None:
    file = str(ROOT / "dags" / name)
    told = subprocess.run(
        (sys.executable, "-m", "ruff", "check", "--isolated", "--preview", "--select", "AIR", file),
        capture_output=True,
        text=True,
        check=False,
    )

    assert told.returncode == 0, told.stdout + told.stderr


def test_what_the_file_loads_beside_airflow_is_in_the_scripts_folder() -> None:
    imports = [node for node in ast.walk(ast.parse(DAG_FILE.read_text())) if isinstance(node, ast.ImportFrom)]
    modules = {node.module for node in imports if node.module}
    foreign = {
        module
        for module in modules
        if module.partition(".")[0] not in sys.stdlib_module_names and not module.startswith("airflow.")
    }

    assert foreign
    for module in foreign:
        assert (ROOT / "scripts" / f"{module.replace('.', '/')}.py").is_file(), module


def test_scripts_of_the_tasks_exist() -> None:
    source = DAG_FILE.read_text()

    for script in ("transaction_generator.py", "detection_generator.py"):
        assert f"python {{SCRIPTS}}/{script}" in source
        assert (ROOT / "scripts" / script).is_file()
