"""What the pages promise, held against the app: commands, settings, generated parts, links."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import typer
import yaml
from typer.core import TyperGroup
from typer.exceptions import TyperException

import pages as generated
from pipectl import cli
from pipectl.commands import COMMANDS, PANELS
from pipectl.services import SERVICES
from support import ROOT
from support.pages import DOCS, GUIDES, calls, script

if TYPE_CHECKING:
    from pathlib import Path

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = (ROOT / "stack" / ".env.example").read_text(encoding="utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
# For users: a page that names a variable or a file names one that is there.
FOR_USERS = [ROOT / "README.md", *(path for path in DOCS.rglob("*.md") if path.parent.name != "decisions")]
# Not settings of a project: where it is, and where binaries are cached.
OF_THE_CALLER = {"PIPECTL_CACHE_DIR"}
OF_TASKS = {"PIPECTL_SCRIPTS"}
# They act while they are parsed.
EAGER = {"--help", "--version", "--install-completion", "--show-completion"}
OPTION = r"(?<![\w-])--?[a-z][\w-]*"
REPOSITORY = "https://github.com/pipectl/pipectl/blob/main/"


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


ROOT_COMMAND: Any = typer.main.get_command(cli.app)
ROOT_OPTIONS = options_of(ROOT_COMMAND)
VARIABLES = dict(re.findall(r"^(?:# )?([A-Z][A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE))
# Named where the example says how to make them.
SECRETS = set(re.findall(r"\b(?:PIPECTL|AIRFLOW|AIRBYTE)_[A-Z_]+\b", EXAMPLE)) - VARIABLES.keys()


def parse(words: list[str]) -> None:
    """Parse a call as pipectl does, and run nothing."""
    if EAGER & set(words):
        return
    context: Any = TyperGroup.make_context(ROOT_COMMAND, "pipectl", list(words))
    rest = [*context._protected_args, *context.args]
    name, command, rest = ROOT_COMMAND.resolve_command(context, rest)
    command.make_context(name, rest, parent=context)


def refusal(words: list[str], *, is_typed: bool) -> str:
    """Return why pipectl refuses a call; empty if it takes it."""
    try:
        parse(words)
    except (typer.Exit, typer.Abort, TyperException) as error:
        name = type(error).__name__
        # Sentences name a command, or an option, without the rest.
        is_part = name == "MissingParameter" or "requires an argument" in str(error)
        return "" if is_part and not is_typed else f"{name}: {error}"
    return ""


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_on_a_page_are_taken_by_the_app(page: Path) -> None:
    refused = {
        " ".join(words): why for words, is_typed in calls(page) if (why := refusal(words, is_typed=is_typed))
    }
    assert refused == {}


def test_commands_are_found_in_blocks_and_sentences(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Type `pipectl up --nope`, or `snapshot`.\n\n"
        "```sh\nA=b pipectl --engine docker psql -c 'a | b' > file && .venv/bin/pipectl down # all\n"
        "echo pipectl\n```\n\n```python\npipectl = up()\n```\n"
    )
    assert list(calls(page)) == [
        (["--engine", "docker", "psql", "-c", "a | b"], True),
        (["down"], True),
        (["up", "--nope"], False),
    ]
    assert "No such option: --nope" in refusal(["up", "--nope"], is_typed=False)
    assert refusal(["export"], is_typed=True)
    assert not refusal(["export"], is_typed=False)


def test_pages_from_the_code_are_up_to_date() -> None:
    for name, text in generated.files().items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, f"{name} is stale: make docs"


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


@pytest.mark.parametrize("page", FOR_USERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_variables_that_a_page_names_exist(page: Path) -> None:
    environment = {parameter.envvar for parameter in ROOT_COMMAND.params if parameter.envvar}
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:PIPECTL|AIRFLOW|AIRBYTE|COMPOSE)_[A-Z_]*[A-Z]\b", text))
    named -= {name for name in named if name.startswith(("AIRFLOW__", "AIRFLOW_CONN_", "AIRFLOW_VAR_"))}
    assert named <= VARIABLES.keys() | environment | OF_THE_CALLER | OF_TASKS | SECRETS


def test_settings_on_the_page_of_settings_have_the_defaults_of_the_example() -> None:
    page = (
        (DOCS / "reference" / "settings.md").read_text(encoding="utf-8").split("\n## Settings of Airflow")[0]
    )
    rows = re.findall(r"^\| `([A-Z_]+)` \| (?:`(.*?)`)? ?\|", page, re.MULTILINE)
    assert dict(rows) == VARIABLES


def navigation() -> list[str]:
    def pages(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [
            page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages(part)
        ]

    return pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])


def test_each_page_has_a_place_in_the_site() -> None:
    # Linked from their list; for who writes pages.
    apart = set(DOCS.glob("decisions/0*.md")) | {DOCS / "style.md"}
    assert sorted(navigation()) == sorted(
        str(path.relative_to(DOCS)) for path in set(DOCS.rglob("*.md")) - apart
    )


def test_each_guide_is_tried_in_its_order() -> None:
    guides = [page.removesuffix(".md") for page in navigation() if page.startswith(("tutorial", "how-to/"))]
    assert sorted(GUIDES) == sorted(guides)
    assert "pipectl init fraud\ncd fraud\n" in script("tutorial", "local")
    assert "cat > train.py" in script("tutorial", "local")
    assert "pipectl scale 3" in script("how-to/celery", "docker")
    assert "pipectl" not in script("how-to/celery", "local")


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_reach_headings_and_files_of_the_repository(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    missing = []
    for link in links:
        path, _, anchor = link.partition("#")
        if path.startswith(REPOSITORY):
            target = ROOT / path.removeprefix(REPOSITORY)
        elif "://" in path:
            continue
        else:
            target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            missing.append(link)
    assert missing == []


def test_the_picture_of_the_architecture_has_each_service() -> None:
    picture = (DOCS / "images" / "architecture.svg").read_text(encoding="utf-8")
    assert {service.name for service in SERVICES} <= set(re.findall(r">([^<>]+)</text>", picture))
