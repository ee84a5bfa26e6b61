"""DAG files that are wrong in one way each, and what `check` is to say of them."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

from support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from support.project_copy import Project

SDK = "from airflow.sdk import DAG\n"
EMPTY = "from airflow.providers.standard.operators.empty import EmptyOperator\n"
FINE = 'from airflow.sdk import DAG\n\nwith DAG("{}", schedule=None):\n    pass\n'
# Name, text, and the line and kind of the error. Airflow itself reports all of them.
REPORTED = {
    "syntax.py": ('from airflow.sdk import DAG\nwith DAG("a":\n    pass\n', 2, "syntax"),
    "broken_import.py": (
        SDK + "from airflow.sdk import NoSuchThing\n",
        2,
        "import",
    ),
    "missing.py": (SDK + "\nimport no_such_module\n", 3, "package"),
    "long.py": (SDK + "raise ValueError('x' * 200_000)\n", 2, "import"),
    "deep.py": (
        SDK + "from dateutil import parser\nparser.parse('nonsense')\n",
        3,
        "import",
    ),
    "exits.py": (SDK + "import sys\nsys.exit('over')\n", 3, "import"),
    "cycle.py": (
        EMPTY + SDK + "\n"
        'with DAG("cycle", schedule=None):\n    first = EmptyOperator(task_id="first")\n'
        '    last = EmptyOperator(task_id="last")\n    first >> last >> first\n',
        6,
        "cycle",
    ),
    "timetable.py": (
        "from airflow.timetables.simple import NullTimetable\n"
        + SDK
        + "\nclass Mine(NullTimetable):\n    pass\n\n"
        'with DAG("timetable", schedule=Mine()):\n    pass\n',
        None,
        "import",
    ),
}
# Those that end, or would end, the process that reads them; Airflow's answer comes late or never.
DEADLY = {
    "hangs.py": (
        SDK + "import time\nwhile True:\n    try:\n        time.sleep(100)\n"
        "    except BaseException:\n        pass\n",
        5,
        "time-limit",
    ),
    "ends.py": (SDK + "import os\nos._exit(0)\n", None, "ended"),
    "faulty.py": (SDK + "import ctypes\nctypes.string_at(0)\n", 3, "ended"),
    "aborts.py": (SDK + "import os\n\nos.abort()\n", 4, "ended"),
    "killed.py": (SDK + "import os\nos.kill(os.getpid(), 15)\n", None, "ended"),
}


def write(folder: Path, files: dict[str, tuple[str, int | None, str]]) -> None:
    for name, (text, _, _) in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def archive(path: Path, **modules: str) -> None:
    """Write a zip file with these modules."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name, text in modules.items():
            file.writestr(f"{name}.py", text)
    path.write_bytes(data.getvalue())


def check_without_a_package(project: Project) -> None:
    """Let requirements.txt name what nobody has: it is one finding, in the report and in the file for CI."""
    requirements = project.folder / "requirements.txt"
    before = requirements.read_text(encoding="utf-8")
    requirements.write_text(f"{before}\n./no-such-folder\n", encoding="utf-8")
    missing = project.dag("missing.py", SDK + "import no_such_module\n")
    junit = project.folder / "out.xml"
    try:
        answer = project.json("check", "--junit", str(junit), code=9)
    finally:
        requirements.write_text(before, encoding="utf-8")
        missing.unlink()
    [package, requirement] = [entry for entry in answer["findings"] if entry["severity"] == "error"]
    assert (package["file"], package["kind"]) == ("dags/missing.py", "package")
    assert (requirement["file"], requirement["kind"]) == ("requirements.txt", "requirements")
    assert "no-such-folder" in requirement["message"]
    assert 'name="requirements.txt"' in junit.read_text(encoding="utf-8")


def compare_with_the_processor(project: Project) -> None:
    """Let the stack's DAG processor read broken files, and compare what it says with what `check` says."""
    write(project.folder / "dags", REPORTED)
    archive(project.folder / "dags" / "packed.zip", inside=FINE.format("packed"))
    project.dag("fine.py", FINE.format("fine"))
    answer = project.json("check", code=9)
    said = {
        finding["file"].removeprefix("dags/"): finding["message"]
        for finding in answer["findings"]
        if finding["severity"] == "error" and finding["kind"] != "airflow-2"
    }
    assert said.keys() == REPORTED.keys()

    def failures() -> dict[str, str]:
        listed = project.json("dags")["import_failures"]
        return {entry["filename"]: entry["stack_trace"].strip().splitlines()[-1] for entry in listed}

    until(lambda: failures().keys() == said.keys(), "all import errors")
    assert failures() == said
    parsed = {dag for file in answer["files"] if file["file"][5:] not in REPORTED for dag in file["dags"]}
    until(lambda: parsed <= {dag["dag_id"] for dag in project.json("dags")["dags"]}, f"{parsed}")
    assert {"fine", "packed"} <= parsed
