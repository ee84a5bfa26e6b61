"""The picture of a terminal: what stays on it, and nothing that another host has."""

from __future__ import annotations

import re

import recording


def test_progress_leaves_the_lines_that_stay_on_a_terminal() -> None:
    written = [
        (1.0, "taken\r\nStarting 1 s\r\n\x1b[?25l"),
        (2.0, "\r\x1b[1A\x1b[2K\x1b[32mUp\x1b[0m\r\nNe"),
        (3.0, "xt\r\n\r\n\x1b[?25h"),
    ]
    assert recording.lines_left(written) == [(1.0, "taken"), (2.0, "\x1b[32mUp\x1b[0m"), (3.0, "Next")]


def test_each_line_of_the_picture_comes_at_its_time_and_no_font_from_another_host() -> None:
    picture = recording.draw([(0.5, "$ pipectl up"), (2.0, "\x1b[32mUp\x1b[0m")])
    # A line may be several texts, one for each colour.
    assert list(dict.fromkeys(re.findall(r"animation-delay:([\d.]+)s", picture))) == ["0.5", "2.0"]
    assert [address for address in re.findall(r"https?://[^\"' )]+", picture) if "w3.org" not in address] == [
        "https://www.textualize.io"
    ]
    # In a comment of Rich's.
    assert "<!-- Generated with Rich https://www.textualize.io -->" in picture
