"""Taking the vector again where the cure falls short on held-out views."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.scan.toy import toy_clip, toy_images, toy_subject
from unbackdoor.base.notices import collected
from unbackdoor.evaluation import Task
from unbackdoor.metrics.backdoor import AlphaPoint
from unbackdoor.metrics.rates import Rate
from unbackdoor.unlearning import known
from unbackdoor.unlearning.alpha import BLIND, AlphaConfig, AlphaSearch
from unbackdoor.unlearning.known import OTHER_STEPS, Attempt, Plan, cure_known
from unbackdoor.unlearning.vector import METHODS, TakenVector, VectorConfig
from unbackdoor.weights.vector import snapshot

LORA = METHODS["lora"]
RULE = AlphaConfig(regain=(1.0,))


def outcome(back: int, satisfied: bool = True, asr: int = 0) -> AlphaSearch:
    point = AlphaPoint(1.0, Rate(98, 100), Rate(asr, 100), Rate(back, 100))
    return AlphaSearch(1.0, satisfied, None if satisfied else "no α satisfies both limits", [point])


@pytest.mark.parametrize(
    ("outcomes", "best"),
    [
        ([outcome(90)], 0),
        ([outcome(40), outcome(80)], 1),
        ([outcome(40), outcome(60), outcome(50)], 1),
        ([outcome(60), outcome(40), outcome(50)], 0),
        ([outcome(90, False, asr=5), outcome(30), outcome(20)], 1),
        ([outcome(90, False, asr=30), outcome(85, False, asr=5), outcome(90, False, asr=40)], 1),
        ([AlphaSearch(0.0, True, "nothing to remove", [], nothing=True)], 0),
    ],
)
def test_the_best_of_at_most_three_attempts_counts(
    outcomes: list[AlphaSearch], best: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, images, subject = toy_clip(6.0), toy_images(), toy_subject(6.0)
    before = snapshot(clip.image_parameters())
    configs: list[VectorConfig] = []

    def take(_clip: Any, _forget: Any, _task: Any, config: VectorConfig, **_: Any) -> TakenVector:
        configs.append(config)
        vector = {name: torch.full_like(t, float(len(configs))) for name, t in before.items()}
        return TakenVector(vector, 1, config.tune.steps, 0.0, [], lr=config.share)

    def search(_clip: Any, walk: Any, *_: Any, **__: Any) -> AlphaSearch:
        assert all(torch.equal(p, before[n]) for n, p in clip.image_parameters().items()), "it starts at the suspect"
        made = outcomes[len(configs) - 1]
        walk.settle(made.alpha)
        return made

    monkeypatch.setattr(known, "trigger_vector", take)
    monkeypatch.setattr(known, "_search", search)
    kept: list[TakenVector] = []
    with collected() as lines:
        cured = cure_known(clip, images, Task(subject.head), Plan(LORA, images, RULE), taken=kept.append)
    assert len(configs) == cured.attempts == len(outcomes) and len(lines) == len(outcomes) - 1
    assert cured.search is outcomes[best] and kept[-1] is cured.taken
    for name, p in clip.image_parameters().items():
        assert torch.allclose(p, before[name] - cured.search.alpha * (best + 1))
    for config, attempt in zip(configs, (Attempt(), *OTHER_STEPS), strict=False):
        assert config.share == LORA.share * attempt.share and config.tune.steps == LORA.tune.steps * attempt.steps
    assert cured.steps == sum(c.tune.steps for c in configs)


@pytest.mark.parametrize(
    ("alphas", "back", "factors"),
    [
        ([8.0, 4.0, 1.0], 95, [1, 8, 32]),
        ([8.0, 1.0, 1.0], 40, [1, 8, 8]),
        ([1.0, 8.0, 1.0], 40, [1, 1, 8]),
    ],
    ids=["twice too short", "long enough, and answers stay wrong", "answers stay wrong, then too short"],
)
def test_a_vector_that_has_to_be_stretched_is_taken_in_steps_as_much_longer(
    alphas: list[float], back: int, factors: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, images, subject = toy_clip(6.0), toy_images(), toy_subject(6.0)
    shares: list[float] = []

    def take(_clip: Any, _forget: Any, _task: Any, config: VectorConfig, **_: Any) -> TakenVector:
        assert config.share is not None
        shares.append(config.share)
        return TakenVector(snapshot(clip.image_parameters()), 1, 1, 0.0, [])

    def search(*_: Any, **__: Any) -> AlphaSearch:
        alpha = alphas[len(shares) - 1]
        return AlphaSearch(alpha, True, None, [AlphaPoint(alpha, Rate(98, 100), Rate(0, 100), Rate(back, 100))])

    monkeypatch.setattr(known, "trigger_vector", take)
    monkeypatch.setattr(known, "_search", search)
    cured = cure_known(clip, images, Task(subject.head), Plan(LORA, images, RULE))
    assert LORA.share is not None and shares == pytest.approx([factor * LORA.share for factor in factors])
    assert cured.attempts == 3


@pytest.mark.parametrize(
    "plan",
    [
        {"rule": AlphaConfig()},
        {"alpha": 1.0},
        {"config": replace(LORA, tune=replace(LORA.tune, lr=1e-3))},
    ],
    ids=["other images choose α", "α is given", "the rate is given"],
)
def test_who_decides_himself_gets_one_attempt(plan: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    clip, images, subject = toy_clip(6.0), toy_images(), toy_subject(6.0)
    taken: list[VectorConfig] = []

    def take(_clip: Any, _forget: Any, _task: Any, config: VectorConfig, **_: Any) -> TakenVector:
        taken.append(config)
        return TakenVector(snapshot(clip.image_parameters()), 1, 1, 0.0, [])

    monkeypatch.setattr(known, "trigger_vector", take)
    monkeypatch.setattr(known, "_search", lambda *_, **__: outcome(10))
    base = Plan(LORA, images, RULE)
    assert cure_known(clip, images, Task(subject.head), replace(base, **plan)).attempts == len(taken) == 1


@pytest.mark.parametrize(
    ("outcomes", "longer", "steps", "best"),
    [
        ([outcome(10)], 4, [1], 0),  # how many get their answers back decides nothing here
        ([AlphaSearch(8.0, True, None, outcome(10).curve)], 4, [1], 0),
        ([outcome(90, False, asr=30), outcome(50)], 4, [1, 4], 1),
        ([outcome(90, False, asr=5), outcome(50, False, asr=30)], 4, [1, 4], 0),
        ([outcome(90, False, asr=30)], 1, [1], 0),
    ],
)
def test_without_answers_to_regain_a_vector_is_taken_again_where_no_alpha_satisfies(
    outcomes: list[AlphaSearch], longer: int, steps: list[int], best: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, images, subject = toy_clip(6.0), toy_images(), toy_subject(6.0)
    taken: list[int] = []

    def take(_clip: Any, _forget: Any, _task: Any, config: VectorConfig, **_: Any) -> TakenVector:
        taken.append(config.tune.steps)
        assert config.share == LORA.share
        return TakenVector(snapshot(clip.image_parameters()), 1, config.tune.steps, 0.0, [])

    outcomes = [replace(row, curve=[replace(point, alpha=row.alpha) for point in row.curve]) for row in outcomes]
    monkeypatch.setattr(known, "trigger_vector", take)
    monkeypatch.setattr(known, "_search", lambda *_, **__: outcomes[len(taken) - 1])
    cured = cure_known(clip, images, Task(subject.head), Plan(LORA, images, replace(BLIND, longer=longer)))
    assert taken == [LORA.tune.steps * factor for factor in steps] and cured.search is outcomes[best]
