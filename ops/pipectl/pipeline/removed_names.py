"""Arguments and template variables that Airflow 3 has taken away, and what to write instead."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from pipectl import ordinary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LEAVE_OUT = "Leave it out"
_DEADLINE = (
    f"{_LEAVE_OUT}: Airflow 3 does nothing with it; from 3.1 on a DAG takes deadline=DeadlineAlert(…)."
)
ARGUMENTS = {
    "concurrency": "Write max_active_tasks.",
    "default_view": f"{_LEAVE_OUT}: Airflow 3 has no such choice.",
    "fail_stop": "Write fail_fast.",
    "orientation": f"{_LEAVE_OUT}: Airflow 3 has no such choice.",
    "provide_context": f"{_LEAVE_OUT}: tasks get the context always.",
    "schedule_interval": "Write schedule.",
    "sla": _DEADLINE,
    "sla_miss_callback": _DEADLINE,
    "task_concurrency": "Write max_active_tis_per_dag.",
    "timetable": "Write schedule.",
}
# Of Airflow's notes on releases 2.2, which has brought the new names, and 3.0.
VARIABLES = {
    "conf": "Write dag_run.conf for what a run was triggered with.",
    "execution_date": "Write logical_date.",
    "next_ds": "Write data_interval_end | ds.",
    "next_ds_nodash": "Write data_interval_end | ds_nodash.",
    "next_execution_date": "Write data_interval_end.",
    "prev_ds": "Write prev_data_interval_start_success | ds, or macros.ds_add(ds, -1).",
    "prev_ds_nodash": "Write prev_data_interval_start_success | ds_nodash.",
    "prev_execution_date": "Write prev_data_interval_start_success.",
    "prev_execution_date_success": "Write prev_data_interval_start_success.",
    "tomorrow_ds": "Write macros.ds_add(ds, 1).",
    "tomorrow_ds_nodash": "Write macros.ds_format(macros.ds_add(ds, 1), '%Y-%m-%d', '%Y%m%d').",
    "triggering_dataset_events": "Write triggering_asset_events.",
    "yesterday_ds": "Write macros.ds_add(ds, -1).",
    "yesterday_ds_nodash": "Write macros.ds_format(macros.ds_add(ds, -1), '%Y-%m-%d', '%Y%m%d').",
}
# Files that operators render: their `template_ext`.
TEMPLATES = frozenset({".bash", ".hql", ".j2", ".jinja", ".jinja2", ".sh", ".sql"})
_CODE = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
_STRING = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"")
_NAME = re.compile(
    rf"(?<![\w.])(?:(?:ti|task_instance|dag_run)\.(?=execution_date\b))?({'|'.join(VARIABLES)})\b(?!\s*=[^=])"
)


def instead(name: str) -> str:
    """Return what to write instead of an argument or a variable; empty if nothing is known."""
    return ARGUMENTS.get(name) or VARIABLES.get(name, "")


def in_templates(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and name of each variable that a file's Jinja templates have from Airflow 2."""
    try:
        text = ordinary.read_text(path)
        texts = _strings(ast.parse(text)) if path.suffix == ".py" else [(1, text)]
    except (OSError, ValueError, SyntaxError, RecursionError):
        return
    for first_line, template in texts:
        for code in _CODE.finditer(template):
            # As long as before, so that positions stay.
            plain = _STRING.sub(lambda string: " " * len(string[0]), code[0])
            for found in _NAME.finditer(plain):
                position = code.start() + found.start(1)
                yield first_line + template.count("\n", 0, position), found[1]


def _strings(tree: ast.AST) -> list[tuple[int, str]]:
    """Return the strings of a program with their lines, but not its docstrings."""
    loose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in loose
    ]
