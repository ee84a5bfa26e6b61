"""Both engines give airflow.env and user.env the same meaning: the local reader beside the real Compose."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipectl.engines import airflow_env
from pipectl.env_file import EnvFile
from pipectl.errors import UsageError
from support import own_settings
from support.needs import missing

pytestmark = [pytest.mark.integration, pytest.mark.docker]
STACK = Path(__file__).resolve().parents[2] / "stack"
SECRETS = {
    "AIRFLOW_POSTGRES_PASSWORD": "secret-of-the-database",
    "AIRFLOW_JWT_SECRET": "secret-of-tokens",
    "AIRFLOW_API_SECRET_KEY": "secret-of-sessions",
    "AIRFLOW_FERNET_KEY": "secret-of-connections",
    "AIRFLOW_REDIS_PASSWORD": "secret-of-redis",
    "AIRBYTE_MYSQL_ROOT_PASSWORD": "secret-of-root",
    "AIRBYTE_REPLICATION_PASSWORD": "secret-of-airbyte",
    "MY_SECRET": "secret-of-mine",
}
VARIABLES = {"SET": "a value#x", "EMPTY": ""}
PIECES = (
    *(
        "a",
        "b:c",
        '{"k": "v"}',
        "ü",
        "=",
        "#",
        " #",
        " ",
        "\t",
        "'",
        '"',
        "}",
        "{",
        "`",
        "!",
        "%",
        "\\",
        "\\n",
        '\\"',
    ),
    *(
        "\\\\",
        "\\$",
        "$",
        "$$",
        "$SET",
        "${SET}",
        "${EMPTY}",
        "${NOPE:-d e}",
        "${EMPTY:-x:?y}",
        "${NOPE:-a:+b}",
    ),
)
LINES = st.builds(
    lambda quote, pieces: f"{quote}{''.join(pieces)}{quote}",
    st.sampled_from(["", "'", '"']),
    st.lists(st.sampled_from(PIECES), max_size=6),
)


def compose(*arguments: str | Path) -> dict[str, dict[str, str]]:
    """Return the environment of each service as Compose would set it."""
    if shutil.which("docker") is None:
        missing("docker", "there is no docker command")
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        missing("docker", "the docker command has no Compose plugin")
    done = subprocess.run(
        ["docker", "compose", *arguments, "config", "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # In what `config` shows, a dollar sign is escaped as in the file itself.
    return {
        name: {
            key: (value or "").replace("$$", "$") for key, value in (service.get("environment") or {}).items()
        }
        for name, service in json.loads(done.stdout)["services"].items()
    }


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "dags").mkdir()
    folder = tmp_path / "stack"
    (folder / "airflow").mkdir(parents=True)
    for name in ("docker-compose.yml", "docker-compose.celery.yml", "airflow/airflow.env"):
        shutil.copy(STACK / name, folder / name)
    return tmp_path


@pytest.mark.parametrize("executor", ["local", "celery"])
def test_both_engines_read_the_same_settings(project: Path, executor: str) -> None:
    own_settings.add(project)
    changed = {
        "AIRFLOW_PARALLELISM": "9",
        "PIPECTL_SEED": "5",
        "AIRFLOW_ADMIN_PASSWORD": "a pass/word",
        "COLOUR": "red",
    }
    file = EnvFile(project / "stack" / ".env")
    file.update({**SECRETS, **changed})
    files = ["docker-compose.yml", *(["docker-compose.celery.yml"] if executor == "celery" else [])]
    services = compose(*(word for name in files for word in ("-f", project / "stack" / name)))
    names = {
        "airflow-init",
        "webserver",
        "scheduler",
        "dag-processor",
        "triggerer",
        *(["worker"] if executor == "celery" else []),
    }
    shared = airflow_env.read(project, file.read())
    assert shared["AIRFLOW__CORE__PARALLELISM"] == "9"
    # What the executor needs, Celery's file sets over it.
    of_the_executor = {"AIRFLOW__CORE__PARALLELISM", "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT"}
    ignored = of_the_executor if executor == "celery" else set()
    for name in names:
        seen = {key: services[name][key] for key in shared if key not in ignored}
        assert seen == {key: value for key, value in shared.items() if key not in ignored}, name
        allowed = {*list(SECRETS)[:4], *(["AIRFLOW_REDIS_PASSWORD"] if executor == "celery" else [])}
        text = " ".join(services[name].values())
        assert {key for key, value in SECRETS.items() if value in text} == allowed, name


@given(st.lists(LINES, min_size=50, max_size=50))
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_line_has_the_same_meaning_or_is_refused(tmp_path: Path, values: list[str]) -> None:
    (tmp_path / "stack" / "airflow").mkdir(parents=True, exist_ok=True)
    (tmp_path / airflow_env.SHARED).write_text("", encoding="utf-8")
    file = tmp_path / "stack" / "docker-compose.yml"
    file.write_text("services: {a: {image: none, env_file: airflow/user.env}}\n", encoding="utf-8")
    (tmp_path / "stack" / ".env").write_text("".join(f"{key}={value}\n" for key, value in VARIABLES.items()))
    accepted: dict[str, str] = {}
    lines = []
    for number, value in enumerate(values):
        line = f"V{number}={value}\n"
        (tmp_path / airflow_env.OWN).write_text(line, encoding="utf-8")
        try:
            accepted |= airflow_env.read(tmp_path, VARIABLES)
        except UsageError:
            continue
        lines.append(line)
    (tmp_path / airflow_env.OWN).write_text("".join(lines), encoding="utf-8")
    assert compose("-f", file)["a"] == accepted
