"""What the README's tables promise, held against the app."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from pipectl import cli
from pipectl.commands import COMMANDS, PANELS
from pipectl.errors import ExitCode

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = (ROOT / "stack" / ".env.example").read_text(encoding="utf-8")
# Not settings of a project: where it is, and where binaries are cached.
OF_THE_CALLER = {"PIPECTL_CACHE_DIR"}
OF_TASKS = {"PIPECTL_SCRIPTS"}
OPTION = r"(?<![\w-])--?[a-z][\w-]*"
CALL = r"(?:^|`)pipectl ((?:--?[a-z]\w*(?: \w+)? )*)([a-z][a-z-]+)([^`\n#]*)"


def section(title: str) -> str:
    return README.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def first_cells(text: str) -> list[str]:
    """Return the first cell of each row of the first table, without its head."""
    table = text[text.index("|") :].split("\n\n", 1)[0]
    return [row.split("|")[1].strip() for row in table.splitlines()[2:]]


def code(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def own_words(call: str) -> str:
    """Return a call without what it passes on to a program that it runs."""
    words = cli.hoist(call.split())
    return " ".join(words[: words.index("--")] if "--" in words else words)


def options_of(command: Any) -> set[str]:
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


ROOT_OPTIONS = options_of(typer.main.get_command(cli.app))
VARIABLES = dict(re.findall(r"^(?:# )?([A-Z][A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE))
# Named where the example says how to make them.
SECRETS = set(re.findall(r"\b(?:PIPECTL|AIRFLOW|AIRBYTE)_[A-Z_]+\b", EXAMPLE)) - VARIABLES.keys()


def test_the_table_of_commands_has_each_command_once() -> None:
    calls = [call for cell in first_cells(section("Commands")) for call in code(cell)]
    assert sorted(call.removeprefix("pipectl ").split()[0] for call in calls) == sorted(COMMANDS)


def test_the_table_of_commands_is_in_the_order_of_help() -> None:
    rows = first_cells(section("Commands"))
    named = [re.sub(r"`|pipectl ", "", word).split()[0] for cell in rows for word in cell.split(", `")]
    expected = [entry for panel, commands in PANELS.items() for entry in (f"**{panel.split()[0]}", *commands)]
    assert [name.rstrip("*") for name in named] == [name.rstrip("*") for name in expected]


def test_options_in_the_table_of_commands_exist() -> None:
    for row in re.findall(r"^\| `pipectl .*", section("Commands"), re.MULTILINE):
        command = code(row)[0].split()[1]
        for call in code(row):
            first = call.split()[0]
            owner = first if first in COMMANDS else command
            known = options_of(cli.import_command(owner)) | ROOT_OPTIONS
            assert set(re.findall(OPTION, own_words(call.removeprefix("pipectl ")))) <= known, call


def test_commands_in_code_exist_with_their_options() -> None:
    calls = re.findall(CALL, README, re.MULTILINE)
    assert len(calls) > len(COMMANDS)
    for before, command, after in calls:
        assert command in COMMANDS
        known = options_of(cli.import_command(command)) | ROOT_OPTIONS
        assert set(re.findall(OPTION, own_words(f"{before}{command}{after}"))) <= known, command


def test_the_table_of_exit_codes_is_the_enumeration() -> None:
    assert {int(number) for number in re.findall(r"\| (\d+) \|", section("Commands"))} == set(ExitCode)


def test_settings_have_the_defaults_of_the_example() -> None:
    rows = re.findall(r"^\| (`[A-Z][^|]*)\|([^|]*)\|", section("Settings"), re.MULTILINE)
    assert rows
    for names, defaults in rows:
        variables = code(names)
        assert [VARIABLES.get(name) for name in variables] == (code(defaults) or [""] * len(variables)), names


@pytest.mark.parametrize("text", ["README.md", "docs/data.md", "docs/kubernetes.md"])
def test_variables_that_a_page_names_exist(text: str) -> None:
    environment = {
        parameter.envvar for parameter in typer.main.get_command(cli.app).params if parameter.envvar
    }
    page = (ROOT / text).read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:PIPECTL|AIRFLOW|AIRBYTE|COMPOSE)_[A-Z_]*[A-Z]\b", page))
    named -= {name for name in named if name.startswith(("AIRFLOW__", "AIRFLOW_CONN_", "AIRFLOW_VAR_"))}
    assert named <= VARIABLES.keys() | environment | OF_THE_CALLER | OF_TASKS | SECRETS
