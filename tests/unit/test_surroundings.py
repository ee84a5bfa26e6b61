"""What processes get of the caller's environment, and what is shown of whatever there is."""

from __future__ import annotations

import ast
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import proxies
from pipectl import surroundings
from pipectl.console import visible
from pipectl.documents import dump
from pipectl.engines.local import airflow, uv
from pipectl.engines.project import require_unix_line_ends
from pipectl.errors import (
    DatabaseError,
    DatabaseRefusedError,
    DatabaseSilentError,
    LoginError,
    UsageError,
    remedy,
)
from pipectl.models import DatabaseAddress
from pipectl.settings import Settings, cache_dir, load
from support import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTILE = {
    "PGHOST": "elsewhere",
    "PYTHONPATH": "/nowhere",
    "BASH_ENV": "/nowhere",
    "UV_CONSTRAINT": "/nowhere",
    "AIRFLOW_HOME": "/nowhere",
    "SECRET_OF_THE_SHELL": "sesame",
}


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("hostile")
def test_a_process_gets_what_is_listed_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:1")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://index.example")
    monkeypatch.setenv("UV_INDEX_OURS_PASSWORD", "x")
    plain, network, installer = (
        surroundings.environment(),
        surroundings.with_network(),
        surroundings.of_installers(),
    )
    assert not HOSTILE.keys() & (plain.keys() | network.keys() | installer.keys())
    assert plain["PATH"] == os.environ["PATH"]
    assert ("http_proxy" in plain, network["http_proxy"]) == (False, "http://proxy:1")
    assert "UV_DEFAULT_INDEX" not in network
    assert {"UV_DEFAULT_INDEX", "UV_INDEX_OURS_PASSWORD", "http_proxy"} <= installer.keys()


def test_what_a_process_cannot_do_without_is_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "USER", "LOGNAME", "PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", "/nowhere")
    found = surroundings.environment()
    assert Path(found["HOME"]).is_dir()
    assert found["USER"]
    assert found["PATH"]
    assert "TMPDIR" not in found


def test_where_a_home_is_known_none_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/here")
    monkeypatch.setattr(surroundings, "_home", lambda: pytest.fail("looked for a home"))
    assert surroundings.environment()["HOME"] == "/here"


def calls_of_subprocess(path: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"subprocess.run", "subprocess.Popen"}:
            yield node


def test_every_process_that_pipectl_starts_has_an_environment_of_its_own() -> None:
    calls = [
        (path, call)
        for path in (ROOT / "ops" / "pipectl").rglob("*.py")
        for call in calls_of_subprocess(path)
    ]
    assert len(calls) > 10
    inherited = [
        f"{path}:{call.lineno}"
        for path, call in calls
        if not any(word.arg == "env" and ast.unparse(word.value) != "os.environ" for word in call.keywords)
    ]
    assert inherited == []


@pytest.mark.parametrize(
    ("variable", "kept"),
    [
        ("PGTZ", False),
        ("MYSQL_HOST", False),
        ("COMPOSE_ANSI", False),
        ("DOCKER_TLS_VERIFY", False),
        ("DOCKER_HOST", True),
        ("MYSQL_IMAGE", True),
        ("COMPOSE_PROJECT_NAME", True),
    ],
)
def test_variables_of_clients_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    kept: bool,  # noqa: FBT001
) -> None:
    monkeypatch.setenv(variable, "x")
    surroundings.forget_clients()
    assert (variable in os.environ) == kept


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", True),
        ("1000", True),
        ("1", False),
        ("0", False),
        ("-1", False),
        ("²", False),
        ("1" * 5000, False),
        ("", False),
    ],
)
def test_widths(text: str, expected: bool) -> None:  # noqa: FBT001
    assert surroundings.is_width(text) == expected


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of pip's settings, and no other settings of installers."""
    for name in os.environ:
        if name.startswith(("UV_", "PIP_")) or name == "SSL_CERT_FILE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    path = tmp_path / "pip.conf"
    path.write_text(
        "[global]\nindex-url = https://file.example\ncert = /a b/ca.crt\n"
        "extra-index-url =\n    https://one.example\n    https://two.example\n"
        "[install]\ntrusted-host = one.example\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(path))
    return path


def uv_variables() -> dict[str, str]:
    with uv.environment() as (_, variables):
        return {name: variables.get(name, "") for name in (*uv.OF_PIP.values(), "UV_INDEX_STRATEGY")}


def test_pips_settings_are_uvs_where_uv_has_none(pip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://variable.example")
    assert uv_variables() == {
        "UV_DEFAULT_INDEX": "https://variable.example",
        "UV_INDEX": "https://one.example https://two.example",
        "UV_INSECURE_HOST": "one.example",
        "SSL_CERT_FILE": "/a b/ca.crt",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }
    pip.write_bytes(b"\xff no settings [")
    assert uv_variables()["UV_DEFAULT_INDEX"] == "https://variable.example"
    monkeypatch.setenv("UV_INDEX_URL", "https://own.example")
    assert not any(uv_variables().values())


def test_pips_settings_are_none_of_uvs_that_has_its_own_file(
    pip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UV_NO_CONFIG")
    (tmp_path / "own.toml").write_text('index-url = "https://own.example"\n')
    monkeypatch.setenv("UV_CONFIG_FILE", str(tmp_path / "own.toml"))
    assert pip.exists()
    assert not any(uv_variables().values())


def test_uv_keeps_where_packages_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "uv.toml").write_text(
        'exclude-newer = "2000-01-01"\nindex-url = "https://near.example"\n[[index]]\nname = "x"\nurl = "https://x"\n'
        '[pip]\nno-binary = ["numpy"]\nfind-links = ["/wheels"]\n'
    )
    own = tmp_path / "config" / "uv"
    own.mkdir(parents=True)
    (own / "uv.toml").write_text('index-url = "https://far.example"\ncache-dir = "/cache"\n')
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert uv.settings() == {
        "index-url": "https://near.example",
        "index": [{"name": "x", "url": "https://x"}],
        "find-links": ["/wheels"],
        "cache-dir": "/cache",
    }
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    assert uv.settings() == {}


# --- Proxies of Airflow's processes.
@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("[::1]", "::1"),
        ("::1", "::1"),
        ("fe80::/10", ""),
        ("host:abc", ""),
        ("bücher.example", ""),
        ("*.example.com", ".example.com"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("host:8080", "host:8080"),
        (".example.com", ".example.com"),
    ],
)
def test_exemptions_are_in_a_form_that_httpx_reads(entry: str, expected: str) -> None:
    assert proxies.readable_exemption(entry) == expected


@pytest.mark.parametrize(
    ("proxy", "expected"),
    [
        ("http://proxy:3128", True),
        ("proxy:3128", True),
        ("https://user:word@proxy", True),
        ("socks5://proxy:1", False),
        ("nonsense::", False),
        (" http://proxy ", False),
        ("http://proxy:99999", False),
    ],
)
def test_proxies_that_httpx_takes(proxy: str, expected: bool) -> None:  # noqa: FBT001
    assert proxies.is_readable(proxy) == expected


def test_own_addresses_are_exempt_and_the_users_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("all_proxy", "socks5://proxy:1")
    monkeypatch.setenv("NO_PROXY", "intra.example, [fd00::1],fe80::/10")
    monkeypatch.setenv(proxies.TASKS_API, "http://api.example:8080/execution/")
    told = proxies.exempt_own_addresses()
    exempt = os.environ["no_proxy"].split(",")
    assert exempt[:2] == ["intra.example", "fd00::1"]
    assert {"localhost", "127.0.0.1", "::1", "webserver", "api.example"} <= set(exempt)
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"]
    assert os.environ["http_proxy"] == "http://proxy:3128"
    assert "all_proxy" not in os.environ
    assert [sentence.split()[0] for sentence in told] == ["all_proxy", "'fe80::/10'"]
    assert "proxy:1" not in "".join(told)


# --- What is shown.
@given(st.text())
def test_no_character_that_a_terminal_obeys_is_shown(text: str) -> None:
    shown = visible(text)
    assert "\x1b" not in shown
    assert shown.replace("\n", "").replace("\t", "").isprintable() or not any(
        ord(character) < 32 or 127 <= ord(character) < 160
        for character in shown.replace("\n", "").replace("\t", "")
    )


def test_pictures_stand_for_controls() -> None:
    assert visible("a\x1b[31mb\r\nc\td\x9be\u202ef") == "a␛[31mb\nc\td\ufffde\ufffdf"


@given(st.recursive(st.text() | st.integers(), st.lists, max_leaves=4))
def test_json_stays_data(value: object) -> None:
    for encoding in ("utf-8", "ascii"):
        text = dump(value, encoding=encoding)
        text.encode(encoding)
        assert json.loads(text) == value
        assert not any(127 <= ord(character) < 160 for character in text)


# --- Sentences.
@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "Make room"), (errno.EACCES, "writable for you"), (errno.EIO, "Mend that")],
)
def test_the_next_step_follows_from_the_systems_reason(number: int, words: str) -> None:
    assert words in remedy(OSError(number, os.strerror(number)), Path("/data"))


def project(folder: Path, **variables: str) -> Settings:
    return Settings(project=folder, engine="local", cache_dir=folder, variables=variables)


def test_windows_line_ends_are_named_with_the_file(tmp_path: Path) -> None:
    script = tmp_path / "stack" / "mysql" / "create.sh"
    script.parent.mkdir(parents=True)
    script.write_bytes(b"#!/bin/sh\n")
    require_unix_line_ends(project(tmp_path))
    script.write_bytes(b"#!/bin/sh\r\n")
    with pytest.raises(UsageError, match=r"create\.sh has Windows line ends") as caught:
        require_unix_line_ends(project(tmp_path))
    assert caught.value.hint.endswith(" checkout -- create.sh")


def test_a_path_that_airflow_would_expand_is_refused() -> None:
    airflow.require_usable_path(Path("/a %b 'c'"))
    for path, problem in (("/a$HOME", "dollar sign"), ("/a\nb", "line end")):
        with pytest.raises(UsageError, match=problem):
            airflow.require_usable_path(Path(path))


@pytest.mark.parametrize("mode", ["", "require", "verify-full"])
def test_encryption_is_for_a_database_elsewhere(tmp_path: Path, mode: str) -> None:
    ours = project(tmp_path, AIRBYTE_POSTGRES_SSLMODE=mode).database("airbyte-postgres")
    theirs = project(tmp_path, AIRBYTE_POSTGRES_HOST="db.example", AIRBYTE_POSTGRES_SSLMODE=mode).database(
        "airbyte-postgres"
    )
    assert (ours.ssl_mode, theirs.ssl_mode) == ("prefer", mode or "prefer")


def test_an_unknown_mode_and_a_missing_certificate_are_usage_errors(tmp_path: Path) -> None:
    elsewhere = {"AIRBYTE_MYSQL_HOST": "db.example"}
    with pytest.raises(UsageError, match="AIRBYTE_MYSQL_SSLMODE='on'"):
        project(tmp_path, **elsewhere, AIRBYTE_MYSQL_SSLMODE="on").database("airbyte-mysql")
    with pytest.raises(UsageError, match="AIRBYTE_MYSQL_SSLROOTCERT names"):
        project(tmp_path, **elsewhere, AIRBYTE_MYSQL_SSLROOTCERT="ca.pem").database("airbyte-mysql")


def test_without_a_home_the_cache_must_be_named(tmp_path: Path) -> None:
    """For a user without an entry in /etc/passwd, whom Python asks for where HOME is missing."""
    code = (
        "import pwd, os\n"
        "def nobody(_): raise KeyError\n"
        "pwd.getpwuid = nobody\n"
        "from pipectl.settings import cache_dir\n"
        "from pipectl.errors import UsageError\n"
        "try: print(cache_dir())\n"
        "except UsageError as error: print(error, error.hint)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={}, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "no home folder" in done.stdout
    assert "PIPECTL_CACHE_DIR" in done.stdout


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "PIPECTL_CACHE_DIR"])
def test_the_cache_is_where_links_lead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    (tmp_path / "disk" / "pipectl").mkdir(parents=True)
    (tmp_path / "link").symlink_to("disk")
    monkeypatch.delenv("PIPECTL_CACHE_DIR", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "link" / ("" if variable.startswith("XDG") else "pipectl")))
    assert cache_dir() == tmp_path.resolve() / "disk" / "pipectl"


def test_a_cache_in_the_home_of_nobody_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPECTL_CACHE_DIR", "~no-such-user/cache")
    with pytest.raises(UsageError, match="PIPECTL_CACHE_DIR='~no-such-user/cache'"):
        cache_dir()


def test_a_project_is_found_from_a_folder_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("dags", "stack", "gone"):
        (tmp_path / name).mkdir()
    monkeypatch.delenv("PIPECTL_PROJECT", raising=False)
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UsageError, match="does not exist any more"):
        load()
    assert load(tmp_path).project == tmp_path


def test_a_server_without_encryption_is_refused_where_it_is_required() -> None:
    from pipectl.database_connections import _require_cipher

    class Plain:
        def execute(self, _: str) -> None:
            pass

        def fetchall(self) -> list[tuple[str, str]]:
            return [("Ssl_cipher", "")]

    with pytest.raises(DatabaseError, match="offers no encryption"):
        _require_cipher(
            Plain(), DatabaseAddress("airbyte-mysql", "db.example", 3306, "d", "u", "p", "require")
        )


def test_a_folder_that_this_user_may_not_look_into_is_said_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(UsageError, match=f"This user may not look into {tmp_path}"):
        load(tmp_path)


@pytest.mark.parametrize("mark", ["", "airbyte-mysql 1"])
def test_only_for_a_database_of_this_project_a_refused_password_leads_to_a_reset(mark: str) -> None:
    import mysql.connector

    from pipectl.database_errors import explained

    address = DatabaseAddress("airbyte-mysql", "db.example", 3306, "d", "u", "p", mark=mark)
    refused = mysql.connector.ProgrammingError("Access denied for user 'u'", errno=1045)
    said = explained(address, refused, refusal="Access denied")
    assert "Set AIRBYTE_MYSQL_PASSWORD" in said.hint
    assert ("pipectl reset" in said.hint) == bool(mark)


@pytest.mark.parametrize(
    ("text", "number", "silent"),
    [
        ("Invalid CA Certificate: no certificate or crl found", -1, False),
        ("SSL is required but the server doesn't support it", 2026, False),
        ("Lost connection: certificate verify failed", 2055, False),
        ("Connections using insecure transport are prohibited", 3159, False),
        ("Lost connection to MySQL server", 2055, True),
    ],
)
def test_a_connection_that_is_not_encrypted_as_asked_is_not_silence(
    text: str, number: int, *, silent: bool
) -> None:
    import mysql.connector

    from pipectl.database_errors import explained

    address = DatabaseAddress("airbyte-mysql", "db.example", 3306, "d", "u", "p", "verify-full")
    said = explained(address, mysql.connector.Error(text, errno=number), refusal="Access denied")
    assert isinstance(said, DatabaseSilentError) == silent
    assert ("AIRBYTE_MYSQL_SSLMODE" in said.message) != silent


@pytest.mark.parametrize("mark", ["", "airbyte-postgres 1"])
@pytest.mark.parametrize(
    ("said", "kind", "hint"),
    [
        ('database "airbyte" does not exist', DatabaseRefusedError, "Waiting does not change that"),
        ('too many connections for database "airbyte"', DatabaseRefusedError, "Waiting does not change that"),
        ("sorry, too many clients already", DatabaseError, ""),
        ("the database system is starting up", DatabaseSilentError, ""),
        ('password authentication failed for user "u"', LoginError, "Set AIRBYTE_POSTGRES_PASSWORD"),
    ],
)
def test_what_postgres_says_at_a_login_is_told_with_what_helps(
    mark: str, said: str, kind: type[DatabaseError], hint: str
) -> None:
    import psycopg2

    from pipectl.database_errors import explained

    address = DatabaseAddress("airbyte-postgres", "db.example", 5432, "airbyte", "u", "p", mark=mark)
    error = psycopg2.OperationalError(
        f'connection to server at "db.example", port 5432 failed: FATAL:  {said}\n'
    )
    told = explained(address, error, refusal="authentication failed")
    assert type(told) is kind
    assert told.hint.startswith(hint)
    assert ("pipectl reset" in told.hint) == bool(mark and hint)
    if kind is DatabaseSilentError:
        assert told.hint == (
            "Wait for it: pipectl up" if mark else "Run the command again when it has started."
        )


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Unknown database 'data'", 1049),
        ("Access denied for user 'u'@'%' to database 'data'", 1044),
        ("Access denied, this account is locked", 4151),
        ("Access denied for user 'u'@'%'. Account is locked.", 3118),
    ],
)
def test_what_mysql_says_at_a_login_is_not_taken_for_a_wrong_password(text: str, number: int) -> None:
    import mysql.connector

    from pipectl.database_errors import explained

    address = DatabaseAddress("airbyte-mysql", "db.example", 3306, "data", "u", "p", mark="airbyte-mysql 1")
    told = explained(address, mysql.connector.Error(text, errno=number), refusal="Access denied")
    assert type(told) is DatabaseRefusedError
    assert "pipectl reset" in told.hint
