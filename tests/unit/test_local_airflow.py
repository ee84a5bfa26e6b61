"""What Airflow's processes are told, and when its environment counts as installed."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import connections
import launcher
import login
from pipectl.engines import airflow_env
from pipectl.engines.local import airflow, airflow_install
from pipectl.engines.local.airflow_install import AirflowRuntime
from pipectl.engines.local.start import site_of
from pipectl.errors import EngineError, UsageError
from pipectl.models import DatabaseAddress
from pipectl.settings import Settings

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "stack" / "airflow-requirements.txt"
SECRETS = ("jwt-secret-value", "api-secret-value", "fernet-key-value", "metadata p@ss/%word")


@pytest.fixture
def runtime(tmp_path: Path) -> AirflowRuntime:
    venv = tmp_path / "venv"
    return AirflowRuntime(venv, venv / "bin" / "python", "3.3.2", "key", "abc123")


@pytest.fixture
def site(tmp_path: Path) -> airflow.AirflowSite:
    def address(service: str, port: int, password: str) -> DatabaseAddress:
        return DatabaseAddress(service, "127.0.0.1", port, service, "docker", password)

    return airflow.AirflowSite(
        project=tmp_path / "my project",
        port=8081,
        metadata=address("airflow", 5433, SECRETS[3]),
        postgres=address("airbyte", 5432, "docker-pg"),
        mysql=address("data", 3306, "docker-my"),
        secrets=airflow.AirflowSecrets(*SECRETS[:3]),
    )


def test_settings_have_the_form_that_airflow_reads(
    site: airflow.AirflowSite, runtime: AirflowRuntime
) -> None:
    names = [name for name in airflow.environment(site, runtime) if name.startswith("AIRFLOW__")]
    assert names
    assert all(re.fullmatch(r"AIRFLOW__[A-Z_]+?__[A-Z_]+", name) for name in names)


def test_nothing_listens_beyond_this_machine(site: airflow.AirflowSite, runtime: AirflowRuntime) -> None:
    variables = airflow.environment(site, runtime)
    assert variables["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert variables["AIRFLOW__API__BASE_URL"] == "http://127.0.0.1:8081"
    assert "0.0.0.0" not in "".join(variables.values())  # noqa: S104  looked for, not bound


def test_secrets_never_stand_in_arguments_or_reprs(
    site: airflow.AirflowSite, runtime: AirflowRuntime
) -> None:
    programs = airflow.programs(site, runtime)
    assert tuple(program.name for program in programs) == tuple(airflow.COMMANDS)
    shown = repr(programs) + repr(site) + " ".join(word for program in programs for word in program.command)
    assert not [secret for secret in (*SECRETS, "docker-pg", "docker-my") if secret in shown]


def test_a_password_with_special_characters_survives_the_url(
    site: airflow.AirflowSite, runtime: AirflowRuntime
) -> None:
    address = airflow.environment(site, runtime)["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    assert address == "postgresql+psycopg2://docker:metadata%20p%40ss%2F%25word@127.0.0.1:5433/airflow"


def test_scripts_find_their_databases_and_interpreter(
    site: airflow.AirflowSite, runtime: AirflowRuntime
) -> None:
    variables = airflow.environment(site, runtime)
    assert variables["AIRBYTE_POSTGRES_PORT"] == "5432"
    assert variables["AIRBYTE_MYSQL_PASSWORD"] == "docker-my"
    assert variables["PIPECTL_SCRIPTS"] == str(site.project / "scripts")
    assert variables["PATH"].split(":")[0] == str(runtime.venv / "bin")


def test_the_engines_own_settings_override_those_of_the_files(
    site: airflow.AirflowSite, runtime: AirflowRuntime
) -> None:
    settings = {"AIRFLOW__CORE__EXECUTOR": "CeleryExecutor", "AIRFLOW_VAR_COLOUR": "blue"}
    variables = airflow.environment(replace(site, settings=settings), runtime)
    assert variables["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert variables["AIRFLOW_VAR_COLOUR"] == "blue"


def test_an_auth_manager_that_is_not_installed_is_a_usage_error(
    site: airflow.AirflowSite, runtime: AirflowRuntime
) -> None:
    settings = {airflow.AUTH_MANAGER: "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"}
    with pytest.raises(UsageError, match="no FAB auth manager"):
        airflow.programs(replace(site, settings=settings), runtime)


def test_a_home_that_cannot_be_made_is_named(site: airflow.AirflowSite) -> None:
    site.project.mkdir()
    (site.project / ".pipectl").write_text("in the way", encoding="utf-8")
    with pytest.raises(EngineError, match=re.escape(str(site.home))):
        airflow.prepare_home(site)


def test_the_lock_names_no_host_and_hashes_everything() -> None:
    text = LOCK.read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index-url" not in text
    pinned = re.findall(r"^[a-z0-9][\w.-]*==\S+.*$", text, re.MULTILINE)
    assert len(pinned) > 100
    assert all(line.endswith("\\") for line in pinned)
    assert airflow_install.airflow_version(text.encode()) == "3.3.2"


@pytest.mark.parametrize("version", [(3, 10), (3, 15)])
def test_an_unsupported_python_is_refused_with_what_is_needed(version: tuple[int, int]) -> None:
    with pytest.raises(EngineError, match=r"needs 3\.11 to 3\.14"):
        airflow_install.require_supported_python(version)


def test_a_missing_or_empty_lock_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot be read"):
        airflow_install.ensure_airflow(tmp_path, tmp_path / "none.txt", print)
    empty = tmp_path / "empty.txt"
    empty.write_text("", encoding="utf-8")
    with pytest.raises(EngineError, match="pins no apache-airflow-core"):
        airflow_install.ensure_airflow(tmp_path, empty, print)


def test_the_key_changes_with_the_lock() -> None:
    assert airflow_install.environment_key(b"a") != airflow_install.environment_key(b"b")
    assert airflow_install.environment_key(b"a") == airflow_install.environment_key(b"a")


def test_an_interrupted_installation_does_not_count(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    assert airflow_install.installed_runtime(tmp_path, "key") is None
    marker = tmp_path / airflow_install.MARKER
    marker.write_text('{"version": "3', encoding="utf-8")
    assert airflow_install.installed_runtime(tmp_path, "key") is None
    marker.write_text('{"version": "3.3.2", "migration_head": "abc", "files": 2}', encoding="utf-8")
    found = airflow_install.installed_runtime(tmp_path, "key")
    assert found is not None
    assert found.migration_head == "abc"
    python.unlink()
    python.symlink_to(tmp_path / "gone")
    assert airflow_install.installed_runtime(tmp_path, "key") is None


def test_no_network_is_one_sentence_with_uvs_last_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Port 9 of this machine refuses connections; an empty cache keeps uv from doing without.
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/simple")
    for name in ("UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    reported: list[str] = []
    with pytest.raises(EngineError, match=r"Airflow 3\.3\.2 could not be installed") as caught:
        airflow_install.ensure_airflow(tmp_path / "cache", LOCK, reported.append)
    assert "HTTPS_PROXY" in caught.value.hint
    assert caught.value.detail
    assert "Installing Airflow 3.3.2" in reported[0]
    assert not list(tmp_path.glob(f"cache/*/{airflow_install.MARKER}"))


def test_the_launcher_needs_nothing_of_pipectl() -> None:
    # Isolated and without site-packages, as little as any interpreter has.
    code = f"import runpy; runpy.run_path({launcher.__file__!r}, run_name='launcher')"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ},
    )
    assert done.returncode == 0, done.stderr
    assert set(launcher.MODULES) == set(airflow.COMMANDS.values())


def test_the_launchers_neighbours_hide_no_module_of_a_dag() -> None:
    code = f"import sys; sys.argv = ['launcher.py']; import runpy; runpy.run_path({launcher.__file__!r})"
    names = [path.stem for path in Path(launcher.__file__).parent.glob("*.py")]
    code += f"\nimport importlib.util\nprint([name for name in {names} if importlib.util.find_spec(name)])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_failed_shortcut_is_a_line_in_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise AttributeError("gone in this version")

    launcher.attempt("save time", fail)
    assert "could not save time: AttributeError: gone in this version" in capsys.readouterr().err


def test_the_passwords_file_is_private_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_ADMIN_USER", "ada")
    monkeypatch.setenv("AIRFLOW_ADMIN_PASSWORD", "a pass/word")
    path = tmp_path / "passwords.json"
    path.write_text("longer than what takes its place" * 9, encoding="utf-8")
    path.chmod(0o644)
    login.write_passwords(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text(encoding="utf-8")) == {"ada": "a pass/word"}


def test_connections_are_those_of_the_scripts(
    site: airflow.AirflowSite, runtime: AirflowRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in airflow.environment(site, runtime).items():
        monkeypatch.setenv(name, value)
    listed = {each["conn_id"]: each for each in connections.connections()}
    assert listed["airbyte_postgres"]["schema"] == "airbyte"
    assert listed["airbyte_mysql"]["password"] == "docker-my"
    # Compose sets an empty one for a database of the stack itself.
    monkeypatch.setenv("AIRBYTE_MYSQL_PORT", "")
    assert {each["port"] for each in connections.connections()} == {5432, 3306}


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A launcher whose service fails; the commands with which it starts again."""
    again: list[list[str]] = []

    def fail(_command: str, *, with_shortcuts: bool) -> None:
        raise AttributeError(f"gone in this version, shortcuts: {with_shortcuts}")

    monkeypatch.setattr(launcher, "start", fail)
    monkeypatch.setattr(launcher, "ARGUMENTS", ("launcher.py", "api-server"))
    monkeypatch.setattr(os, "execv", lambda _path, words: again.append(words))
    monkeypatch.setenv(launcher.NO_SHORTCUTS, "")
    return again


def test_a_service_that_fails_with_shortcuts_starts_again_without(failing: list[list[str]]) -> None:
    launcher.main("api-server")
    assert failing[0][1:] == ["-P", "launcher.py", "api-server"]
    assert os.environ[launcher.NO_SHORTCUTS] == "1"
    with pytest.raises(AttributeError, match="shortcuts: False"):
        launcher.main("api-server")
    assert len(failing) == 1


def test_a_service_that_fails_later_is_the_supervisors_to_start(
    failing: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "SOON_SECONDS", -1)
    with pytest.raises(AttributeError, match="shortcuts: True"):
        launcher.main("api-server")
    assert not failing


def test_only_what_the_users_file_names_reaches_airflow(tmp_path: Path, runtime: AirflowRuntime) -> None:
    for name, text in (
        (airflow_env.SHARED, "SHARED=1\n"),
        (airflow_env.OWN, "AIRFLOW_VAR_TOKEN=${MY_TOKEN}\n"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    names = (
        "AIRFLOW_POSTGRES_PASSWORD",
        "AIRFLOW_JWT_SECRET",
        "AIRFLOW_API_SECRET_KEY",
        "AIRFLOW_FERNET_KEY",
    )
    variables = {**dict.fromkeys(names, "random"), "MY_TOKEN": "sesame", "MY_SECRET": "of no task"}
    settings = Settings(project=tmp_path, engine="local", cache_dir=tmp_path, variables=variables)
    environment = airflow.environment(site_of(settings), runtime)
    assert environment["SHARED"] == "1"
    assert environment["AIRFLOW_VAR_TOKEN"] == "sesame"
    assert "of no task" not in environment.values()
