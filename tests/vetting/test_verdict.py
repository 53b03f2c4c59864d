"""Verdicts and exit codes, by table."""

from __future__ import annotations

import itertools

import pytest

from tests.formats.results import PICKLE, WEIGHTS, cure_facts, scan_facts
from unbackdoor.vetting.policy import Policy
from unbackdoor.vetting.result import CureFacts, FileFacts, ScanFacts
from unbackdoor.vetting.verdict import failed, is_refused, judged, worst

CLEAN, FOUND, NONE = scan_facts(False), scan_facts(True), scan_facts(None)
CURES = Policy(cure=True, accuracy_loss=2.0)


@pytest.mark.parametrize(
    ("policy", "files", "scan", "cure", "expected"),
    [
        (Policy(), [WEIGHTS], CLEAN, "", ("clean", 0, "pass pass not-run pass")),
        (Policy(), [], CLEAN, "", ("clean", 0, "not-run pass not-run pass")),
        (Policy(), [WEIGHTS], FOUND, "", ("backdoored", 1, "pass fail not-run pass")),
        (Policy(), [WEIGHTS], NONE, "", ("cannot-tell", 4, "pass cannot-tell not-run pass")),
        (Policy(cannot_tell="fail"), [WEIGHTS], NONE, "", ("cannot-tell", 1, "pass fail not-run pass")),
        (Policy(cannot_tell="pass"), [WEIGHTS], NONE, "", ("cannot-tell", 0, "pass warn not-run pass")),
        (Policy(), [WEIGHTS, PICKLE], None, "", ("unsafe", 1, "fail not-run not-run pass")),
        (Policy(unsafe_files="warn"), [PICKLE], CLEAN, "", ("clean", 0, "warn pass not-run pass")),
        (Policy(unsafe_files="warn"), [PICKLE], FOUND, "", ("backdoored", 1, "warn fail not-run pass")),
        (CURES, [WEIGHTS], FOUND, cure_facts(0.5), ("cured", 0, "pass fail pass pass")),
        (CURES, [WEIGHTS], FOUND, cure_facts(2.0), ("cured", 0, "pass fail pass pass")),
        (CURES, [WEIGHTS], FOUND, cure_facts(-1.0), ("cured", 0, "pass fail pass pass")),
        (CURES, [WEIGHTS], FOUND, cure_facts(2.1), ("backdoored", 1, "pass fail fail pass")),
        (CURES, [WEIGHTS], FOUND, cure_facts(2.1, labels=False), ("backdoored", 1, "pass fail fail pass")),
        (CURES, [WEIGHTS], FOUND, cure_facts(0.5, whole=False), ("backdoored", 1, "pass fail fail pass")),
        (CURES, [WEIGHTS], FOUND, "too few images", ("backdoored", 1, "pass fail fail pass")),
        (Policy(minutes=1.5), [WEIGHTS], CLEAN, "", ("clean", 0, "pass pass not-run pass")),
        (Policy(minutes=1.4), [WEIGHTS], CLEAN, "", ("clean", 0, "pass pass not-run warn")),
    ],
)
def test_a_verdict(
    policy: Policy,
    files: list[FileFacts],
    scan: ScanFacts | None,
    cure: CureFacts | str,
    expected: tuple[str, int, str],
) -> None:
    answer = judged(policy, files, scan, cure, 90.0)
    assert (answer.verdict, answer.exit_code, " ".join(c.outcome for c in answer.checks)) == expected
    first = {0: ("Passes", "The cured model"), 1: ("Fails",), 4: ("Cannot tell",)}[answer.exit_code]
    assert answer.sentence.startswith(first) and "cannot tell: cannot tell" not in answer.sentence.lower()


@pytest.mark.parametrize(
    ("cure", "part"),
    [
        (cure_facts(2.1), "it costs 2.1 points of clean accuracy, more than 2"),
        (cure_facts(2.1, labels=False), "it costs up to 2.1 points"),
        (cure_facts(whole=False), "something of the backdoor may be left"),
        ("too few images", "too few images"),
    ],
)
def test_why_a_cure_fails(cure: CureFacts | str, part: str) -> None:
    answer = judged(CURES, [WEIGHTS], FOUND, cure, 90.0)
    assert f"The cure fails: {part}" in answer.sentence and part in answer.checks[2].measured


@pytest.mark.parametrize("code", [2, 3])
def test_an_error(code: int) -> None:
    answer = failed("no such folder", code)
    assert (answer.verdict, answer.exit_code) == ("error", code) and "no such folder" in answer.sentence


def test_files_alone_decide_where_the_policy_says_so() -> None:
    assert is_refused(Policy(), [WEIGHTS, PICKLE]) and not is_refused(Policy(), [WEIGHTS])
    assert not is_refused(Policy(unsafe_files="warn"), [PICKLE])


def test_the_worst_exit_code_is_the_runs() -> None:
    for codes in itertools.product((0, 1, 2, 3, 4), repeat=3):
        order = (1, 3, 2, 4, 0)
        assert worst(codes) == min(codes, key=order.index)
