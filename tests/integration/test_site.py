"""The documentation as a site: built as `make site` builds it, and complete without another host."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from pipectl.engines.local import uv
from pipectl.errors import EngineError
from support import ROOT
from support.needs import need

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration
LOADING = {"src", "href", "srcset", "action"}


def recipe() -> list[str]:
    """Return the words by which `make site` builds it."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", "")
    found = re.search(r"^site:.*\n\t\.venv/bin/python (.*)$", makefile, re.MULTILINE)
    assert found
    return shlex.split(found[1])


def install() -> None:
    words = recipe()
    words = words[words.index("run") : words.index("zensical")]
    requirements = words.index("ops/site.txt")
    words[requirements] = str(ROOT / "ops" / "site.txt")
    uv.run((*words, "zensical", "--version"), EngineError("ops/site.txt cannot be installed."))


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *recipe()], cwd=folder, capture_output=True, text=True, check=False, timeout=240
    )


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("site", install)
    folder = tmp_path_factory.mktemp("sources")
    shutil.copytree(ROOT / "docs", folder / "docs")
    (folder / "ops").mkdir()
    shutil.copy2(ROOT / "ops" / "site.txt", folder / "ops")
    shutil.copy2(ROOT / "mkdocs.yml", folder)
    return folder


class Loaded(HTMLParser):
    """Collects what a browser loads for a page by itself: not where its links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"a", "form"} and ("rel", "canonical") not in attrs:
            self.addresses += [value for name, value in attrs if name in LOADING and value]


def test_the_site_is_built_without_a_warning_and_loads_nothing_from_another_host(sources: Path) -> None:
    done = build(sources)
    assert done.returncode == 0, done.stderr
    pages = list((sources / "site").rglob("*.html"))
    assert len(pages) > len(list((sources / "docs" / "how-to").iterdir()))
    for page in pages:
        loaded = Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        assert loaded.addresses
        assert [address for address in loaded.addresses if re.match(r"(https?:)?//", address)] == [], page
    for style in (sources / "site").rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", style.read_text(encoding="utf-8")), (
            style
        )


def test_a_link_to_nowhere_is_an_error(sources: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    shutil.copytree(sources / "ops", small / "ops")
    (small / "docs").mkdir()
    (small / "docs" / "index.md").write_text("# One page\n\n[nowhere](#nowhere)\n")
    settings = (sources / "mkdocs.yml").read_text(encoding="utf-8")
    (small / "mkdocs.yml").write_text(settings[: settings.index("\nnav:")], encoding="utf-8")
    done = build(small)
    assert done.returncode != 0
    assert "anchor does not exist" in done.stderr
