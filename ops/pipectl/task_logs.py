"""What the log of a task says, as Airflow's API gives it: its lines, errors and what the task printed."""

from __future__ import annotations

import re
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any

from pipectl.airflow_answers import objects, one_line
from pipectl.names import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

# Around the places in which Airflow found a log: other ones while the task runs.
SOURCES, SOURCES_END = "::group::Log message source details", "::endgroup::"
# What a task prints, by Airflow's name of its loggers, and what Airflow logs when the task's code has ended.
# No sets: an answer may hold anything in their place, and not all of that has a hash.
PRINTED = ("task.stdout", "task.stderr")
ENDS = ("Task failed with exception", "Task exited")
# What Airflow logs before and after the output of a shell's command.
SHELLS_OUTPUT, SHELL_EXITED = "Output:", "Command exited with return code"
OUTPUT_LINES = 3
# In the names of the loggers of operators and sensors.
OPERATORS = "airflow.task.operators"
# An error as programs print it: the last line of a traceback, a line that begins with a level, perhaps after
# a time, or a shell's, with the number of its own line. Of a line of NAME=value pairs what its `error` says.
ERROR_LINE = re.compile(
    r"(?:[\d\-:.,TZ/+\[\] ]{0,40})(?:[A-Za-z_][\w.]*(?:Error|Exception)\b(?::|$)|(?:ERROR|FATAL|CRITICAL)\b"
    r"|(?:[Ee]rror|[Ff]atal)\b[^:]{0,20}:|.*\blevel=error\b"
    r"|\S+: (?:line )?\d+: .+: (?:(?:command )?not found|No such file or directory|Permission denied"
    r"|unbound variable)$)"
)
TOLD_ERROR = re.compile(r'\berror="((?:[^"\\]|\\.)*)"')
# Two or more frames of a traceback that lie in Airflow's installation, or its providers'.
AIRFLOWS_FRAMES = re.compile(
    r'(?:^  File "[^"\n]*/site-packages/airflow/[^"\n]*", line .*\n){2,}', re.MULTILINE
)
# As Python links two exceptions.
CAUSED = "The above exception was the direct cause of the following exception:"
FOLLOWED = "During handling of the above exception, another exception occurred:"


def log_lines(content: list[Any]) -> Iterator[str]:
    """Yield the lines of a log without Airflow's marks for folding, and without where the log was found."""
    hidden = False
    for line in content:
        event = str(line.get("event") or "") if isinstance(line, dict) else str(line)
        hidden = event == SOURCES or (hidden and event != SOURCES_END)
        if hidden or event.startswith("::"):
            continue
        event += _exit_of(line) if isinstance(line, dict) else ""
        trace = _trace(line) if isinstance(line, dict) else []
        if text := "\n".join([event, *trace]).strip("\n"):
            yield text


def error_last(content: list[Any]) -> list[Any]:
    """Return a log in which what a task printed stands before the error that ended the task.

    As in the log's file. Airflow's answer is in order of time, and what was printed has the time at which
    Airflow read it from a pipe, which may be after the error.
    """
    facts = [line if isinstance(line, dict) else {} for line in content]
    end = next((place for place, line in enumerate(facts) if line.get("event") in ENDS), len(content))
    # Python's sort leaves all else in its order.
    late = sorted(range(end, len(content)), key=lambda place: facts[place].get("logger") not in PRINTED)
    return [*content[:end], *(content[place] for place in late)]


def last_error(content: list[Any]) -> str:
    """Return the last failure in a log, in one line, empty if there is none: what was raised last."""
    line = _last_failure(content)
    return one_line((_reasons(line) or [str(line.get("event") or "") + _exit_of(line)])[0])


def _exit_of(line: dict[str, Any]) -> str:
    """Return what a program gave as it exited, as the end of a line of a log; empty for any other line."""
    code = line.get("exit_code")
    if code is None:
        return ""
    return f" with exit code {code}" if isinstance(code, int) else f": {code}"


def raised_from(content: list[Any]) -> list[str]:
    """Return the exceptions from which the last one in a log was raised, the nearest first."""
    line = _last_failure(content)
    failures = zip(objects(line.get("error_detail")), _reasons(line), strict=True)
    causes = takewhile(lambda failure: failure[0].get("is_cause") is True, islice(failures, 1, None))
    return [one_line(reason) for _, reason in causes]


def _last_failure(content: list[Any]) -> dict[str, Any]:
    return next(
        (
            line
            for line in reversed(objects(content))
            if line.get("error_detail") or line.get("level") in {"error", "critical"}
        ),
        {},
    )


def last_output(content: list[Any]) -> str:
    """Return the last lines that a task's program printed before the task ended; empty if none."""
    printed: list[str] = []
    is_shell = False
    for entry in objects(content):
        event = str(entry.get("event") or "")
        if event in ENDS:
            break
        if event == SHELLS_OUTPUT:
            is_shell = True
        elif event.startswith(SHELL_EXITED):
            is_shell = False
        elif is_shell or entry.get("logger") in PRINTED:
            printed += [one_line(line) for line in event.splitlines() if line.strip()]
    return "\n".join(printed[-OUTPUT_LINES:])


def own_words(content: list[Any]) -> str:
    """Return the last line that a task's operator logged by itself, in one line; empty if none."""
    for entry in reversed(objects(content)):
        if OPERATORS in str(entry.get("logger")):
            return one_line(str(entry.get("event") or ""))
    return ""


def first_error(content: list[Any]) -> str:
    """Return the first error that a task logged or printed before it ended, in one line; empty if none."""
    for entry in objects(content):
        if entry.get("event") in ENDS:
            break
        text = str(entry.get("event") or "")
        if entry.get("level") in {"error", "critical"}:
            return one_line((_reasons(entry) or [text])[0])
        for line in text.splitlines():
            if ERROR_LINE.match(line):
                told = TOLD_ERROR.search(line)
                return one_line(told[1].replace('\\"', '"') if told else line)
    return ""


def fold_frames(text: str) -> str:
    """Return a text in which one line counts the frames of Airflow that follow one another in a traceback."""
    return AIRFLOWS_FRAMES.sub(
        lambda frames: f"  … {counted(frames[0].count(chr(10)), 'frame')} of Airflow …\n", text
    )


def _trace(line: dict[str, Any]) -> list[str]:
    """Return the exceptions of a line of a log as Python shows them: the last one is what the task raised."""
    told: list[str] = []
    failures = list(reversed(objects(line.get("error_detail"))))
    for failure, reason in zip(failures, reversed(_reasons(line)), strict=True):
        frames = objects(failure.get("frames"))
        told += ["Traceback (most recent call last):"] if frames else []
        told += [
            f'  File "{frame.get("filename")}", line {frame.get("lineno")}, in {frame.get("name")}'
            for frame in frames
        ]
        told.append(reason)
        if failure is not failures[-1]:
            is_cause = failure.get("is_cause") is True
            told += ["", CAUSED if is_cause else FOLLOWED, ""]
    return told


def _reasons(line: dict[str, Any]) -> list[str]:
    """Return the exceptions of a line of a log."""
    failures = objects(line.get("error_detail"))
    return [f"{failure.get('exc_type')}: {failure.get('exc_value')}" for failure in failures]
