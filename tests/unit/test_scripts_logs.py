"""Log lines that people can read and log stores can split again."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from fraud_pipeline.logs import logfmt

PAIR = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)(?: |$)', re.DOTALL)


def split(line: str) -> dict[str, str]:
    pairs = PAIR.findall(line)
    return {key: json.loads(text) if text.startswith('"') else text for key, text in pairs}


def test_fields_follow_the_event_in_their_order() -> None:
    assert logfmt("written", batch="a", transactions=3, seconds=0.12345, ok=True) == (
        "event=written batch=a transactions=3 seconds=0.123 ok=true"
    )


def test_fields_without_a_value_are_left_out() -> None:
    assert logfmt("failed", batch=None, error="") == 'event=failed error=""'


printable = st.text(st.characters(blacklist_categories=("Cs", "Cc"), whitelist_characters="\n\t\r"))


@given(printable)
def test_any_text_stays_on_one_line_and_can_be_read_back(text: str) -> None:
    line = logfmt("failed", error=text, after=1)

    assert "\n" not in line
    assert split(line) == {"event": "failed", "error": text, "after": "1"}
