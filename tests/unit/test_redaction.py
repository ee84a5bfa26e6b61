"""Secrets never come through, however they are written."""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pipectl.engines.redaction import MASK, SHORTEST, SHORTEST_FOLDED, Redactor, bare

if TYPE_CHECKING:
    from collections.abc import Callable

# Of any printable characters, and many of those that writers change.
SPECIAL = "%&$+/:@=#?\\'\"`<>!{}|;, ~.-_09afAFnrtux"
secrets = st.text(
    st.one_of(
        st.sampled_from(SPECIAL),
        st.characters(min_codepoint=33, max_codepoint=126),
        st.characters(categories=["L", "N", "P", "S"]),
    ),
    min_size=SHORTEST,
    max_size=40,
).filter(lambda secret: secret == secret.strip() and len(bare(secret)) >= SHORTEST)


def of_sqlalchemy_1(secret: str) -> str:
    """As SQLAlchemy 1.4 shows a password in an address."""
    return re.sub("[:@/]", lambda found: f"%{ord(found[0]):X}", secret)


def of_go(secret: str) -> str:
    """As docker writes JSON."""
    text = json.dumps(secret, ensure_ascii=False)[1:-1]
    return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text)


def of_libpq(secret: str) -> str:
    return re.sub(r"([\\'])", r"\\\1", secret)


def of_bash(secret: str) -> str:
    """As `printf %q` writes it."""
    return re.sub(r"([^\w@%+=:,./-])", r"\\\1", secret)


def of_shell_trace(secret: str) -> str:
    """As `set -x` writes it."""
    return secret.replace("'", "'\\''")


def of_octal(secret: str) -> str:
    """As git and ls write a name."""
    content = secret.replace("\\", r"\\").encode()
    return "".join(f"\\{byte:03o}" if byte > 126 else chr(byte) for byte in content)


WRITERS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "address": lambda secret: quote(secret, safe=""),
    "path": quote,
    "form": quote_plus,
    "SQLAlchemy 2": lambda secret: quote(secret, safe=" +"),
    "SQLAlchemy 1.4": of_sqlalchemy_1,
    "lower case address": lambda secret: re.sub(
        "%[0-9A-F]{2}", lambda found: found[0].lower(), quote(secret, safe="")
    ),
    "JSON": lambda secret: json.dumps(secret)[1:-1],
    "JSON in Unicode": lambda secret: json.dumps(secret, ensure_ascii=False)[1:-1],
    "Go": of_go,
    "Python": lambda secret: repr(secret)[1:-1],
    "Python with quotes": lambda secret: repr(f"{secret}'\"")[1:-4],
    "Python's ASCII": lambda secret: ascii(secret)[1:-1],
    "Python's bytes": lambda secret: repr(secret.encode())[2:-1],
    "HTML": html.escape,
    "Jinja": lambda secret: html.escape(secret, quote=False).replace("'", "&#39;").replace('"', "&#34;"),
    "XML": lambda secret: quoteattr(secret)[1:-1],
    "XML in ASCII": lambda secret: html.escape(secret).encode("ascii", "xmlcharrefreplace").decode(),
    "shell": lambda secret: shlex.quote(secret).strip("'"),
    "shell's trace": of_shell_trace,
    "bash": of_bash,
    "libpq": of_libpq,
    "SQL": lambda secret: secret.replace("'", "''"),
    "INI": lambda secret: secret.replace("%", "%%"),
    "Compose": lambda secret: secret.replace("$", "$$"),
    "octal": of_octal,
}
# Around a value: text that is not read together with it.
PLACES = ("password={}, and more", '{{"password": "{}"}}', "- KEY='{}'", "+KEY: {} # new", "<p>{}</p>", "{}")
WITNESS = "a line of somebody else's"


def assert_masked(secret: str, written: str, place: str) -> None:
    """Nothing of what was written is left, but what writers add around it."""
    assume(bare(secret) not in bare(place + WITNESS))
    text = place.format(written)
    masked = Redactor([secret])(f"{WITNESS}\n{text}\n{WITNESS}")
    lines = masked.splitlines()
    assert (lines[0], lines[-1]) == (WITNESS, WITNESS)
    before, after = place.replace("{{", "{").replace("}}", "}").split("{}") if "{}" in place else ("", "")
    whole = "\n".join(lines[1:-1])
    assert whole.startswith(before), masked
    assert whole.endswith(after), masked
    left = bare(whole[len(before) : len(whole) - len(after)])
    assert MASK in left
    assert left.replace(MASK, "") == "", masked


@pytest.mark.parametrize("writer", WRITERS)
@example(secret="00%/", place="{}")
@given(secret=secrets, place=st.sampled_from(PLACES))
def test_no_writer_lets_a_secret_through(writer: str, secret: str, place: str) -> None:
    assert_masked(secret, WRITERS[writer](secret), place)


@given(
    secret=secrets,
    first=st.sampled_from(sorted(WRITERS)),
    second=st.sampled_from(sorted(WRITERS)),
    place=st.sampled_from(PLACES),
)
def test_nor_do_two_writers_one_after_the_other(secret: str, first: str, second: str, place: str) -> None:
    assert_masked(secret, WRITERS[second](WRITERS[first](secret)), place)


logins = st.text(st.characters(min_codepoint=97, max_codepoint=122), max_size=6)


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@given(secret=secrets, user=logins, after=logins)
def test_no_login_in_base64_lets_a_secret_through(
    encode: Callable[[bytes], bytes], secret: str, user: str, after: str
) -> None:
    text = encode(f"{user}:{secret}{after}".encode()).decode()
    folded = [f"{text[:9]}\n{text[9:]}"] if len(secret) >= SHORTEST_FOLDED else []
    for written in (text, quote(text, safe=""), json.dumps({"auth": text}), *folded):
        masked = Redactor([secret])(f"auth {written} end")
        assert MASK in masked, masked
        # In the characters at both ends other bytes have a part.
        first, last = -(-8 * len(f"{user}:") // 6), 8 * len(f"{user}:{secret}".encode()) // 6
        assert text[first:last] not in bare(masked), masked


@example(secret="0000\\a", order="utf-16-le")
@given(secret=secrets.filter(lambda text: text.isascii()), order=st.sampled_from(["utf-16-le", "utf-16-be"]))
def test_a_log_in_utf_16_that_was_read_as_bytes_lets_no_secret_through(secret: str, order: str) -> None:
    assert_masked(secret, secret.encode(order).decode(), "{}")


@given(
    secret=secrets.filter(lambda text: len(bare(text)) >= SHORTEST_FOLDED),
    share=st.floats(0.1, 0.9),
    fold=st.sampled_from(["\n", "\n    ", "\\\n", "\n2026-11-26 19:20:11.123 UTC [77] "]),
)
def test_no_broken_line_lets_a_secret_through(secret: str, share: float, fold: str) -> None:
    place = 1 + int((len(secret) - 2) * share)
    assert_masked(secret, f"{secret[:place]}{fold}{secret[place:]}", "{}")


@given(st.lists(st.sampled_from(["post", "gres", "data", "base", "ready", "x=1", "'a'"]), max_size=12))
def test_ordinary_words_side_by_side_are_no_secret(words: list[str]) -> None:
    text = " ".join(words)
    assert Redactor(["postgresdata", "readybase", "gresdata"])(text) == text


def test_a_secret_that_was_written_as_python_several_times_over_is_masked() -> None:
    secret = 'pa$wörd/with "quote'
    for write in (repr, json.dumps, ascii):
        text = secret
        for _ in range(4):
            text = write(f"'{text}\"")
            masked = Redactor([secret])(f"login whuser {text} end")
            assert "quote" not in masked, text
            assert MASK in masked


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-26T19:20:11.123456Z [info     ] {}      [dag_processor.stdout] bundle_name=a path=b\n"
        "2026-11-26T19:20:11.123999Z [info     ] {}  [dag_processor.stdout] bundle_name=a path=b\n",
        "2026-11-26 19:20:11.123 UTC [77] LOG: {}\n2026-11-26 19:20:11.124 UTC [77] {}\n",
        "[2026-11-26T19:20:11.123+0000] {}\n[2026-11-26T19:20:11.124+0000] {}",
        "{}\n2026-11-26 19:20:11,123 [INFO] {}",
    ],
)
def test_a_secret_that_is_folded_over_lines_of_a_log_is_masked(text: str) -> None:
    secret = "wJalrXUtnFEMIbPxRfiCYEXAMPLEKEY"
    masked = Redactor([secret])(text.format(secret[:15], secret[15:]))
    assert secret[:15] not in masked
    assert secret[15:] not in masked
    # Lines that have none of it stay as they are.
    plain = text.format("fine", "too")
    assert Redactor([secret])(plain) == plain


def test_texts_within_json_are_masked_and_its_form_stays() -> None:
    redact = Redactor(["sesame street", "never"])
    log = [{"event": "says sesame street", "level": "error", "number": 3, "frames": [{"name": "f"}, None]}]
    assert redact.within(log) == [{**log[0], "event": f"says {MASK}"}]
    assert redact.within("postgresql://other@host sesame\nstreet") == f"postgresql://{MASK}@host {MASK}"
