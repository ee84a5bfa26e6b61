"""Projects that an installed pipectl makes, or finds, on a real stack without the clone."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from pipectl.pipeline.scaffold import FIRST_RELEASE, RELEASES
from support import ROOT
from support.docker_project import DockerProject, docker
from support.needs import need_airflow, need_docker, need_mariadb, need_postgres
from support.wheels import build, install_wheel

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """PATH on which `pipectl` is the wheel's."""
    for need in (need_postgres, need_mariadb, need_airflow):
        need()
    wheel = build(tmp_path_factory.mktemp("wheel"), "wheel")
    pipectl = install_wheel(wheel, tmp_path_factory.mktemp("installed") / "environment")
    return f"{pipectl.parent}:{os.environ['PATH']}"


def run(path: str, folder: Path, command: str, engine: str = "local") -> str:
    """Run a step of a workflow as GitHub does."""
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path, "PIPECTL_ENGINE": engine, "PIPECTL_PROJECT": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"$ {command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.mark.parametrize("engine", ["local", pytest.param("docker", marks=pytest.mark.docker)])
def test_the_workflow_of_a_new_project_does_what_it_says(path: str, tmp_path: Path, engine: str) -> None:
    project = tmp_path / "my pipeline"
    project.mkdir()
    run(path, tmp_path, "pipectl init 'my pipeline'")
    if engine == "docker":
        need_docker()
        install = DockerProject(project, engine).ways_to_packages()
        (project / "stack" / "airflow" / "install.env").write_text(install, encoding="utf-8")
    workflow: Any = yaml.safe_load((project / ".github/workflows/pipeline.yml").read_text(encoding="utf-8"))
    steps = [step["run"] for step in workflow["jobs"]["pipeline"]["steps"] if "run" in step]
    [installation, *steps] = steps
    assert installation.startswith('python -m pip install "pipectl==')
    assert [words.split()[1] for words in steps if words.startswith("pipectl")] == (
        ["check", "test", "up", "trigger", "verify-db", "doctor", "down"]
    )
    try:
        for step in steps:
            run(path, project, step, engine)
    finally:
        run(path, project, "pipectl down --volumes --yes", engine)
    assert {report.name for report in (project / "reports").iterdir()} >= {
        "check.xml",
        "data.xml",
        "test.xml",
        "doctor.tar.gz",
    }


def test_a_project_of_the_first_release_runs_after_its_upgrade(path: str, tmp_path: Path) -> None:
    shutil.unpack_archive(RELEASES / f"{FIRST_RELEASE}.zip", tmp_path)
    (tmp_path / "stack" / ".env").write_text("AIRFLOW_ADMIN_PASSWORD=sesame\n", encoding="utf-8")
    try:
        run(path, tmp_path, "pipectl upgrade")
        run(path, tmp_path, "pipectl up && pipectl trigger && pipectl verify-db --expect reconciled")
    finally:
        run(path, tmp_path, "pipectl down --volumes --yes")
    assert "AIRFLOW_ADMIN_PASSWORD=sesame\n" in (tmp_path / "stack" / ".env").read_text(encoding="utf-8")


def settings_of_the_first_release() -> str:
    """Return stack/.env as the first release's .env.example says, with names and ports that are free."""
    project_id = secrets.token_hex(4)
    names = {
        "COMPOSE_PROJECT_NAME": f"pipectl-{project_id}",
        "AIRBYTE_POSTGRES_CONTAINER": f"airbyte-postgres-{project_id}",
        "AIRBYTE_MYSQL_CONTAINER": f"airbyte-mysql-{project_id}",
        "AIRBYTE_NETWORK": f"airbyte_net-{project_id}",
        "PIPECTL_PROJECT_ID": project_id,
        "AIRFLOW_FERNET_KEY": f"{secrets.token_urlsafe(32)}=",
    }
    for service in ("AIRFLOW_POSTGRES", "AIRBYTE_MYSQL_ROOT", "AIRBYTE_REPLICATION"):
        names[f"{service}_PASSWORD"] = secrets.token_hex(32)
    for name in ("AIRFLOW_JWT_SECRET", "AIRFLOW_API_SECRET_KEY"):
        names[name] = secrets.token_hex(32)
    with socket.socket() as first, socket.socket() as second, socket.socket() as third:
        for name, probe in (("AIRFLOW", first), ("AIRBYTE_POSTGRES", second), ("AIRBYTE_MYSQL", third)):
            probe.bind(("127.0.0.1", 0))
            names[f"{name}_PORT"] = str(probe.getsockname()[1])
    return "".join(f"{name}={value}\n" for name, value in names.items())


@pytest.mark.docker
def test_data_of_the_first_release_goes_on_after_its_upgrade_on_docker(tmp_path: Path) -> None:
    """Its Compose file makes the volumes and accounts, and what it wrote then is loaded."""
    need_docker()
    project = DockerProject(tmp_path / "my shop", "docker")
    shutil.unpack_archive(RELEASES / f"{FIRST_RELEASE}.zip", project.folder)
    (project.folder / "stack" / ".env").write_text(settings_of_the_first_release(), encoding="utf-8")
    sums = "SELECT count(*), sum(amount), max(transaction_id) FROM transactions WHERE transaction_id <= 324"
    labels = "SELECT count(*), sum(is_fraud) FROM fraud_labels WHERE transaction_id <= 254"
    try:
        project.compose("up", "--detach", "--wait", "postgres", "airbyte-postgres", "airbyte-mysql")
        release = ROOT / "tests" / "fixtures" / f"release-{FIRST_RELEASE}"
        docker("cp", str(release / "postgres.sql"), f"{project.variable('AIRBYTE_POSTGRES_CONTAINER')}:/tmp/")
        project.psql(r"\i /tmp/postgres.sql")
        project.mysql((release / "mysql.sql").read_text(encoding="utf-8"))
        before = project.psql(sums), project.mysql(labels)
        assert before[0].startswith("324|")
        volumes = project.volumes()
        project.compose("down")

        project.run("upgrade")
        project.run("up")
        assert (project.psql(sums), project.mysql(labels)) == before
        assert volumes.items() <= project.volumes().items()
        project.run("trigger")
        project.run("verify-db", "--expect", "reconciled")
        assert (project.psql(sums), project.mysql(labels)) == before
    finally:
        project.run("down", "--volumes", "--yes")
    assert project.volumes() == {}


def test_a_bundle_installs_where_there_is_no_network(path: str, tmp_path: Path) -> None:
    """With empty caches, no settings of pip's, proxies that nobody is behind, and as root no way out."""
    run(path, tmp_path, "pipectl init made")
    # A release would come from an index, so the clone's own pipectl makes the bundle.
    subprocess.run(
        [sys.executable, "-m", "pipectl", "bundle", str(tmp_path / "offline.tar.gz")],
        cwd=tmp_path / "made",
        env={name: value for name, value in os.environ.items() if name != "PIPECTL_PROJECT"},
        check=True,
    )
    alone = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "PIP_CONFIG_FILE": os.devnull,
        "PIPECTL_ENGINE": "local",
        **{f"{scheme}_proxy": "http://127.0.0.1:1" for scheme in ("http", "https", "all")},
    }
    (tmp_path / "home").mkdir()
    commands = """
        tar xf offline.tar.gz && pipectl-offline/install && mv made project && cd project || exit
        PATH=$PWD/../pipectl-offline:$PATH
        pipectl check && pipectl test && pipectl up
        [ $? = 0 ] && pipectl trigger && pipectl verify-db --expect reconciled
        code=$?
        pipectl down --volumes --yes && exit "$code"
    """
    shell = ["sh", "-c", commands]
    if shutil.which("ip") and subprocess.run(["unshare", "--net", "true"], check=False).returncode == 0:
        shell = ["unshare", "--net", "sh", "-c", f"ip link set lo up\n{commands}"]
    done = subprocess.run(shell, cwd=tmp_path, env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
