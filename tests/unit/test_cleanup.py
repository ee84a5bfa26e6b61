"""What is old goes, what is new stays."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from cleanup import remove_files

if TYPE_CHECKING:
    from pathlib import Path

DAY = 86400


def log(path: Path, age_days: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a line\n")
    for part in (path, path.parent):
        os.utime(part, (time.time() - age_days * DAY,) * 2)
    return path


def test_old_logs_and_their_folders_go_and_new_ones_stay(tmp_path: Path) -> None:
    old = log(tmp_path / "run_id=old" / "task.log", 31)
    new = log(tmp_path / "run_id=new" / "task.log", 29)
    assert remove_files(tmp_path, time.time() - 30 * DAY) == 1
    assert not old.exists()
    assert new.exists()


def test_an_empty_folder_that_was_just_made_stays_for_its_task(tmp_path: Path) -> None:
    folder = tmp_path / "run_id=now"
    folder.mkdir()
    remove_files(tmp_path, time.time())
    assert folder.is_dir()
