"""What the classes of one model say without any clean model to compare with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from unbackdoor.metrics.rates import Rate
from unbackdoor.scan.alone import VOTERS, WITH_TWIN, WITHOUT_TWIN, Errors, Standing, reading, sentence, standing
from unbackdoor.scan.inverters.guided import standing as lead
from unbackdoor.scan.judgement import Say, judge

CELLS = Path(__file__).parent.parent.parent / "docs" / "lab" / "cells" / "zoo.jsonl"


@pytest.mark.parametrize(
    ("scores", "target", "score", "voters"),
    [
        ({"patch": {"a": 0.9, "b": -0.4}}, "a", 0.9, ("patch",)),
        # Two searches that agree outvote the largest lead of one.
        ({"patch": {"a": 0.9, "b": 0.6}, "warp": {"b": 0.7, "a": -1.0}}, "b", 1.3, ("patch", "warp")),
        # A class counts where it is foremost in some search, and there with what the others give it.
        ({"patch": {"a": 0.5, "c": 0.4}, "warp": {"b": 0.5, "c": 0.4}}, "a", 0.5, ("patch",)),
        # No leads: not comparable with the others.
        ({"patch": {"a": 0.2}, "collapse": {"b": 4.0}, "wave": {"b": 0.9}}, "a", 0.2, ("patch",)),
        ({"patch": {"a": -0.1, "b": -0.3}}, "a", 0.0, ()),
    ],
)
def test_searches_vote_for_classes_by_their_lead(
    scores: dict[str, dict[str, float]], target: str, score: float, voters: tuple[str, ...]
) -> None:
    stands = standing(scores)
    assert stands is not None and stands.target == target
    assert stands.score == pytest.approx(score) and stands.voters[target] == voters


def test_without_a_voter_there_is_nothing_to_read() -> None:
    assert standing({"collapse": {"a": 3.0}}) is None
    answer = judge({"collapse": Say({"a": 3.0}, 1.0), "wave": Say({"b": 0.1}, 0.4)}, None, 0.05, "why not")
    assert answer.alone is None and answer.target == "a"


def test_without_clean_models_nothing_is_decided_however_far_a_class_stands_out() -> None:
    says = {name: Say({"a": 9.0, "b": -9.0}, 1.0) for name in VOTERS}
    answer = judge(says, None, 0.05, "why not")
    assert answer.backdoored is None and answer.p_value is None and answer.message == "why not"
    assert answer.alone is not None and answer.alone.score == 45.0 and answer.target == "a"
    assert answer.confidence == 1.0


@pytest.mark.parametrize("lacking", VOTERS)
def test_fewer_searches_than_were_measured_are_not_read(lacking: str) -> None:
    says = {name: Say({"a": 9.0, "b": -9.0}, 1.0) for name in VOTERS if name != lacking}
    answer = judge(says, None, 0.05)
    assert answer.alone is None and answer.target == "a"


def test_the_likely_target_is_the_class_that_stands_out_and_not_the_one_whose_trigger_works_best() -> None:
    says = {name: Say({"b": -0.1}, 0.9) for name in VOTERS}
    says["patch"] = Say({"a": 1.2, "b": 0.1}, 0.6)
    says["warp"] = Say({"b": 0.3, "a": 0.2}, 1.0)
    says["collapse"] = Say({"b": 2.0}, 1.0)
    answer = judge(says, None, 0.05)
    assert (answer.target, answer.inverter) == ("a", "patch")
    assert answer.alone is not None and answer.target == answer.alone.target


@pytest.mark.parametrize(
    ("score", "twin", "words"),
    [
        (2.0, False, ["stands out among", "29 of 40 backdoored and 4 of 20 clean", "2.00, limit 1.25"]),
        (1.0, False, ["no class stands out", "1.00, limit 1.25", "29 of 40 backdoored and 4 of 20 clean"]),
        (1.0, True, ["the likely target stands out", "1.00, limit 0.97", "25 of 40 backdoored and 0 of 20 clean"]),
    ],
)
def test_the_reading_is_labelled_as_weaker_and_tells_how_often_it_errs(
    score: float, twin: bool, words: list[str]
) -> None:
    alone = reading(Standing({"a\nb": score}, {"a\nb": ("patch",)}), "a\nb", twin)
    text = sentence(alone)
    assert all(word in text for word in [*words, "a weaker reading, which decides nothing"]), text
    assert alone.target == "a\nb" and alone.target not in text, "a class name is a stranger's text"
    assert alone.stands_out == (score > alone.limit) and alone.inverters == ("patch",)


def recorded(row: dict[str, Any], twin: bool) -> dict[str, dict[str, float]]:
    facts = {name: row["seen"]["inverters"][name]["facts"] for name in VOTERS}
    return {
        name: dict(zip(f["candidates"], f["score"] if twin else lead(torch.tensor(f["cost"])).tolist(), strict=True))
        for name, f in facts.items()
    }


@pytest.mark.parametrize(("twin", "stated"), [(False, WITHOUT_TWIN), (True, WITH_TWIN)])
def test_stated_errors_are_those_of_the_recorded_zoo(twin: bool, stated: Errors) -> None:
    rows = [json.loads(line) for line in CELLS.read_text(encoding="utf-8").splitlines()]
    points: dict[tuple[str, bool], list[tuple[float, bool]]] = {}
    for row in rows:
        asr = row["card"]["after"].get("asr")
        if asr is None or asr["value"] >= 0.5:
            stands = standing(recorded(row, twin))
            assert stands is not None
            right = stands.target == row["card"]["target"]
            points.setdefault((row["half"], asr is not None), []).append((stands.score, right))
    assert max(score for score, _ in points["calibration", False]) == pytest.approx(stated.limit, abs=5e-5)
    clean, backdoored = points["test", False], points["test", True]
    assert Rate(sum(score > stated.limit for score, _ in clean), len(clean)) == stated.false_alarms
    assert Rate(sum(score > stated.limit for score, _ in backdoored), len(backdoored)) == stated.detected
    assert Rate(sum(right for _, right in backdoored), len(backdoored)) == stated.right
