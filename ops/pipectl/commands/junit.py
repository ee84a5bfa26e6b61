"""JUnit XML, which CI servers read."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pipectl.console import visible


@dataclass(frozen=True)
class Case:
    """A test case. `kind` is that of its failure, empty for one that passed.

    `broke` says that the case has no answer, which CI servers call an error and no failure.
    """

    group: str
    name: str
    seconds: float = 0.0
    kind: str = ""
    message: str = ""
    text: str = ""
    broke: bool = False


def document(suite: str, cases: list[Case], seconds: float) -> str:
    """Return a suite of test cases; the text of one that passed is its output."""
    import xml.etree.ElementTree as ET  # noqa: PLC0415  written, not read

    element = ET.Element(
        "testsuite",
        name=suite,
        tests=str(len(cases)),
        failures=str(sum(bool(case.kind) and not case.broke for case in cases)),
        errors=str(sum(case.broke for case in cases)),
        time=f"{seconds:.3f}",
        timestamp=time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()),
    )
    for case in cases:
        test = ET.SubElement(
            element, "testcase", classname=case.group, name=visible(case.name), time=f"{case.seconds:.3f}"
        )
        if case.kind:
            attributes = {"type": case.kind, "message": visible(case.message)}
            ET.SubElement(test, "error" if case.broke else "failure", attributes).text = visible(case.text)
        elif case.text:
            ET.SubElement(test, "system-out").text = visible(case.text)
    root = ET.Element("testsuites")
    root.append(element)
    written: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return written.decode()
