"""Each variable, default and version stands in one place, or in several that this test holds together."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from fraud_pipeline.command import DEFAULT_SEED
from fraud_pipeline.connections import mysql_database, postgres_database
from fraud_pipeline.monitoring import Bounds
from pipectl.engines import airflow_env
from pipectl.engines.local import airflow
from pipectl.engines.local.airflow_install import AirflowRuntime
from pipectl.models import DatabaseAddress
from pipectl.services import SERVICES
from pipectl.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
STACK = ROOT / "stack"
COMPOSE = [STACK / "docker-compose.yml", STACK / "docker-compose.celery.yml"]
PREFIXES = ("AIRBYTE_POSTGRES", "AIRBYTE_MYSQL")
SERVICE_PREFIXES = {service.prefix for service in SERVICES}
OURS = re.compile(r"(?:AIRFLOW|AIRBYTE|PIPECTL|COMPOSE)(?:_[A-Z0-9]+)+")
EXAMPLE = re.compile(r"^# ([A-Z][A-Z0-9_]*)=(.*)$", re.MULTILINE)

# Read by code, and no setting of a project.
COMPUTED = {
    "PIPECTL_BATCH_ID": "the DAG sets it per run",
    "PIPECTL_BATCH_UNTIL": "the DAG sets it per run",
    "PIPECTL_SCRIPTS": "each engine knows the folder",
    "PIPECTL_PROGRAM": "marks a program of the user's in a container",
    "PIPECTL_REQUIREMENTS_PROBLEM": "tells a program apart what could not be installed",
    "PIPECTL_FORKS": "the local engine's way from one service to its fork",
    "PIPECTL_ADOPTS": "tells a service of the local engine that it may be a fork",
    "PIPECTL_STATE_DIR": "marks the local engine's processes",
    "PIPECTL_PROJECT_INODE": "tells whose they are, also once the project has moved",
    "AIRFLOW_HOME": "each engine knows the folder",
    "AIRFLOW_CONFIG": "the local engine has no file of it",
}
OF_OTHERS = {
    "DOCKER_API_VERSION": "the docker client's",
    "DOCKER_CONFIG": "the docker client's",
    "DOCKER_CONTEXT": "the docker client's",
    "DOCKER_HOST": "the docker client's",
    "LD_LIBRARY_PATH": "the dynamic linker's",
    "PATH": "the system's",
    "PIP_CERT": "pip's",
    "PIP_CONFIG_FILE": "pip's",
    "REQUESTS_CA_BUNDLE": "pip's",
    "SHELL": "the login's",
    "SSL_CERT_FILE": "OpenSSL's",
    "AIRFLOW_USER_HOME_DIR": "of Airflow's image",
    "AIRFLOW_VERSION": "of Airflow's image",
    "COLUMNS": "the terminal's",
    "COMP_CWORD": "bash's",
    "COMP_WORDS": "bash's",
    "HOME": "the system's",
    "TMPDIR": "the system's",
    "TZ": "the system's",
    "USER": "the system's",
    "UV_CONFIG_FILE": "uv's",
    "XDG_CONFIG_DIRS": "the system's",
    "XDG_CONFIG_HOME": "the system's",
    "XDG_RUNTIME_DIR": "the system's",
    "PYTHON": "the caller's choice for make",
}
# An empty default in .env.example: the engine's own database, whose address differs between engines.
ADDRESSES = {"AIRBYTE_POSTGRES_HOST", "AIRBYTE_MYSQL_HOST"}


@dataclass(frozen=True)
class Default:
    """A default that some place gives to a variable."""

    name: str
    value: str
    place: str


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def shell_files() -> list[Path]:
    return sorted([ROOT / "entrypoint.sh", *(ROOT / "ops").glob("*.sh"), *STACK.glob("*/*.sh")])


def names_of(node: ast.expr) -> set[str]:
    """The variables that `"A_B"` names, or `f"{prefix}_B"` with any of the prefixes."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return {node.value}
    if isinstance(node, ast.JoinedStr) and len(node.values) == 2:
        prefix, rest = node.values
        if isinstance(prefix, ast.FormattedValue) and isinstance(rest, ast.Constant):
            return {each + str(rest.value) for each in PREFIXES}
    return set()


def is_environment(node: ast.expr) -> bool:
    text = ast.unparse(node)
    return text.endswith(("environ", "environment", "variables"))


def read_names(tree: ast.AST) -> Iterator[str]:
    """What is read from a mapping of variables, and every constant that is named like one of ours."""
    for node in ast.walk(tree):
        keys: set[str] = set()
        if isinstance(node, ast.Subscript) and is_environment(node.value):
            keys = names_of(node.slice)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in {"get", "pop"} and is_environment(node.func.value) and node.args:
                keys = names_of(node.args[0])
        elif isinstance(node, ast.Constant | ast.JoinedStr):
            keys = {name for name in names_of(node) if OURS.fullmatch(name)}
        yield from (
            key
            for key in keys
            if re.fullmatch("[A-Z][A-Z0-9_]+", key) and key not in {service.prefix for service in SERVICES}
        )


def expanded_names(path: Path) -> set[str]:
    """The variables that a shell script, a Compose file or an env file expands."""
    lines = (
        line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")
    )
    text = "\n".join(lines)
    return set(re.findall(r"\$\{?([A-Z][A-Z0-9_]+)", text)) | set(re.findall(r"\\getenv \w+ (\w+)", text))


def read_by(*folders: str) -> dict[str, str]:
    """Variables with a file that reads each."""
    return {
        name: str(path.relative_to(ROOT))
        for path in python_files(*folders)
        for name in read_names(ast.parse(path.read_text(encoding="utf-8")))
        if not name.startswith("AIRFLOW__")
    }


@pytest.fixture(scope="module")
def read() -> dict[str, str]:
    found = read_by("ops/pipectl", "scripts", "dags", "stack/airflow")
    found |= {
        service.port_variable: "ops/pipectl/services.py" for service in SERVICES if service.default_port
    }
    for path in [*shell_files(), *COMPOSE, STACK / "airflow" / "airflow.env"]:
        found |= dict.fromkeys(expanded_names(path), str(path.relative_to(ROOT)))
    return found


@pytest.fixture(scope="module")
def listed() -> dict[str, str]:
    return dict(EXAMPLE.findall((STACK / ".env.example").read_text(encoding="utf-8")))


def test_what_code_reads_is_found(read: dict[str, str]) -> None:
    """One of each way of reading, so that the tests below look at something."""
    assert {
        "PIPECTL_SEED",
        "PIPECTL_DAG_ID",
        "PIPECTL_CACHE_DIR",
        "AIRBYTE_MYSQL_PASSWORD",
        "AIRFLOW_WORKERS",
        "AIRFLOW_PARALLELISM",
        "AIRBYTE_REPLICATION_USER",
        "PIPECTL_JSON",
    } <= read.keys()


def variables_of_images() -> set[str]:
    """The names that the images of the databases give their variables; the Compose files set them."""
    services = [
        service for path in COMPOSE for service in yaml.safe_load(path.read_text())["services"].values()
    ]
    names = {name for service in services for name in service.get("environment", {})}
    return {name for name in names if not OURS.fullmatch(name)}


def test_every_variable_that_code_reads_is_in_the_example(
    read: dict[str, str], listed: dict[str, str]
) -> None:
    known = listed.keys() | COMPUTED.keys() | OF_OTHERS.keys() | variables_of_images()
    assert {name: place for name, place in read.items() if name not in known} == {}


def test_the_example_names_nothing_that_is_not_read(read: dict[str, str], listed: dict[str, str]) -> None:
    assert (listed.keys() | COMPUTED.keys()) - read.keys() == set()


def test_the_examples_commands_make_every_secret_that_compose_asks_for() -> None:
    example = (STACK / ".env.example").read_text(encoding="utf-8")
    made = set(re.findall("[A-Z_]+", example.split("# --- ")[0]))
    asked = set(re.findall(r"\$\{([A-Z_]+):\?", COMPOSE[0].read_text(encoding="utf-8")))
    assert len(asked) > 4
    assert asked <= made


def environment_of_containers() -> set[str]:
    found = yaml.safe_load(COMPOSE[0].read_text(encoding="utf-8"))
    return set(found["x-airflow-environment"])


def environment_of_processes() -> set[str]:
    address = DatabaseAddress("any", "127.0.0.1", 1, "any", "any", "any")
    secrets = airflow.AirflowSecrets("", "", "")
    site = airflow.AirflowSite(ROOT, 1, address, address, address, secrets)
    return set(airflow.environment(site, AirflowRuntime(ROOT, ROOT, "", "", "")))


def test_what_tasks_read_reaches_them_on_both_engines() -> None:
    shared = airflow_env.read(ROOT, {}).keys()
    wanted = read_by("scripts", "dags", "stack/airflow").keys() - COMPUTED.keys()
    assert "PIPECTL_SEED" in wanted
    assert wanted - shared - environment_of_containers() == set()
    assert wanted - shared - environment_of_processes() == set()


def test_nothing_is_set_both_in_the_shared_file_and_by_an_engine() -> None:
    shared = airflow_env.read(ROOT, {}).keys()
    assert shared & (environment_of_containers() | environment_of_processes()) == set()


def test_settings_of_one_engine_alone_are_addresses() -> None:
    """Containers have Airflow's own folders and ports, the local engine the project's."""
    differing = environment_of_containers() ^ environment_of_processes()
    assert differing == {
        "AIRFLOW_CONFIG",
        "AIRFLOW_HOME",
        "AIRFLOW__API__HOST",
        "AIRFLOW__API__PORT",
        "AIRFLOW__CORE__DAGS_FOLDER",
        "PATH",
        "PIPECTL_SCRIPTS",
        "PYTHONPYCACHEPREFIX",
    }


def keys_with_defaults(node: ast.AST) -> list[tuple[ast.expr, ast.expr]]:
    """`variables.get("NAME") or "default"`, `variables.get("NAME", "default")`, and pairs of both."""
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or) and len(node.values) == 2:
        call, default = node.values
        return [(call.args[0], default)] if isinstance(call, ast.Call) and call.args else []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and len(node.args) == 2:
        return [(node.args[0], node.args[1])] if is_environment(node.func.value) else []
    if isinstance(node, ast.Tuple) and len(node.elts) == 2:
        return [(node.elts[0], node.elts[1])]
    if isinstance(node, ast.Dict):
        return [(key, value) for key, value in zip(node.keys, node.values, strict=True) if key]
    return []


def defaults_in_code() -> Iterator[Default]:
    for path in python_files("ops/pipectl", "scripts", "dags", "stack/airflow"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for key, default in keys_with_defaults(node):
                if isinstance(default, ast.Constant) and default.value is not None:
                    # A name beside itself says that two programs call a variable the same.
                    for name in names_of(key) - {default.value}:
                        yield Default(name, str(default.value), str(path.relative_to(ROOT)))


def defaults_in_files() -> Iterator[Default]:
    for path in [*COMPOSE, STACK / "airflow" / "airflow.env"]:
        for name, value in re.findall(r"\$\{([A-Z_]+):-([^${}]*)\}", path.read_text(encoding="utf-8")):
            yield Default(name, value, str(path.relative_to(ROOT)))


def defaults_in_scripts() -> Iterator[Default]:
    """What the scripts do without any variable."""
    for prefix, database in zip(PREFIXES, (postgres_database({}), mysql_database({})), strict=True):
        yield Default(f"{prefix}_PORT", str(database.port), "scripts")
        yield Default(f"{prefix}_DATABASE", database.name, "scripts")
        yield Default(f"{prefix}_USER", database.user, "scripts")
        yield Default(f"{prefix}_PASSWORD", database.password, "scripts")
    yield Default("PIPECTL_SEED", str(DEFAULT_SEED), "scripts")
    yield Default("PIPECTL_ALERT_FRAUD_RATE", f"{Bounds.lowest_rate}:{Bounds.highest_rate}", "scripts")
    yield Default("PIPECTL_ALERT_LAG_SECONDS", str(Bounds.lag_seconds), "scripts")


def defaults_in_settings() -> Iterator[Default]:
    """What pipectl does without any variable."""
    empty = Settings(project=ROOT, engine="auto", cache_dir=ROOT, variables={})
    for prefix, service in zip(PREFIXES, ("airbyte-postgres", "airbyte-mysql"), strict=True):
        database = empty.database(service)
        yield Default(f"{prefix}_PORT", str(database.port), "settings")
        yield Default(f"{prefix}_DATABASE", database.database, "settings")
        yield Default(f"{prefix}_USER", database.user, "settings")
        yield Default(f"{prefix}_PASSWORD", database.password, "settings")
    yield Default("PIPECTL_DAG_ID", empty.dag_id, "settings")
    yield Default("AIRFLOW_ADMIN_USER", empty.admin[0], "settings")
    yield Default("AIRFLOW_ADMIN_PASSWORD", empty.admin[1], "settings")
    yield Default("AIRBYTE_REPLICATION_USER", empty.replication_login.user, "settings")


def test_every_default_is_that_of_the_example(listed: dict[str, str]) -> None:
    found = [*defaults_in_code(), *defaults_in_files(), *defaults_in_scripts(), *defaults_in_settings()]
    ours = {default for default in found if default.name in listed and default.name not in ADDRESSES}
    assert len({default.name for default in ours}) > 30
    assert {default for default in ours if default.value != listed[default.name]} == set()


def texts(*patterns: str) -> dict[str, str]:
    return {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for pattern in patterns
        for path in sorted(ROOT.glob(pattern))
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("image", "pattern"),
    [
        ("AIRFLOW_IMAGE", r"apache/airflow:(\d[\w.]*\w)"),
        ("POSTGRES_IMAGE", r"\bpostgres:(\d[\w.]*)\b"),
        ("MYSQL_IMAGE", r"\bmysql:(\d[\w.]*)\b"),
        ("REDIS_IMAGE", r"\bredis:(\d[\w.]*)\b"),
    ],
)
def test_each_images_version_is_the_same_everywhere(image: str, pattern: str, listed: dict[str, str]) -> None:
    where = (
        "README.md",
        "CONTRIBUTING.md",
        "docs/**/*.md",
        "stack/**/*.y*ml",
        "stack/.env.example",
        "tests/e2e/*.py",
        "tests/benchmarks/*.yml",
        "tests/images/*.sh",
        ".github/workflows/*.yml",
    )
    found = {
        (place, version)
        for place, text in texts(*where).items()
        for version in re.findall(pattern, text)
        # A port after a host's name looks like a version.
        if version not in {"5432", "3306", "6379"}
    }
    assert "stack/docker-compose.yml" in {place for place, _ in found} or image == "REDIS_IMAGE"
    assert {version for _, version in found} == {listed[image].split(":")[1]}, found


def test_both_migrations_may_idle_within_a_transaction() -> None:
    option = '{"PGOPTIONS": "-c idle_in_transaction_session_timeout=0"}'
    found = texts("stack/airflow/metadata_database.py", "ops/pipectl/engines/local/airflow_metadata.py")
    assert len(found) == 2
    assert all(option in text for text in found.values())


def test_airflow_is_one_version_everywhere(listed: dict[str, str]) -> None:
    version = listed["AIRFLOW_IMAGE"].split(":")[1]
    where = ("stack/airflow-requirements.*", "tests/images/airflow/requirements.*")
    pins = {
        (place, found)
        for place, text in texts(*where).items()
        for found in re.findall(r"^apache-airflow-core==([\w.]+)", text, re.MULTILINE)
    }
    assert {place for place, _ in pins} == {
        "stack/airflow-requirements.in",
        "stack/airflow-requirements.txt",
        "tests/images/airflow/requirements.txt",
    }
    prose = re.findall(r"Airflow (\d+\.\d+\.\d+)", "".join(texts("README.md", "docs/**/*.md").values()))
    assert {found for _, found in pins} | set(prose) == {version}
    minor = version.rpartition(".")[0]
    [text] = texts("stack/airflow/task_processes.py").values()
    assert f'\nWRITTEN_FOR = "{minor}"\n' in text
    # But for the range of versions that pipectl works with, which test_airflow_api.py holds.
    pages = "".join(texts("README.md", "docs/*.md", "docs/how-to/*.md").values())
    assert set(re.findall(r"Airflow (\d+\.\d+)\b(?!\.\d| to )", pages)) == {minor}
