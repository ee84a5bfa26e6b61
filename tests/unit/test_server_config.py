"""The copies of configuration files that servers of the local engine read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipectl.engines.local.server_config import copy_config
from pipectl.errors import EngineError
from pipectl.pipeline.capture_checks import BINLOG_DAYS, DAY_SECONDS

STACK = Path(__file__).parents[2] / "stack"


def test_copy_can_be_read_by_all_and_written_by_its_owner_alone(tmp_path: Path) -> None:
    source = tmp_path / "stack" / "server.cnf"
    source.parent.mkdir()
    source.write_text("[mysqld]\n")
    source.chmod(0o666)

    copy = copy_config(source, tmp_path / "volume" / "data")

    assert copy.read_text() == "[mysqld]\n"
    assert copy.stat().st_mode & 0o777 == 0o644
    assert copy.parent.stat().st_mode & 0o777 == 0o755
    source.chmod(0o600)
    source.write_text("[mysqld]\nport = 1\n")
    assert copy_config(source, tmp_path / "volume" / "data").read_text() == "[mysqld]\nport = 1\n"
    assert [path.name for path in copy.parent.iterdir()] == ["server.cnf"]


def test_included_file_is_copied_too(tmp_path: Path) -> None:
    copy = copy_config(STACK / "postgres" / "business.conf", tmp_path / "data")
    [included] = re.findall(r"^include '(.+)'$", copy.read_text(), flags=re.MULTILINE)
    assert (copy.parent / included).is_file()


def test_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"absent.cnf: No such file") as failure:
        copy_config(tmp_path / "absent.cnf", tmp_path / "data")
    assert failure.value.hint.endswith(" checkout -- absent.cnf")


def test_binary_log_is_kept_for_as_long_as_the_check_demands() -> None:
    text = (STACK / "mysql" / "server.cnf").read_text()
    [seconds] = re.findall(r"^binlog_expire_logs_seconds = (\d+)$", text, flags=re.MULTILINE)
    assert int(seconds) >= BINLOG_DAYS * DAY_SECONDS


def test_no_option_of_the_files_stands_in_the_engines_too() -> None:
    """An option that the local engine or Compose names as well would win over the file, or differ from it."""
    files = [*(STACK / "postgres").glob("*.conf"), STACK / "mysql" / "server.cnf"]
    names = {
        name.removeprefix("loose_")
        for file in files
        for name in re.findall(r"^(\w+) = ", file.read_text(), flags=re.MULTILINE)
    }
    engines = STACK.parent / "ops" / "pipectl" / "engines"
    places = [
        engines / "local" / "postgres.py",
        engines / "local" / "mariadb.py",
        STACK / "docker-compose.yml",
    ]
    # What makes the data folder, which reads no file: the server that runs later has the option of the file.
    allowed = {"innodb_flush_log_at_trx_commit", "max_allowed_packet"}
    for place in places:
        written = place.read_text().replace("-", "_")
        found = {name for name in names - allowed if re.search(rf"\b{name}\s*[=\"]", written)}
        assert not found, f"{place} names {found}"
