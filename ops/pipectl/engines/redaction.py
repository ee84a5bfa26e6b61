"""Text without secrets: whatever the project's files hold, in whatever spelling it turns up again."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import shlex
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

from pipectl import json_text, ordinary
from pipectl.engines.airflow_env import ESCAPES, OF_THE_STACK, OWN, read, user_settings
from pipectl.env_file import EnvFile
from pipectl.errors import PipectlError
from pipectl.settings import kept_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pipectl.engines.base import Engine
    from pipectl.settings import Settings

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
# What is shorter may be the end of one line and the start of another.
SHORTEST_FOLDED = 8
# Where a long value goes on: in the next line, which in a log begins with a time and ends with who wrote it.
FOLD = re.compile(
    r"(?:[ \t]+\[[\w.-]+\](?:[ \t]+\w+=\S*)*)?[ \t]*\r?\n"
    r"(?:\[?\d{4}-\d\d-\d\d[T ][\d:.,]+(?:Z|[+-][\d:]+|[ \t]UTC)?\]?(?:[ \t]*\[[\w. -]+\])*[ \t]*)?"
    r"|[\s\\]+"
)
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
    """Replaces each of a number of secrets by a mask, and what looks like a secret of somebody else's."""

    def __init__(self, secrets: Iterable[str]) -> None:
        spelt = {spelling for secret in secrets for spelling in spellings(secret)}
        # A longer one may hold a shorter one.
        self._spellings = sorted(spelt, key=len, reverse=True)
        solid = {FOLD.sub("", spelling) for spelling in spelt}
        self._solid = [spelling for spelling in solid if len(spelling) >= SHORTEST_FOLDED]

    def within(self, value: Any) -> Any:  # noqa: ANN401  whatever JSON holds
        """Return a text, or each text in a JSON value, without them: a long log in one pass."""
        text = "\n".join(_texts(value))
        solid = FOLD.sub("", text)
        present = Redactor(())
        present._spellings = [spelling for spelling in self._spellings if spelling in text]
        present._solid = [spelling for spelling in self._solid if spelling in solid]
        return _each_text(value, present)

    def __call__(self, text: str) -> str:
        """Return the text without them."""
        # Before a part of a secret that begins with another one is masked.
        text = self._without_folded(text)
        for spelling in self._spellings:
            if len(spelling) >= SHORTEST:
                text = text.replace(spelling, MASK)
            elif spelling in text:
                text = re.sub(rf"(?<!\w){re.escape(spelling)}(?!\w)", MASK, text)
        text = PRIVATE_KEYS.sub(MASK, text)
        text = TOKENS.sub(MASK, text)
        text = HEADERS.sub(rf"\g<1>{MASK}", text)
        return LOGINS.sub(MASK, text)

    def _without_folded(self, text: str) -> str:
        """Mask what goes on in the next line, as base64 and long values do, wherever it is broken."""
        solid = FOLD.sub("", text)
        spans = []
        for spelling in self._solid:
            start = solid.find(spelling)
            while start >= 0:
                spans.append((start, start + len(spelling)))
                start = solid.find(spelling, start + 1)
        if not spans:
            return text
        places: list[int] = []
        end = 0
        for fold in FOLD.finditer(text):
            places += range(end, fold.start())
            end = fold.end()
        places += range(end, len(text))
        masked, done = [], 0
        for start, end in sorted(spans):
            first, last = places[start], places[end - 1] + 1
            # The others are spelt as they are; what Python or JSON has written several times over has more
            # backslashes than any spelling. Of those that overlap one mask is enough.
            if "\n" in text[first:last] or "\\" in text[first:last]:
                masked += [text[done:first], MASK] if first >= done else []
                done = max(done, last)
        return "".join((*masked, text[done:]))


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
    """Yield a secret as it is written in addresses, JSON, HTML, Python, a shell, hex and base64.

    docs/troubleshooting.md lists them.
    """
    yield secret
    for safe in ("", "/", "/:"):
        quoted = quote(secret, safe=safe)
        yield quoted
        yield re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), quoted)
        yield quote(quoted, safe="")
    yield quote_plus(secret)
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield json.dumps(json.dumps(secret)[1:-1])[1:-1]
    content = secret.encode(errors="surrogateescape")
    yield repr(secret)[1:-1]
    yield ascii(secret)[1:-1]
    yield repr(content)[2:-1]
    # Within a text that has quotes of both kinds.
    yield repr(f"{secret}'\"")[1:-4]
    yield repr(content + b"'\"")[2:-4]
    # Jinja has numbers of its own for quotes.
    numbered = html.escape(secret, quote=False).replace("'", "&#39;").replace('"', "&#34;")
    for escaped in (html.escape(secret), html.escape(secret, quote=False), numbered):
        yield escaped
        yield escaped.encode("ascii", "xmlcharrefreplace").decode()
    for form in ("&#{};", "&#x{:x};", "&#x{:X};"):
        yield "".join(form.format(ord(character)) for character in secret)
    yield shlex.quote(secret)
    yield secret.replace("$", "$$")
    yield secret.replace("%", "%%")
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
