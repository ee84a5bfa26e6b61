"""Arguments and names of a task's context that Airflow 3 has taken away, and what to write instead."""

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
_OWN = "Write the function yourself: Airflow 3 has none like it."
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
# What ruff finds but knows no replacement for.
OTHERS = {
    "DUMMY": "Write TriggerRule.ALWAYS.",
    "NONE_FAILED_OR_SKIPPED": "Write TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS.",
    "SHUTDOWN": f"{_LEAVE_OUT}: no task has that state.",
    "TaskStateTrigger": "Import WorkflowTrigger of airflow.providers.standard.triggers.external_task.",
    "create_dagrun": "Trigger the DAG with TriggerDagRunOperator, or by Airflow's REST API.",
    "create_session": "Import it from airflow.utils.session; in tasks it reaches no metadata database.",
    "date_range": "Write pendulum.interval(start, end).range('days'), after import pendulum.",
    "days_ago": "Write pendulum.today('UTC').add(days=-N), after import pendulum.",
    "get_sensitive_variables_fields": _OWN,
    "has_access": _OWN,
    "infer_time_unit": _OWN,
    "parse_execution_date": "Write pendulum.parse(text), after import pendulum.",
    "round_time": _OWN,
    "scale_time_units": _OWN,
    "should_hide_value_for_key": _OWN,
    "test_cycle": "Import check_cycle of airflow.utils.dag_cycle_tester.",
    "terminating_states": f"{_LEAVE_OUT}: Airflow 3 has no such states.",
}
_PREVIOUS = "ti.get_previous_dagrun().logical_date"
# A date in the context, days to add, and its format. By default a schedule has no data interval in Airflow 3:
# it ends where it starts, at the logical date.
DATES = {
    "execution_date": ("logical_date", 0, ""),
    "next_ds": ("logical_date", 1, "ds"),
    "next_ds_nodash": ("logical_date", 1, "ds_nodash"),
    "next_execution_date": ("logical_date", 1, ""),
    "prev_ds": (_PREVIOUS, 0, "ds"),
    "prev_ds_nodash": (_PREVIOUS, 0, "ds_nodash"),
    "prev_execution_date": (_PREVIOUS, 0, ""),
    "prev_execution_date_success": ("prev_data_interval_start_success", 0, ""),
    "tomorrow_ds": ("logical_date", 1, "ds"),
    "tomorrow_ds_nodash": ("logical_date", 1, "ds_nodash"),
    "yesterday_ds": ("logical_date", -1, "ds"),
    "yesterday_ds_nodash": ("logical_date", -1, "ds_nodash"),
}
# When that is the date of before, by how a name begins.
_WHEN = {
    "next_": (
        " for a daily schedule. data_interval_end is the next run's date only with a timetable that has data"
        " intervals, such as CronDataIntervalTimetable."
    ),
    "prev_": " for a DAG that has run before.",
}
FORMATS = {"ds": "%Y-%m-%d", "ds_nodash": "%Y%m%d"}
_NOT_FILLED = f"{_LEAVE_OUT}: Airflow 3 never has a value for it."
VARIABLES = frozenset({*DATES, "conf", "expanded_ti_count", "test_mode", "triggering_dataset_events"})
# Files that operators render: their `template_ext`.
TEMPLATES = frozenset({".bash", ".hql", ".j2", ".jinja", ".jinja2", ".sh", ".sql"})
_CODE = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
_STRING = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"")
_NAME = re.compile(
    rf"(?<![\w.])(?:(?:ti|task_instance|dag_run)\.(?=execution_date\b))?({'|'.join(sorted(VARIABLES))})\b(?!\s*=[^=])"
)


def instead(name: str) -> str:
    """Return what to write instead of an argument, or of another name; empty if nothing is known."""
    return ARGUMENTS.get(name) or OTHERS.get(name, "")


def in_a_template(name: str) -> str:
    """Return what to write in a template instead of a variable."""
    if name not in DATES:
        return _no_date(name, "dag_run", "triggering_asset_events")
    date, days, form = DATES[name]
    if days:
        date = f"({date} {'+' if days > 0 else '-'} macros.timedelta(days={abs(days)}))"
    return f"Write {date}{f' | {form}' if form else ''}{_WHEN.get(name[:5], '.')}"


def in_a_task(name: str, context: str) -> str:
    """Return what to write in Python instead of an entry of the context, an expression."""
    if name not in DATES:
        return _no_date(name, f'{context}["dag_run"]', f'{context}["triggering_asset_events"]')
    date, days, form = DATES[name]
    entry, dot, attribute = date.partition(".")
    value = f'{context}["{entry}"]{dot}{attribute}'
    if days:
        value = f"({value} {'+' if days > 0 else '-'} timedelta(days={abs(days)}))"
    text = f'.strftime("{FORMATS[form]}")' if form else ""
    return f"Write {value}{text}{_WHEN.get(name[:5], '.')}"


def _no_date(name: str, run: str, events: str) -> str:
    if name == "conf":
        return f"Write {run}.conf for what a run was triggered with."
    return f"Write {events}." if name == "triggering_dataset_events" else _NOT_FILLED


def in_templates(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield each variable that a file's Jinja templates have from Airflow 2: line, name, and the template."""
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
                yield first_line + template.count("\n", 0, position), found[1], template


def _strings(tree: ast.AST) -> list[tuple[int, str]]:
    """Return the strings of a program with their lines, but not its docstrings."""
    loose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in loose
    ]
