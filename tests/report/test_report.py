from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from unbackdoor.report import Example, render
from unbackdoor.report.verdict import verdict

HOSTILE = "<script>alert('x')</script>"


def rates(ca: float, asr: float) -> dict[str, Any]:
    names = ("ca", "asr", "triggered_accuracy")
    return {
        "ca": ca,
        "asr": asr,
        "triggered_accuracy": 0.5,
        "n": dict.fromkeys(names, 1000),
        "interval": {name: [0.1, 0.9] for name in names},
    }


def result(**changes: Any) -> dict[str, Any]:
    point = lambda a, v: {"alpha": a, "ca": row(0.9), "asr": row(v)}  # noqa: E731
    row = lambda v: {"value": v, "n": 512, "interval": [max(0, v - 0.02), min(1, v + 0.02)]}  # noqa: E731
    base = {
        "verb": "unlearn", "model": "out/model", "data": "embedded:digits", "trigger": "badnets:size=6",
        "target": "three", "alpha": 0.5, "rule": "the rule", "message": None, "retention": 0.98,
        "tolerance": 0.01, "ca_floor": 0.85, "before": rates(0.9, 0.97), "after": rates(0.88, 0.005),
        "curve": [point(0.0, 0.97), point(0.25, 0.4), point(0.5, 0.0)], "vector": {"samples": 256},
    }  # fmt: skip
    return {**base, **changes}


EXAMPLE = Example(
    torch.zeros(3, 8, 8, dtype=torch.uint8), torch.ones(3, 8, 8, dtype=torch.uint8), HOSTILE, "b", "c", "d", "e"
)
MANIFEST = {"config": {"model": HOSTILE, "tune": {"lr": 1e-4}}, "hashes": {"weights": "ab"}, "seconds": 3.2}


def test_nothing_is_asked_from_outside() -> None:
    page = render(result(), MANIFEST, [EXAMPLE])
    # "#" names a place in the page itself.
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "@import" not in page and not re.findall(r"url\((?!#)", page) and "<script" not in page
    assert page.count("data:image/png;base64,") == 2


def test_untrusted_text_is_escaped() -> None:
    page = render(result(target=HOSTILE, trigger=HOSTILE, message=HOSTILE), MANIFEST, [EXAMPLE])
    assert HOSTILE not in page and "&lt;script&gt;" in page


def test_it_is_deterministic_and_shows_n_and_intervals() -> None:
    page = render(result(), MANIFEST, [EXAMPLE])
    assert page == render(result(), MANIFEST, [EXAMPLE])
    assert "97.0%" in page and "0.5%" in page and "10.0–90.0, n = 1000" in page and "<svg" in page
    assert "ASR at α 0.25: 40.0% of 512" in page and "chosen α = 0.5" in page


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({}, "good", "is gone: its success fell from 97.0% to 0.5%"),
        ({"retention": 0.8}, "mixed", "at a price"),
        ({"after": rates(0.9, 0.1)}, "mixed", "weakened but not gone"),
        ({"after": rates(0.9, 0.6)}, "bad", "still there"),
        ({"before": rates(0.9, 0.005)}, "mixed", "hardly worked"),
        ({"retention": None}, "good", "of triggered images."),
    ],
)
def test_the_verdict_says_what_the_figures_say(changes: dict[str, Any], level: str, words: str) -> None:
    found = verdict(result(**changes))
    assert found[0] == level and words in found[1]
    assert found[1].replace("'", "&#39;") in render(result(**changes), MANIFEST, [])


@pytest.mark.parametrize("curve", [[], result()["curve"][:1]])
def test_a_page_without_a_curve(curve: list[Any]) -> None:
    assert "<svg" not in render(result(curve=curve), MANIFEST, [])


def test_three_columns_when_the_original_is_known() -> None:
    assert "before the attack" in render(result(original=rates(0.95, 0.0)), MANIFEST, [])
