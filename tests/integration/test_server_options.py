"""Servers of both engines have every option of the files in stack/, whatever modes those files have."""

from __future__ import annotations

import configparser
import re
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from pipectl.engines.local import mariadb, postgres
from pipectl.models import ReplicationLogin
from support.docker_project import DockerProject, docker
from support.needs import need_docker, need_mariadb, need_postgres
from support.project_copy import copy_project
from support.script_servers import STACK, running
from support.server_process import free_port, until_it_answers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

# initdb itself fails on a superuser with quotation marks or a backslash.
LOGIN = {"user": "doc ker`", "password": "a\\b'c\"d`e %s ж", "database": "da_t'a`"}
READER = ReplicationLogin("air'by\"te`\\", "p'a\\s`s\":'reader' ж")
UNITS = {"": 1, "B": 1, "kB": 2**10, "MB": 2**20, "GB": 2**30, "8kB": 2**13, "ms": 0.001, "s": 1, "min": 60}
POSTGRES_SETTINGS = "SELECT name, setting, coalesce(unit, '') FROM pg_settings"


def postgres_options(file: Path) -> dict[str, float | str]:
    options: dict[str, float | str] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if found := re.fullmatch(r"include '(.+)'", line):
            options |= postgres_options(file.with_name(found[1]))
        elif found := re.fullmatch(r"(\w+) = '?(.*?)'?", line):
            options[found[1]] = postgres_value(found[2])
        else:
            assert not line or line.startswith("#"), line
    assert len(options) > 5
    return options


def postgres_value(text: str, unit: str = "") -> float | str:
    """A setting as bytes or seconds, if it is a number; `unit` is that of one without its own."""
    found = re.fullmatch(r"(-?\d+)\s*([a-zA-Z]*)", text)
    return int(found[1]) * UNITS[found[2] or unit] if found else text


def mysql_options(flavor: str, variables: dict[str, str]) -> dict[str, str]:
    """The file's options, those called loose only if the server has such a variable."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(STACK / "mysql" / "server.cnf")
    options = dict(parser["mysqld"])
    if flavor == "mariadb":
        options |= dict(parser["mariadb"])
    for name in [name for name in options if name.startswith("loose_")]:
        value = options.pop(name)
        if name.removeprefix("loose_") in variables:
            options[name.removeprefix("loose_")] = value
    assert {"replica_net_timeout", "slave_net_timeout"} & options.keys()
    # SHOW VARIABLES says whether there is a log, and the log's name elsewhere.
    assert options.pop("log_bin") == "binlog"
    options |= {"log_bin": "ON", "time_zone": options.pop("default_time_zone")}
    return {name: mysql_value(value) for name, value in options.items()}


def mysql_value(text: str) -> str:
    found = re.fullmatch(r"(\d+)([MG])", text)
    return str(int(found[1]) * UNITS[f"{found[2]}B"]) if found else text


@pytest.fixture
def odd_folder(tmp_path: Path) -> Path:
    return tmp_path / "a long; 50% odd 'name'"


@pytest.mark.parametrize("name", ["business", "metadata"])
def test_local_postgres_has_every_setting_of_its_file(odd_folder: Path, name: str) -> None:
    import psycopg2

    found = need_postgres()
    account = READER, STACK / "postgres" / "replication-account.sql"
    accounts = postgres.Accounts(**LOGIN, superuser_password="random", replication=account)
    postgres.prepare(found, odd_folder / "data", accounts)
    port = free_port()
    config = STACK / "postgres" / f"{name}.conf"
    program = postgres.program(found, "server", odd_folder / "data", port, config)

    def connect(user: str = LOGIN["user"], password: str = LOGIN["password"]) -> Any:
        return psycopg2.connect(
            host="127.0.0.1", port=port, user=user, password=password, dbname=LOGIN["database"]
        )

    with running(program, odd_folder / "log") as server:
        until_it_answers(server, connect, odd_folder / "log")
        with closing(connect()) as connection, connection.cursor() as cursor:
            cursor.execute(POSTGRES_SETTINGS)
            settings = {row[0].lower(): postgres_value(row[1], row[2]) for row in cursor.fetchall()}
            cursor.execute("CREATE TABLE public.later (id int)")
            connection.commit()
        with closing(connect(READER.user, READER.password)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT rolreplication, rolsuper FROM pg_roles WHERE rolname = current_user")
            assert cursor.fetchall() == [(True, False)]
            cursor.execute("SELECT * FROM public.later")
            with pytest.raises(psycopg2.Error, match="permission denied"):
                cursor.execute("INSERT INTO public.later VALUES (1)")
    options = postgres_options(config)
    assert {key: settings[key] for key in options} == options


def test_local_mysql_has_every_option_of_its_file(odd_folder: Path) -> None:
    import mysql.connector

    found = need_mariadb()
    odd_folder.mkdir()
    # As a checkout without umask has it, which the server itself would ignore.
    config = odd_folder / "server.cnf"
    config.write_bytes((STACK / "mysql" / "server.cnf").read_bytes())
    config.chmod(0o666)
    mariadb.prepare(found, odd_folder / "data", STACK / "mysql", READER, **LOGIN)
    port = free_port()
    program = mariadb.program(found, "server", odd_folder / "data", port, config)

    def connect(user: str = LOGIN["user"], password: str = LOGIN["password"]) -> Any:
        return mysql.connector.connect(
            host="127.0.0.1",
            port=port,
            user=user,
            password=password,
            database=LOGIN["database"],
            collation="utf8mb4_unicode_ci",
        )

    with running(program, odd_folder / "log") as server:
        until_it_answers(server, connect, odd_folder / "log")
        with closing(connect()) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW GLOBAL VARIABLES")
            variables = dict(cursor.fetchall())
            cursor.execute("SHOW GRANTS")
            assert "REPLICATION SLAVE" in " ".join(row[0] for row in cursor.fetchall())
            cursor.execute("CREATE TABLE later (id int)")
        with closing(connect(READER.user, READER.password)) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW GRANTS")
            grants = " ".join(row[0] for row in cursor.fetchall())
            cursor.execute("SELECT * FROM later")
            cursor.fetchall()
            with pytest.raises(mysql.connector.Error, match="denied"):
                cursor.execute("INSERT INTO later VALUES (1)")
    assert all(right in grants for right in ("RELOAD", "SHOW DATABASES", "REPLICATION SLAVE"))
    options = mysql_options(found.flavor, variables)
    assert {name: variables[name] for name in options} == options
    assert "ignored" not in (odd_folder / "log").read_text()


READER_IN_ENV = ReplicationLogin("air'by`te", "p'a\"s`\\s")


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerProject]:
    """The three databases by plain docker compose, of files that the servers' users may not read."""
    need_docker()
    folder = copy_project(tmp_path_factory.mktemp("modes"), "docker").folder
    project = DockerProject(folder, "docker")
    name = f"options-{free_port()}"
    secrets = ("AIRFLOW_JWT_SECRET", "AIRFLOW_API_SECRET_KEY", "AIRFLOW_FERNET_KEY")
    settings = {
        "COMPOSE_PROJECT_NAME": name,
        "PIPECTL_PROJECT_ID": name,
        "AIRBYTE_POSTGRES_CONTAINER": f"{name}-pg",
        "AIRBYTE_MYSQL_CONTAINER": f"{name}-my",
        "AIRBYTE_NETWORK": name,
        "AIRBYTE_POSTGRES_PORT": str(free_port()),
        "AIRBYTE_MYSQL_PORT": str(free_port()),
        "AIRFLOW_POSTGRES_PASSWORD": "x",
        "AIRBYTE_MYSQL_ROOT_PASSWORD": "y",
        "AIRBYTE_REPLICATION_USER": READER_IN_ENV.user,
        "AIRBYTE_REPLICATION_PASSWORD": READER_IN_ENV.password,
        **dict.fromkeys(secrets, "z"),
    }
    for variable, value in settings.items():
        project.set_variable(variable, value)
    for path in (folder / "stack").rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    (folder / "stack" / "mysql" / "server.cnf").chmod(0o666)
    try:
        project.compose("up", "--detach", "--wait", "postgres", "airbyte-postgres", "airbyte-mysql")
        yield project
    finally:
        project.compose("down", "--volumes")


@pytest.mark.docker
@pytest.mark.parametrize(
    ("service", "config", "login"),
    [
        ("airbyte-postgres", "business", ("docker", "airbyte")),
        ("postgres", "metadata", ("airflow", "airflow")),
    ],
)
def test_postgres_container_has_every_setting_of_its_file(
    containers: DockerProject, service: str, config: str, login: tuple[str, str]
) -> None:
    container = containers.containers()[f"{service}-1"]["Id"]
    told = docker("exec", container, "psql", "-U", login[0], "-d", login[1], "-Atc", POSTGRES_SETTINGS)
    settings = {
        name.lower(): postgres_value(value, unit)
        for name, value, unit in (row.split("|") for row in told.splitlines())
    }
    options = postgres_options(STACK / "postgres" / f"{config}.conf")
    assert {key: settings[key] for key in options} == options


@pytest.mark.docker
def test_mysql_container_has_every_option_of_its_file(containers: DockerProject) -> None:
    told = containers.mysql("SHOW GLOBAL VARIABLES")
    variables = dict(row.split("\t", 1) for row in told.splitlines() if "\t" in row)
    options = mysql_options("mysql", variables)
    assert {name: variables[name] for name in options} == options
    container = containers.containers()["airbyte-mysql-1"]["Id"]
    assert "World-writable" not in docker("logs", container)


@pytest.mark.docker
def test_replication_account_of_containers_reads_and_writes_nothing(containers: DockerProject) -> None:
    user, password = READER_IN_ENV.user, READER_IN_ENV.password
    postgres_container, mysql_container = (
        containers.containers()[f"{name}-1"]["Id"] for name in ("airbyte-postgres", "airbyte-mysql")
    )
    containers.psql("CREATE TABLE public.later (id int)")
    containers.mysql("CREATE TABLE later (id int)")
    asked = "SELECT (SELECT rolreplication FROM pg_roles WHERE rolname = current_user), count(*) FROM later"
    run = ("exec", "--env", f"PGPASSWORD={password}", postgres_container, "psql", "-h", "127.0.0.1")
    assert docker(*run, "-U", user, "-d", "airbyte", "-Atc", asked).strip() == "t|0"
    client = ("exec", "--env", f"MYSQL_PWD={password}", mysql_container, "mysql", "-h", "127.0.0.1")
    grants = docker(*client, "-u", user, "data", "-Ne", "SELECT COUNT(*) FROM later; SHOW GRANTS")
    assert all(right in grants for right in ("RELOAD", "SHOW DATABASES", "REPLICATION SLAVE"))
    assert "INSERT" not in grants
