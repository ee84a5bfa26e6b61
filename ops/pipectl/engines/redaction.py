"""Text without secrets: whatever the project's files hold, in whatever spelling it turns up again."""

from __future__ import annotations

import base64
import html
import os
import re
import sys
from array import array
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote_plus, unquote, urlsplit

from pipectl import json_text, ordinary
from pipectl.engines.airflow_env import ESCAPES, OF_THE_STACK, OWN, read, user_settings
from pipectl.env_file import EnvFile
from pipectl.errors import PipectlError
from pipectl.settings import kept_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pipectl.engines.base import Engine
    from pipectl.settings import Settings

    Replaced = Callable[[str, re.Pattern[str], Callable[[re.Match[str]], str]], str]
    Reading = Callable[..., str]

MASK = "********"
# Of documented settings. Of all others, and of a user's own files, every value is kept secret.
SECRET_NAME = re.compile("PASSWORD|SECRET|KEY|WEBHOOK|TOKEN")
LOOKS_SECRET = re.compile("PASS|SECRET|KEY|TOKEN|CRED|CONN|WEBHOOK|PWD|DSN", re.IGNORECASE)
# A shell's working directories, whose names look like a password's.
FOLDERS = {"PWD", "OLDPWD"}
# Fields of a connection that are no secret; all others may be.
OPEN_FIELDS = {"conn_type", "description", "host", "login", "port", "schema"}
# What may stand in a file of settings, and everywhere else too.
WORDS = re.compile(r"(?i)true|false|none|null|yes|no|on|off|info|debug|warning|error|utc|\d{1,5}|\d*\.\d+")
SHORTEST = 4
# What is shorter is looked for if each character is encoded, as %41.
SHORTEST_ENCODED, LEAST_ENCODED = 3, 3
# What is shorter may be the end of one line and the start of another.
SHORTEST_FOLDED = 8
# Where a long value goes on: in the next line, which in a log begins with a time and ends with who wrote it.
FOLD = re.compile(
    # A shell's line goes on after a backslash, which may also be that of \xNN or \uNNNN, broken in two.
    r"\\+(?=\s)(?!\s+(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}))"
    r"|(?:[ \t]+\[[\w.-]+\](?:[ \t]+\w+=\S*)*)?[ \t]*\r?\n"
    r"(?:\[?\d{4}-\d\d-\d\d[T ][\d:.,]+(?:Z|[+-][\d:]+|[ \t]UTC)?\]?(?:[ \t]*\[[\w. -]+\])*[ \t]*)?"
    r"|\s+"
)
# Characters as addresses, HTML and XML, JSON, Python, shells, Compose and INI files write them.
ENCODED = re.compile(
    r"(?P<percent>(?:%[0-9A-Fa-f]{2})+)"
    r"|(?P<entity>&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|amp|lt|gt|quot|apos);)"
    r"|(?P<bytes>(?:\\x[0-9A-Fa-f]{2})+)"
    r"|(?P<octal>(?:\\[0-3][0-7]{2})+)"
    r"|(?P<units>(?:\\u[0-9A-Fa-f]{4})+)"
    r"|(?P<character>\\U00[01][0-9A-Fa-f]{5})"
    r"|\\(?:[abefnrtv0]|(?P<escaped>[^\w\s]))"
    r"|(?P<doubled>[%$])(?P=doubled)+"
)
# JSON in a text in an address in a log: one layer inside the other.
MOST_LAYERS = 8
# UTF-16 read as bytes has zeros, which would stand between the characters of an escape.
ZEROS = re.compile(r"\0+")
# What writers add around and within a value, whatever their rules for it.
LOOSE = re.compile(r"[\s\\'\"`]+")
INSTALL = OWN.with_name("install.env")
# Secrets that no file of the project has: tokens, logins in addresses, private keys.
TOKENS = re.compile(r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+")
LOGINS = re.compile(r"(?<=://)[^\s/@'\"]+(?=@)")
HEADERS = re.compile(r"(?i)\b((?:Basic|Bearer)\s+)[\w.~+/=-]{8,}")
PRIVATE_KEYS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
ESCAPED = re.compile(r"\\(.)")
ASSIGNED = re.compile(r"^[ \t]*(?:export[ \t]+)?(\w+)[ \t]*=[ \t]*(.*?)[ \t\r]*$", re.MULTILINE)


def is_open(name: str, documented: Iterable[str]) -> bool:
    """Whether the value of a setting of stack/.env may be shown."""
    return name in documented and not SECRET_NAME.search(name)


def documented_settings(settings: Settings) -> dict[str, str]:
    """Return the settings that stack/.env.example lists, with their defaults, which everybody knows."""
    try:
        example = ordinary.read_text(settings.env_path.with_name(".env.example"))
    except (OSError, UnicodeDecodeError):
        return {}
    return dict(re.findall(r"^# ([A-Z][A-Z0-9_]*)=(.*)$", example, re.MULTILINE))


class Redactor:
    """Replaces each of a number of secrets by a mask, and what looks like a secret of somebody else's.

    docs/troubleshooting.md says in which spellings.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        spelt = {spelling for secret in secrets for spelling in spellings(secret)}
        # A longer one may hold a shorter one.
        self._spellings = sorted(spelt, key=len, reverse=True)
        # Of those that read the same the one with most blanks.
        self._bare = {
            read(spelling): _blanks(spelling) for spelling in sorted(spelt, key=_blanks) for read in READINGS
        }
        self._bare = {text: blanks for text, blanks in self._bare.items() if len(text) >= SHORTEST_ENCODED}

    def within(self, value: Any) -> Any:  # noqa: ANN401  whatever JSON holds
        """Return a text, or each text in a JSON value, without them: a long log in one pass."""
        text = "\n".join(_texts(value))
        its_bare = [read(text) for read in READINGS]
        present = Redactor(())
        present._spellings = [spelling for spelling in self._spellings if spelling in text]
        present._bare = {
            spelling: blanks
            for spelling, blanks in self._bare.items()
            if any(spelling in each for each in its_bare)
        }
        return _each_text(value, present)

    def __call__(self, text: str) -> str:
        """Return the text without them."""
        # Before a part of a secret that begins with another one is masked.
        text = self._without_bare(text)
        for spelling in self._spellings:
            if len(spelling) >= SHORTEST:
                text = text.replace(spelling, MASK)
            elif spelling in text:
                text = re.sub(rf"(?<!\w){re.escape(spelling)}(?!\w)", MASK, text)
        text = PRIVATE_KEYS.sub(MASK, text)
        text = TOKENS.sub(MASK, text)
        text = HEADERS.sub(rf"\g<1>{MASK}", text)
        return LOGINS.sub(MASK, text)

    def _without_bare(self, text: str) -> str:
        """Mask what is a secret once it is read as a program reads it, and wherever lines are broken."""
        spans = {span for read in READINGS for span in self._read_in(text, read)} if self._bare else set()
        masked, done = [], 0
        for first, last in sorted(spans):
            # Of those that overlap one mask is enough.
            masked += [text[done:first], MASK] if first >= done else []
            done = max(done, last)
        return "".join((*masked, text[done:]))

    def _read_in(self, text: str, read: Reading) -> Iterator[tuple[int, int]]:
        """Yield where a text is a secret in one of its readings."""
        its_bare = read(text)
        present = [spelling for spelling in self._bare if spelling in its_bare]
        if not present:
            return
        origins = _Origins(len(text))
        read(text, origins.replaced)
        for spelling in present:
            start = its_bare.find(spelling)
            while start >= 0:
                first, last = origins.span(start, start + len(spelling))
                if self._is_secret(spelling, text[first:last]):
                    yield first, last
                start = its_bare.find(spelling, start + 1)

    def _is_secret(self, spelling: str, text: str) -> bool:
        """Whether a text that is read as a secret is no ordinary words side by side, or a part of one."""
        written = len(FOLD.sub("", text))
        is_folded = "\n" in text and written >= SHORTEST_FOLDED
        is_long = len(spelling) >= SHORTEST or written >= LEAST_ENCODED * len(spelling)
        return is_long and (is_folded or _blanks(text) <= self._bare[spelling])


def _blanks(text: str) -> int:
    return sum(character.isspace() for character in text)


def _replaced(text: str, pattern: re.Pattern[str], decoded: Callable[[re.Match[str]], str]) -> str:
    return pattern.sub(decoded, text)


def bare(text: str, replaced: Replaced = _replaced) -> str:
    """Return a text as a program reads it, whoever has encoded it how often: without quotes and blanks.

    Two texts that stand for the same value are equal then. `replaced` does what Pattern.sub does.
    """
    text = replaced(text, ZEROS, _nothing)
    text = replaced(text, FOLD, _nothing)
    return replaced(_decode(text, replaced), LOOSE, _nothing)


def bare_line_by_line(text: str, replaced: Replaced = _replaced) -> str:
    """Return it too, but an encoded character ends where its line does."""
    text = _decode(replaced(text, ZEROS, _nothing), replaced)
    text = replaced(text, FOLD, _nothing)
    return replaced(text, LOOSE, _nothing)


# A secret may be written over several lines, and may end in %0 before a line that begins with a digit.
READINGS: tuple[Reading, ...] = (bare, bare_line_by_line)


def _nothing(_: re.Match[str]) -> str:
    return ""


def _decode(text: str, replaced: Replaced) -> str:
    for _ in range(MOST_LAYERS):
        before, text = text, replaced(text, ENCODED, _decoded)
        if text == before:
            break
    return text


def _of_bytes(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        # Python writes characters below 256 as bytes too.
        return content.decode("latin-1")


# By the names of ENCODED's groups; of others the sign itself counts, and of a line break nothing.
DECODERS: dict[str | None, Callable[[str], str]] = {
    "entity": html.unescape,
    "percent": lambda text: _of_bytes(bytes.fromhex(text.replace("%", ""))),
    "bytes": lambda text: _of_bytes(bytes.fromhex(text.replace("\\x", ""))),
    "octal": lambda text: _of_bytes(bytes(int(digits, 8) for digits in text.split("\\")[1:])),
    "units": lambda text: bytes.fromhex(text.replace("\\u", "")).decode("utf-16-be", "surrogatepass"),
    "character": lambda text: chr(min(int(text.removeprefix("\\U"), base=16), sys.maxunicode)),
}


def _decoded(found: re.Match[str]) -> str:
    kind = found.lastgroup
    if decode := DECODERS.get(kind):
        return decode(found[0])
    return found[kind] if kind else ""


class _Origins:
    """Where each character of a text stood before parts of it were replaced, again and again."""

    def __init__(self, length: int) -> None:
        self._starts = array("L", range(length))
        self._ends = array("L", range(1, length + 1))

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return the part of the first text from which a part of the latest one comes."""
        return self._starts[start], self._ends[end - 1]

    def replaced(self, text: str, pattern: re.Pattern[str], decoded: Callable[[re.Match[str]], str]) -> str:
        """Return the text with each match of the pattern replaced."""
        pieces, starts, ends, done = [], array("L"), array("L"), 0
        for found in pattern.finditer(text):
            first, last = found.span()
            new = decoded(found)
            pieces += [text[done:first], new]
            starts += self._starts[done:first] + array("L", [self._starts[first]]) * len(new)
            ends += self._ends[done:first] + array("L", [self._ends[last - 1]]) * len(new)
            done = last
        self._starts, self._ends = starts + self._starts[done:], ends + self._ends[done:]
        return "".join((*pieces, text[done:]))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for inner in value.values() for text in _texts(inner))
    elif isinstance(value, list | tuple):
        yield from (text for inner in value for text in _texts(inner))


def _each_text(value: object, change: Callable[[str], str]) -> Any:  # noqa: ANN401  of the value's own form
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {name: _each_text(inner, change) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_each_text(inner, change) for inner in value)
    return value


def spellings(secret: str) -> Iterator[str]:
    """Yield what a secret is written as, if that is not read from the text as the secret itself.

    What is read so, in any order and depth, is in ENCODED: addresses, JSON, HTML, XML, Python and shells.
    """
    yield secret
    # Blanks as forms in addresses have them.
    yield quote_plus(secret)
    # As SQLAlchemy 1.4 does, which leaves a percent sign as it is: before another one it reads as doubled.
    yield re.sub("[:@/]", lambda found: f"%{ord(found[0]):X}", secret)
    # Bytes or characters, of which the spelling does not tell.
    yield ascii(secret)[1:-1]
    content = secret.encode(errors="surrogateescape")
    # Also of one that is too short to be read.
    for form in ("&#{};", "&#x{:x};", "&#x{:X};"):
        yield "".join(form.format(ord(character)) for character in secret)
    for digits in (content.hex(" "), content.hex(" ").upper()):
        for separator in ("", " ", ":", "-", "\\x"):
            yield digits.replace(" ", separator)
    yield from _in_base64(content)


def _in_base64(content: bytes) -> Iterator[str]:
    """Yield what base64 makes of it, whatever stands before and after it, as the user's name of a login."""
    for before in range(3):
        # Six bits a character: those that no other byte has a part in.
        first, last = -(-8 * before // 6), 8 * (before + len(content)) // 6
        if last - first < SHORTEST:
            continue
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(bytes(before) + content)[first:last].decode()


def secrets_of(engine: Engine) -> set[str]:
    """Return all secrets of a project: of its files, of what runs, and of this shell."""
    settings = engine.settings
    documented = documented_settings(settings)
    found: set[str] = set()
    kept = {name: str(value) for name, value in json_text.read_object(kept_path(settings.project)).items()}
    for variables in (settings.variables, _read(settings), kept):
        for name, value in variables.items():
            if not is_open(name, documented):
                found |= set(parts(name, value))
    with suppress(PipectlError):
        # With what they take from other variables.
        own, values = user_settings(settings.project), read(settings.project, settings.variables)
        found |= {part for name in own & values.keys() for part in parts(name, values[name])}
    for path in (OWN, INSTALL):
        for name, value in _assignments(settings, path):
            found |= set(parts(name, value)) | set(_beside_its_name(name, value))
    for started in (*_started(engine), dict(os.environ)):
        for name, value in started.items():
            is_secret = name in OF_THE_STACK or (LOOKS_SECRET.search(name) and name not in FOLDERS)
            found |= set(parts(name, value) if is_secret else _of_address(value))
    # Everybody knows the defaults, and the names of services are among them.
    return {secret for secret in found if secret and secret not in documented.values()}


def _read(settings: Settings) -> dict[str, str]:
    try:
        return EnvFile(settings.env_path).read()
    except PipectlError:
        return {}


def _assignments(settings: Settings, path: object) -> Iterator[tuple[str, str]]:
    """Yield the names and values of a user's file, each value as written, and without quotes or escapes."""
    try:
        text = ordinary.read_text(settings.project / str(path), errors="replace")
    except OSError:
        return
    for name, value in ASSIGNED.findall(text):
        yield name, value
        bare = value.strip("'\"")
        yield name, bare
        yield name, bare.replace("$$", "$")
        # As Airflow gets it, also while another line of the file is refused.
        yield name, ESCAPED.sub(lambda found: ESCAPES.get(found[1], found[1]), bare)


def _started(engine: Engine) -> Iterator[Mapping[str, str]]:
    with suppress(PipectlError):
        yield from engine.started_with().values()
    for path in sorted((engine.settings.state_dir / "run").glob("*")):
        known = json_text.read_object(path) if path.suffix in {".json", ".started"} else {}
        for name in ("environment", "settings"):
            variables = known.get(name)
            if isinstance(variables, dict):
                yield {str(key): str(value) for key, value in variables.items()}


def parts(name: str, value: str) -> Iterator[str]:
    """Yield a secret value, and those that an address, a connection or a JSON object has inside."""
    if WORDS.fullmatch(value) and not SECRET_NAME.search(name):
        return
    if len(value) >= SHORTEST or SECRET_NAME.search(name):
        yield value
    yield from _of_address(value)
    if value.startswith("{"):
        try:
            yield from _of_json(json_text.parse(value))
        except ValueError:
            return
    for key, word in re.findall(r"(\w+)=(\S+)", value):
        if LOOKS_SECRET.search(key):
            yield word.strip("'\"")


def _beside_its_name(name: str, value: str) -> Iterator[str]:
    """Yield what is too short to be masked wherever it stands, as it stands beside its name."""
    if 0 < len(value) < SHORTEST:
        for form in ("{}={}", "'{}', '{}'", "'{}': '{}'", '"{}": "{}"'):
            yield form.format(name, value)


def _of_address(value: str) -> Iterator[str]:
    try:
        address = urlsplit(value)
    except ValueError:
        return
    # A token may stand in the place of the user.
    if login := address.password or address.username:
        yield login
        yield unquote(login)
    if address.scheme and address.query:
        yield from (text for _, text in parse_qsl(address.query) if len(text) >= SHORTEST)


def _of_json(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in OPEN_FIELDS:
                yield from _of_json(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _of_json(inner)
    elif isinstance(value, str) and len(value) >= SHORTEST:
        yield from parts("SECRET", value)
