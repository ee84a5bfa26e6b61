"""Which projects are listed and stopped: of both engines, moved, broken, gone, or somebody else's."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from pipectl import cli
from pipectl.engines import registry
from pipectl.engines.docker.api import FOLDER_LABEL
from pipectl.engines.docker.identity import PROJECT_LABEL
from pipectl.engines.project import folder_mark, forget_engine, remember_engine
from pipectl.errors import EngineError, ExitCode
from pipectl.pipeline import projects
from pipectl.settings import Settings
from support.fake_docker import FakeApi, container
from support.json_schemas import check_output

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, on a machine on which nothing runs."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("PIPECTL_CACHE_DIR", str(folder))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(projects, "running_projects", list)
    on_docker(monkeypatch, FakeApi())
    return folder


def on_docker(monkeypatch: pytest.MonkeyPatch, api: FakeApi) -> None:
    monkeypatch.setattr(projects, "OneLook", lambda: api)


def project(folder: Path, **variables: str) -> Path:
    for name in ("dags", "stack"):
        (folder / name).mkdir(parents=True)
    lines = (f"{name}={value}\n" for name, value in variables.items())
    (folder / "stack" / ".env").write_text("".join(lines))
    return folder


def with_data(folder: Path) -> Path:
    (folder / ".pipectl" / "volumes" / "airbyte-mysql" / "data").mkdir(parents=True)
    (folder / ".pipectl" / "volumes" / "airbyte-mysql" / "data" / "rows").write_bytes(b"x" * 5000)
    return folder


def start(folder: Path, cache: Path, engine: str = "local", **variables: str) -> Path:
    """Leave what a start leaves."""
    remember_engine(Settings(folder, engine, cache, variables), engine)
    return folder


def listed() -> dict[Path | None, projects.ListedProject]:
    return {each.folder: each for each in projects.listing(None).projects}


def volume(project_id: str) -> dict[str, Any]:
    created = "2026-05-04T22:00:00Z"
    return {"Name": f"{project_id}_data", "CreatedAt": created, "Labels": {PROJECT_LABEL: project_id}}


def of_project(folder: Path, project_id: str) -> dict[str, dict[str, str]]:
    return {f"{project_id}-1": {PROJECT_LABEL: project_id, FOLDER_LABEL: str(folder / "stack")}}


def test_a_stopped_project_is_listed_until_its_data_is_deleted(tmp_path: Path, cache: Path) -> None:
    folder = start(with_data(project(tmp_path / "shop", AIRFLOW_PORT="8099")), cache)
    found = listed()[folder]
    assert (found.engine, found.state, found.running) == ("local", "stopped", ())
    assert found.ports["webserver"] == 8099
    assert found.bytes
    assert found.bytes >= 5000
    assert (found.snapshot_bytes, found.since) == (0, None)
    (folder / ".pipectl" / "snapshots" / "mine").mkdir(parents=True)
    (folder / ".pipectl" / "snapshots" / "mine" / "data").write_bytes(b"x" * 9000)
    assert (listed()[folder].snapshot_bytes or 0) >= 9000
    forget_engine(Settings(folder, "local", cache, {}), "local")
    assert listed() == {}


def test_the_project_of_the_current_folder_need_not_have_been_started_since(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache
    folder = with_data(project(tmp_path / "shop"))
    monkeypatch.chdir(folder / "dags")
    assert listed().keys() == {folder}


def test_a_moved_project_is_listed_once_at_its_new_place(tmp_path: Path, cache: Path) -> None:
    folder = start(with_data(project(tmp_path / "shop")), cache)
    moved = folder.rename(tmp_path / "moved")
    start(moved, cache)
    assert listed().keys() == {moved}


def test_a_folder_that_was_deleted_with_all_in_it_is_forgotten(tmp_path: Path, cache: Path) -> None:
    folder = start(with_data(project(tmp_path / "shop")), cache)
    shutil.rmtree(folder)
    assert listed() == {}
    assert registry.known(cache) == ()


def test_a_folder_that_cannot_be_looked_at_is_not_called_gone(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = start(with_data(project(tmp_path / "shop")), cache)
    monkeypatch.setattr(projects, "_is_project", lambda _: False)
    monkeypatch.setattr(type(folder), "stat", lambda *_, **__: (_ for _ in ()).throw(PermissionError()))
    assert projects._is_gone(folder) is False
    monkeypatch.undo()
    assert [each.folder for each in registry.known(cache)] == [folder]


def test_files_of_the_list_that_say_nothing_are_left_out(tmp_path: Path, cache: Path) -> None:
    folder = start(with_data(project(tmp_path / "shop")), cache)
    for name, text in (
        ("a", "{"),
        ("b", "[]"),
        ("c", '{"folder": 1}'),
        ("d", '{"folder": "x", "engine": "local"}'),
    ):
        (cache / "projects" / f"{name}.json").write_text(text)
    assert listed().keys() == {folder}
    (cache / "projects" / f"{folder_mark(folder)}-local.json").write_text("nothing")
    assert listed() == {}


def test_processes_of_a_folder_that_is_gone_are_named_and_ended(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache
    ended: list[int] = []
    monkeypatch.setattr(projects, "running_projects", lambda: [(4711, tmp_path / "gone")])
    monkeypatch.setattr(projects, "end_session", ended.append)
    found = listed()[tmp_path / "gone"]
    assert (found.state, found.left) == ("gone", ("supervisord, process 4711, and what it runs",))
    [[running], _] = projects.find(None)
    assert isinstance(projects.stop(running), projects.StoppedProject)
    assert ended == [4711]
    # Another process may have the number by now.
    monkeypatch.setattr(projects, "running_projects", list)
    projects.stop(running)
    assert ended == [4711]


def test_a_stack_whose_state_was_deleted_counts_as_running(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache
    folder = project(tmp_path / "shop")
    monkeypatch.setattr(projects, "running_projects", lambda: [(4711, folder)])
    assert listed()[folder].state == "running"
    assert "pipectl down" in listed()[folder].problem


def test_a_project_on_docker_is_known_by_label_and_by_its_own_settings(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache
    folder = project(tmp_path / "shop", PIPECTL_PROJECT_ID="me")
    found = (container("webserver", published={8080: 8081}), container("scheduler"))
    on_docker(monkeypatch, FakeApi(found, of_project(folder, "me"), [volume("me")]))
    [one] = projects.listing(None).projects
    assert (one.folder, one.engine, one.state, one.bytes) == (folder, "docker", "running", 7)
    assert {"webserver", "scheduler"} <= set(one.running)
    assert one.ports["webserver"] == 8081


def test_a_stopped_project_on_docker_is_known_by_the_list(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = start(
        project(tmp_path / "shop", PIPECTL_PROJECT_ID="me"), cache, "docker", PIPECTL_PROJECT_ID="me"
    )
    on_docker(monkeypatch, FakeApi(volume_list=[volume("me")]))
    assert (listed()[folder].state, listed()[folder].bytes) == ("stopped", 7)
    on_docker(monkeypatch, FakeApi())
    assert listed() == {}
    shutil.rmtree(folder)
    assert listed() == {}
    assert registry.known(cache) == ()


class StoppingApi(FakeApi):
    """Keeps which containers were stopped."""

    stopped: tuple[str, ...] = ()

    def stop(self, name: str) -> None:
        self.stopped += (name,)


@pytest.mark.parametrize("is_own", [True, False])
def test_what_a_gone_folder_left_on_docker_is_named_and_stopped_if_it_is_this_users(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, *, is_own: bool
) -> None:
    folder = tmp_path / "gone"
    if is_own:
        shutil.rmtree(start(project(folder), cache, "docker", PIPECTL_PROJECT_ID="me"))
    api = StoppingApi(
        (container("webserver"), container("redis", "exited")), of_project(folder, "me"), [volume("me")]
    )
    on_docker(monkeypatch, api)
    [[found], _] = projects.find(None)
    assert (found.listed.folder, found.listed.state, found.listed.bytes) == (folder, "gone", 7)
    assert found.listed.left == (
        "container pipectl-webserver-1",
        "container pipectl-redis-1, stopped",
        "volume me_data",
    )
    projects.stop(found)
    assert api.stopped == (("webserver",) if is_own else ())


def test_a_label_that_names_somebodys_folder_proves_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache
    folder = project(tmp_path / "shop", PIPECTL_PROJECT_ID="me")
    api = StoppingApi((container("webserver"),), of_project(folder, "impostor"))
    on_docker(monkeypatch, api)
    [[found], _] = projects.find(None)
    assert (found.listed.state, found.stop) == ("gone", None)
    (folder / "stack" / ".env").unlink()
    (folder / "stack").rmdir()
    monkeypatch.setattr(projects, "_is_gone", lambda _: False)
    assert projects.find(None) == ([], ())


def test_volumes_of_nobody_have_no_folder(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache
    on_docker(monkeypatch, FakeApi(volume_list=[volume("who")]))
    [found] = projects.listing(None).projects
    assert (found.folder, found.state, found.left) == (None, "unknown", ("volume who_data",))


class SilentApi(FakeApi):
    def container_names(self) -> dict[str, dict[str, str]]:
        raise EngineError("No Docker engine answers.")


def test_without_docker_its_projects_are_unknown_and_others_are_listed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_docker(monkeypatch, SilentApi())
    local = start(with_data(project(tmp_path / "local")), cache)
    assert projects.listing(None).notes == ()
    folder = start(project(tmp_path / "shop"), cache, "docker", PIPECTL_PROJECT_ID="me")
    assert {path: each.state for path, each in listed().items()} == {local: "stopped", folder: "unknown"}
    assert projects.listing(None).notes == ("No Docker engine answers.",)
    assert [each.engine for each in projects.listing("local").projects] == ["local"]
    assert [each.engine for each in projects.listing("docker").projects] == ["docker"]


def run(*words: str, code: int = 0) -> Any:
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == code, done.output
    if "--json" in words:
        check_output(words, done.stdout, done.stderr)
    return done


def test_the_list_names_folder_engine_state_and_the_cache(tmp_path: Path, cache: Path) -> None:
    assert f"Cache: {cache}, " in run("projects").stdout
    assert "None of your projects" in run("projects").stdout
    folder = start(with_data(project(tmp_path / "shop")), cache)
    assert "local" in run("projects").stdout
    [found] = json.loads(run("projects", "--json").stdout)["projects"]
    assert (found["folder"], found["state"]) == (str(folder), "stopped")
    assert "no engine 'podman'" in run("--engine", "podman", "projects", code=ExitCode.USAGE).stderr


@pytest.fixture
def three(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Three projects that run, of which the second cannot be stopped."""
    folders = [start(with_data(project(tmp_path / name)), cache) for name in ("a", "b", "c")]
    (folders[1] / "stack" / ".env").write_text("no assignment")
    monkeypatch.setattr(
        projects, "running_projects", lambda: [(n + 4711, each) for n, each in enumerate(folders)]
    )
    monkeypatch.setattr("pipectl.engines.local.engine.LocalEngine.stop", lambda _: ("webserver",))
    return folders


def test_all_projects_are_stopped_and_one_that_fails_does_not_keep_the_others(three: list[Path]) -> None:
    done = run("down", "--all", "--yes", "--json", code=ExitCode.ENGINE)
    result = json.loads(done.stdout)
    assert [(each["folder"], each["stopped"]) for each in result["projects"]] == [
        (str(three[0]), ["webserver"]),
        (str(three[2]), ["webserver"]),
    ]
    [failed] = result["failed"]
    assert failed["folder"] == str(three[1])
    assert "NAME=value" in failed["message"]
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert (error["code"], error["message"]) == (3, "Not stopped: 1 project of 3.")
    text = run("down", "--all", "--yes", code=ExitCode.ENGINE)
    assert f"Stopped {three[0]} (local): webserver." in text.stdout
    assert f"Not stopped: {three[1]} (local): " in text.stdout
    assert all((folder / ".pipectl" / "volumes").exists() for folder in three)


def test_nobody_is_stopped_without_a_yes(three: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projects, "stop", None)
    done = run("down", "--all", code=ExitCode.USAGE)
    assert "nothing was stopped" in done.stderr
    assert all(folder.name in done.stderr for folder in three)
    plan = json.loads(run("down", "--all", "--dry-run", "--json").stdout)
    assert [each["folder"] for each in plan["would_stop_projects"]] == list(map(str, three))
    assert "Would be stopped" in run("down", "--all", "--dry-run").stdout
    assert "--project DIR" in run("down", "--all", "--volumes", "--yes", code=ExitCode.USAGE).stderr


def test_nothing_to_stop_is_no_failure(cache: Path) -> None:
    assert cache
    assert "None of your projects was running." in run("down", "--all").stdout
    assert "Would be stopped: nothing." in run("down", "--all", "--dry-run").stdout
