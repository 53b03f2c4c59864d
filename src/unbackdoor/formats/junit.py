"""JUnit XML, as CI systems read it: a suite for each model, a test case for each line of the policy.

The form is that of Jenkins' xunit plugin, `junit-10.xsd`.
"""

from __future__ import annotations

from xml.etree import ElementTree

from unbackdoor.base.printable import terminal
from unbackdoor.formats.base import NAME, Format
from unbackdoor.vetting.result import Check, VetResult, Vetting

Node = ElementTree.Element


def render(result: VetResult) -> str:
    """One file with all models."""
    suites = [_suite(row) for row in result.models]
    whole = _node("testsuites", name=f"{NAME} vet", time=_time(result.seconds))
    for kind in ("tests", "failures", "errors"):
        whole.set(kind, str(sum(int(suite.get(kind, "0")) for suite in suites)))
    whole.extend(suites)
    ElementTree.indent(whole)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(whole, encoding="unicode")}\n'


def _suite(row: Vetting) -> Node:
    cases = [_case(row, check) for check in row.checks]
    counted = {kind: sum(case.find(kind) is not None for case in cases) for kind in ("failure", "error", "skipped")}
    suite = _node(
        "testsuite",
        name=row.model,
        tests=str(len(cases)),
        failures=str(counted["failure"]),
        errors=str(counted["error"]),
        skipped=str(counted["skipped"]),
        time=_time(row.seconds),
        timestamp=row.finished.removesuffix("Z"),
    )
    properties = ElementTree.SubElement(suite, "properties")
    for file in row.files:
        properties.append(_node("property", name=f"sha256 {file.path}", value=file.sha256))
    suite.extend(cases)
    ElementTree.SubElement(suite, "system-out").text = terminal(row.sentence)
    return suite


def _case(row: Vetting, check: Check) -> Node:
    """A test case; what cannot be told is an error, so that CI stops, unless the policy lets it pass."""
    case = _node("testcase", classname=f"{NAME}.vet.{row.model}", name=check.name)
    kinds = {"fail": "failure", "cannot-tell": "error", "not-run": "skipped"}
    kind = "error" if row.verdict == "error" else kinds.get(check.outcome)
    # A cured model passes: that the one given is backdoored is said, and stops nothing.
    if row.verdict == "cured" and kind == "failure":
        kind = "skipped"
    if kind is not None:
        case.append(_node(kind, type=check.outcome, message=check.measured))
    else:
        ElementTree.SubElement(case, "system-out").text = terminal(f"{check.wanted}: {check.measured}")
    return case


def _node(tag: str, **attributes: str) -> Node:
    """An element; characters that XML does not hold are left out of its attributes."""
    return ElementTree.Element(tag, {name: terminal(value) for name, value in attributes.items()})


def _time(seconds: float) -> str:
    return f"{seconds:.3f}"


FORMAT = Format("vet.junit.xml", render)
