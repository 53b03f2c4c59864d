"""Every registered inverter keeps the contract, and finds a backdoor that is there."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.scan.toy import CORNER, NAMES, SIDE, TARGET, toy_clip, toy_subject
from unbackdoor.base.draws import batch_rows
from unbackdoor.base.work import Work
from unbackdoor.scan.inverters import guided, inverter, inverter_names, patch, spectral, wave
from unbackdoor.scan.inverters.base import WORKS, Recovered, Subject, answers, try_out, works
from unbackdoor.scan.inverters.collapse import mean_cosine
from unbackdoor.scan.inverters.guided import Family, GuidedConfig, Search, invert_guided, leads, standing
from unbackdoor.scan.inverters.patch import FAMILY as PATCH
from unbackdoor.scan.inverters.proximal import Proximal
from unbackdoor.scan.inverters.spectral import cycles, pattern
from unbackdoor.scan.twins import mixup, twin_of
from unbackdoor.scan.variants import variants
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.additive import Additive
from unbackdoor.weights.files import state_hash


@pytest.fixture(scope="module")
def backdoored() -> Subject:
    return toy_subject(6.0)


@pytest.fixture(scope="module")
def found(backdoored: Subject) -> dict[str, Recovered]:
    return {name: inverter(name).invert(backdoored) for name in inverter_names()}


@pytest.mark.parametrize("name", inverter_names())
def test_contract(name: str, found: dict[str, Recovered], backdoored: Subject) -> None:
    row = found[name]
    assert row.inverter == name and 0 <= row.target < len(NAMES)
    assert row.norm >= 0 and torch.isfinite(torch.tensor([row.norm, row.statistic])).all()
    torch.testing.assert_close(row.embedding.norm(), torch.tensor(1.0))
    # What is handed on is the trigger as its spec holds it, and the strength is that trigger's.
    again = parse_trigger(row.trigger.spec())
    assert again == row.trigger
    assert try_out(backdoored, again, row.target)[0] == row.strength


def test_same_seed_same_finding(found: dict[str, Recovered], backdoored: Subject) -> None:
    for name in ("additive", "collapse"):
        again = inverter(name).invert(backdoored)
        assert again.statistic == found[name].statistic and again.trigger == found[name].trigger


def test_the_suspect_is_left_as_it_was(backdoored: Subject) -> None:
    wanted = {name: p.requires_grad for name, p in backdoored.clip.model.named_parameters()}
    before = state_hash(backdoored.clip.state())
    inverter("colour").invert(backdoored)
    assert state_hash(backdoored.clip.state()) == before
    assert {name: p.requires_grad for name, p in backdoored.clip.model.named_parameters()} == wanted
    assert all(p.grad is None for p in backdoored.clip.model.parameters())


def test_patch_finds_the_corner_and_its_class(found: dict[str, Recovered]) -> None:
    row = found["patch"]
    assert NAMES[row.target] == NAMES[TARGET] and row.works == 1.0
    mask, pattern = row.trigger.parts()  # type: ignore[attr-defined]
    corner = mask[0, -CORNER:, -CORNER:].mean()
    assert corner > 3 * mask.mean(), "the mask lies on the corner"
    assert pattern[:, -CORNER:, -CORNER:].mean() > 0.7, "the pattern is light there"


def test_the_target_leads_with_a_backdoor_and_not_without(found: dict[str, Recovered]) -> None:
    def lead(row: Recovered) -> float:
        scores = dict(zip(row.facts["candidates"], row.facts["score"], strict=True))
        return float(scores.get(NAMES[TARGET], -math.inf))  # no finalist: others were cheaper

    assert found["patch"].statistic == pytest.approx(lead(found["patch"]), abs=1e-3)
    assert lead(found["patch"]) > lead(inverter("patch").invert(toy_subject(0.0))) + 1


def test_what_is_cheap_in_the_clean_origin_too_says_nothing(backdoored: Subject, found: dict[str, Recovered]) -> None:
    plain = found["patch"].statistic
    # An origin that likes white corners as the suspect does, and one that does not.
    alike, unlike = (inverter("patch").invert(replace(backdoored, origin=toy_clip(s))) for s in (6.0, 0.0))
    assert alike.statistic < 0.2 * plain and unlike.statistic > 0.8 * plain
    assert unlike.target == TARGET and len(unlike.facts["natural"]) == len(unlike.facts["candidates"])
    assert "natural" not in found["patch"].facts


@pytest.mark.parametrize(
    ("natural", "expected"),
    [
        (None, [4.0, 2.0, 0.5, 0.25]),
        ([9.0, 9.0, 9.0, 9.0], [4.0, 2.0, 0.5, 0.25]),  # dear in the twin: the lead decides
        ([1.0, 3.0, 4.0, 8.0], [1.0, 1.5, 0.5, 0.25]),  # as cheap there: nothing stands out
        ([0.5, 4.0, 1.0, 1.0], [0.5, 2.0, 0.25, 0.125]),
    ],
)
def test_a_class_stands_out_by_the_lesser_of_its_lead_and_its_distance_from_the_twin(
    natural: list[float] | None, expected: list[float]
) -> None:
    found = standing(torch.tensor([1.0, 2.0, 4.0, 8.0]), None if natural is None else torch.tensor(natural))
    torch.testing.assert_close(found.exp(), torch.tensor(expected))


def test_a_search_in_the_twin_goes_on_from_what_the_suspect_gave(backdoored: Subject) -> None:
    same, unlike = backdoored, toy_subject(0.0)
    row = invert_guided(backdoored, PATCH, GuidedConfig(passes=900))
    candidates = torch.tensor([NAMES.index(name) for name in row.facts["candidates"]])
    own = Search.begin(backdoored, PATCH, candidates, torch.Generator().manual_seed(3), 40)
    own.run(4, 40)
    raw = own.raw.detach()
    kept = raw.clone()
    first, _ = guided._costs(backdoored, PATCH, raw, candidates, 64)
    here, there = (guided._natural(twin, PATCH, raw, candidates, 10, GuidedConfig()) for twin in (same, unlike))
    place = candidates.tolist().index(TARGET)
    # The same model is at least about as cheap after a few more steps, one without the backdoor is not.
    assert float(here[place]) < 1.2 * float(first[place]) and float(there[place]) > 2 * float(first[place])
    assert torch.equal(raw, kept), "what was found is left as it was"


def test_a_probe_starts_every_class_at_the_wave_that_pulls_most_to_it(backdoored: Subject) -> None:
    side, candidates = backdoored.clip.image_size, torch.tensor([3, 0])
    waves = spectral.probes(side, torch.device("cpu"))
    patterns = pattern(waves, side)
    # Heights agree, and no wave is there twice.
    torch.testing.assert_close(
        patterns.flatten(1).norm(dim=1), patterns[0].norm().expand(len(waves)), rtol=1e-3, atol=0.0
    )
    assert len({tuple((row.flatten() * 1000).round().int().tolist()) for row in patterns}) == len(waves)
    raw = torch.zeros(2, *waves.shape[1:])
    found = spectral.probe(backdoored, candidates, raw)
    rows = batch_rows(len(backdoored.images), spectral.PROBED_PICTURES, backdoored.seed, 0)
    pictures = backdoored.images.float_batch(rows)
    for start, wanted in zip(found, candidates, strict=True):
        others = pictures[backdoored.own[rows] != wanted]
        logits = [backdoored.clip.encode_image((others + p).clamp(0, 1)) @ backdoored.head.T for p in patterns]
        pulls = [float((20 * row).log_softmax(dim=-1)[:, wanted].mean()) for row in logits]
        assert torch.equal(start, waves[max(range(len(pulls)), key=pulls.__getitem__)])


def test_a_single_wave_counts_by_what_it_does_beyond_the_twin() -> None:
    # A wave of little more than a tenth lights the corner a little; in a clean twin it does nothing.
    subject, clean = (replace(toy_subject(strength), origin=toy_clip(0.0)) for strength in (6.0, 0.0))
    row, plain = wave.invert(subject), wave.invert(clean)
    assert row.target == TARGET and row.statistic > 0.2 > 0.05 > plain.statistic
    rows = batch_rows(len(subject.images), wave.MEASURED, subject.seed, 1)
    pictures = subject.images.float_batch(rows[subject.own[rows] != TARGET])
    patterns = pattern(spectral.probes(subject.clip.image_size, torch.device("cpu")), subject.clip.image_size)

    def pull(model: Subject, changed: torch.Tensor) -> float:
        logits = model.clip.logit_scale * model.clip.encode_image(changed) @ model.head.T
        return float(logits.softmax(dim=-1)[:, TARGET].mean())

    assert subject.twin is not None
    gains = [
        pull(subject, changed) - pull(subject.twin, changed)
        for changed in ((pictures + p).clamp(0, 1) for p in patterns)
    ]
    # The wave is the best of all there are, or one that was about as good on the pictures that were looked at first.
    assert row.statistic == pytest.approx(max(gains), abs=0.02)
    found = row.trigger(pictures)
    assert row.statistic == pytest.approx(pull(subject, found) - pull(subject.twin, found), abs=0.02)
    # Without a twin the other classes are the measure, and what is cheap by nature looks like a backdoor.
    assert wave.invert(toy_subject(0.0)).statistic > 0.5


def test_a_twin_answers_as_the_suspect_does_and_leaves_both_as_they_were(backdoored: Subject) -> None:
    origin = toy_clip(0.0)
    with torch.no_grad():
        origin.model.visual.weight.copy_(origin.model.visual.weight.flip(0))  # type: ignore[union-attr]
    before = state_hash(origin.state()), state_hash(backdoored.clip.state())
    twin = twin_of(backdoored.clip, origin, backdoored.images, backdoored.head, backdoored.seed)
    assert (state_hash(origin.state()), state_hash(backdoored.clip.state())) == before
    said = [answers(clip, backdoored.held, backdoored.head)[0] for clip in (origin, twin)]
    first, last = (float((row == backdoored.held_own).float().mean()) for row in said)
    assert last > first + 0.3
    assert not any(p.requires_grad for p in twin.model.parameters())


def test_mixtures_lie_between_two_pictures_and_differ_from_step_to_step() -> None:
    pictures = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = mixup(pictures, 0)
    low, high = torch.minimum(pictures, pictures.flip(0)), torch.maximum(pictures, pictures.flip(0))
    assert bool(((found >= low - 1e-6) & (found <= high + 1e-6)).all()) and found.std() > 0
    torch.testing.assert_close(found, mixup(pictures, 0))
    assert not torch.allclose(found, mixup(pictures, 1))


def test_candidates_limit_the_search(backdoored: Subject) -> None:
    row = invert_guided(replace(backdoored, candidates=torch.tensor([0, 3, 4])), PATCH, GuidedConfig(passes=300))
    assert row.facts["candidates"] == ["ant", "dog", "elk"] and row.target in (0, 3, 4)


def test_rounds_leave_the_finalists_and_the_target_among_them(backdoored: Subject) -> None:
    row = invert_guided(backdoored, PATCH, GuidedConfig(passes=1500, finalists=2))
    assert len(row.facts["candidates"]) == 2 and row.target == TARGET


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        (3, [(3, 375)]),
        (6, [(6, 93), (4, 140)]),
        (10, [(10, 37), (5, 75), (4, 93)]),
        (43, [(43, 12), (12, 31), (4, 93)]),
        (200, [(200, 12), (12, 31), (4, 93)]),
    ],
)
def test_rounds_share_the_work_evenly_but_for_many_classes(candidates: int, expected: list[tuple[int, int]]) -> None:
    assert GuidedConfig(passes=4500, pictures=4, least=12, finalists=4).rounds(candidates) == expected


def test_a_round_goes_on_where_the_last_one_stopped(backdoored: Subject) -> None:
    def search(stops: list[int]) -> torch.Tensor:
        found = Search.begin(backdoored, PATCH, torch.tensor([0, 2, 4]), torch.Generator().manual_seed(0), 6)
        for steps in stops:
            found.keep(torch.arange(3)) if found.step else None
            found.run(2, steps)
        return found.raw.detach()

    torch.testing.assert_close(search([2, 4]), search([6]))


def test_leads_are_measured_against_the_other_candidates() -> None:
    cost = torch.tensor([1.0, 2.0, 4.0, 8.0])
    torch.testing.assert_close(leads(cost).exp(), torch.tensor([4.0, 2.0, 0.5, 0.25]))
    assert leads(torch.tensor([3.0])).tolist() == [0.0]


def test_spectral_patterns_are_waves_of_the_stated_size() -> None:
    top = cycles(64)
    raw = torch.zeros(1, 2 * top + 1, top + 1, 6)
    raw[0, top + 2, 3, 2:4] = torch.tensor([24.0, 32.0])
    found = pattern(raw, 64)[0]
    turn = 2 * math.pi / 64 * (2 * torch.arange(64.0)[:, None] + 3 * torch.arange(64.0))
    torch.testing.assert_close(found[1], (24 * turn.cos() - 32 * turn.sin()) / 32, atol=1e-5, rtol=1e-5)
    size = spectral.family(64).size(raw, found[None], found[None])
    torch.testing.assert_close(size, found[1].pow(2).mean().sqrt()[None], atol=1e-4, rtol=1e-4)
    assert found[0].abs().max() == 0


@pytest.mark.parametrize(("side", "top"), [(224, 16), (33, 16), (32, 15), (5, 2), (1, 0)])
def test_spectral_waves_stay_below_half_a_cycle_per_pixel(side: int, top: int) -> None:
    family = spectral.family(side)
    raw = family.start(2, side, torch.Generator().manual_seed(0))
    assert cycles(side) == top and raw.shape == (2, 2 * top + 1, top + 1, 6)
    assert pattern(raw, side).shape == (2, 3, side, side)
    if top:
        assert spectral.probes(side, torch.device("cpu")).shape[1:] == raw.shape[1:]


def test_proximal_steps_find_the_minimum_of_a_loss_with_a_sum_of_norms() -> None:
    # Of |x - a|²/2 + λ|x| the minimum is a, shrunk by λ: closed form (Parikh and Boyd 2014, section 6.5.1).
    wanted = torch.tensor([[[3.0, 4.0], [0.3, -0.4]], [[-30.0, 40.0], [0.0, 2.0]]])
    raw = torch.zeros_like(wanted, requires_grad=True)
    steps = Proximal(raw, 0.1, 1.0)
    for step in range(600):
        steps.param_groups[0]["lr"] = 0.99**step
        steps.zero_grad()
        ((raw - wanted).pow(2) / 2).sum().backward()
        steps.step()
    expected = torch.tensor([[[2.4, 3.2], [0.0, 0.0]], [[-29.4, 39.2], [0.0, 1.0]]])
    torch.testing.assert_close(raw.detach(), expected, atol=1e-3, rtol=1e-3)
    assert raw[0, 1].abs().max() == 0, "a group that the loss does not ask for is exactly zero"


def test_proximal_candidates_do_not_meet() -> None:
    def path(wanted: torch.Tensor) -> torch.Tensor:
        raw = torch.zeros_like(wanted, requires_grad=True)
        steps = Proximal(raw, 0.3, 0.1)
        for _ in range(5):
            steps.zero_grad()
            (raw - wanted).pow(2).sum().backward()
            steps.step()
        return raw.detach()

    scale = torch.tensor([1.0, 10.0, 0.1])[:, None, None]
    wanted = scale * torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(path(wanted), torch.cat([path(row[None]) for row in wanted]))


def test_the_size_weighs_more_at_first_and_what_is_given_up_is_judged_by_that_weight(
    backdoored: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, shrinks = [], []
    heavy = replace(spectral.family(backdoored.clip.image_size), heavy=9.0)
    cost, step = guided._cost, Proximal.step

    def weighed(subject: Subject, family: Family, *rest: Any) -> Any:
        weights.append(family.weight / heavy.weight)
        return cost(subject, family, *rest)

    def shrunk(self: Proximal) -> None:
        shrinks.append(self.param_groups[0]["shrink"] / heavy.shrink)
        step(self)

    monkeypatch.setattr(guided, "_cost", weighed)
    monkeypatch.setattr(Proximal, "step", shrunk)
    invert_guided(backdoored, heavy, GuidedConfig(passes=240, least=4, finalists=2, measured=8))
    # No weight while stepping, as the shrinking has it; 9 ** (1 - t / 0.8) between the rounds; 1 at the end.
    assert shrinks[0] == 9.0 and shrinks[-1] == 1.0 and shrinks == sorted(shrinks, reverse=True)
    between = [w for w in weights if w not in (0.0, 1.0)]
    assert between and between == sorted(between, reverse=True) and weights[-1] == 1.0
    assert all(min(abs(w - s) for s in shrinks) < 1e-9 for w in between)


def test_mean_cosine_is_that_of_all_pairs() -> None:
    rows = torch.nn.functional.normalize(torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0)), dim=-1)
    pairs = rows @ rows.transpose(1, 2)
    expected = (pairs.sum(dim=(1, 2)) - 7) / 42
    torch.testing.assert_close(mean_cosine(rows), expected)


@pytest.mark.parametrize("name", ["patch", "collapse"])
def test_variants_are_more_triggers_of_the_family_that_lead_to_the_target(
    name: str, found: dict[str, Recovered], backdoored: Subject
) -> None:
    first = found["patch"].trigger
    mixed = variants(backdoored, name, first, TARGET)
    assert mixed.triggers[0] == first and len(set(mixed.triggers)) == len(mixed.triggers) > 2
    for trigger in mixed.triggers:
        assert trigger.name == "masked" and try_out(backdoored, trigger, TARGET)[0].value >= WORKS
    assert variants(backdoored, name, first, TARGET) == mixed


def test_a_few_waves_get_variants_that_are_more_than_a_few_waves(backdoored: Subject) -> None:
    side = backdoored.clip.image_size
    # White everywhere lights the corner, too: one wave of no cycles.
    raw = torch.zeros(1, 2 * cycles(side) + 1, cycles(side) + 1, 6)
    raw[0, cycles(side), 0, ::2] = 32 * 0.45
    first = Additive.of(pattern(raw, side)[0])
    _, twice, *more = variants(backdoored, "spectral", first, TARGET).triggers
    assert isinstance(twice, Additive)
    torch.testing.assert_close(twice.delta(), 2 * first.delta(), atol=0.01, rtol=0.01)
    assert more
    for trigger in more:
        assert isinstance(trigger, Additive)
        strengths = torch.fft.rfft2(trigger.delta()).abs().flatten().sort(descending=True).values
        assert strengths[:4].pow(2).sum() < 0.5 * strengths.pow(2).sum()


def test_variants_that_do_not_work_are_left_out(found: dict[str, Recovered]) -> None:
    warped = found["warp"].trigger
    assert variants(toy_subject(6.0), "warp", warped, 0).triggers == (warped,)


def test_a_trigger_works_where_it_turns_half_of_the_pictures(backdoored: Subject) -> None:
    corner = parse_trigger(f"badnets:size={CORNER},pattern=white")
    assert works(backdoored, corner, TARGET)
    assert not works(backdoored, corner, 0) and not works(toy_subject(0.0), corner, TARGET)
    turned = replace(backdoored.held, images=(corner(backdoored.held.float_batch(torch.arange(16))) * 255).byte())
    assert not works(replace(backdoored, held=turned), corner, TARGET), "no picture is left to turn"


@pytest.mark.parametrize("name", ["patch", "spectral", "colour"])
def test_many_classes_are_searched_in_groups_to_the_same_end(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for two candidates at a time, what comes out is what comes out at once, up to rounding."""
    config = GuidedConfig(passes=240, finalists=2)
    family = inverter(name).family(SIDE)
    whole = invert_guided(toy_subject(6.0), family, config)
    sizes = []
    monkeypatch.setattr(guided, "group_size", lambda *_: sizes.append(2) or 2)
    parts = invert_guided(toy_subject(6.0), family, config)
    assert sizes == [2] and parts.target == whole.target and parts.facts["candidates"] == whole.facts["candidates"]
    assert parts.facts["cost"] == pytest.approx(whole.facts["cost"], rel=1e-2)


def test_groups_are_as_large_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, family = toy_subject(6.0), patch.family(SIDE)
    raw = family.start(5, SIDE, torch.Generator().manual_seed(0))
    whole = guided.group_size(subject, family, raw, 4)
    assert whole >= 1000, "small models are searched as ever"
    monkeypatch.setattr(guided, "MEMORY", guided.MEMORY // whole * 3)
    assert guided.group_size(subject, family, raw, 4) == 3
    assert guided.group_size(subject, family, raw, 4000) == 1


@pytest.mark.parametrize("grouped", [False, True])
def test_a_killed_search_goes_on_to_the_same_end(
    grouped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, family = GuidedConfig(passes=240, finalists=2), patch.family(SIDE)
    monkeypatch.setattr(guided, "KEPT_SECONDS", 0.0)
    if grouped:
        monkeypatch.setattr(guided, "group_size", lambda *_: 2)
    whole = invert_guided(toy_subject(6.0), family, config)
    left = [0]
    cost = guided._cost

    def dies(*args: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return cost(*args)

    subject = replace(toy_subject(6.0), work=Work(tmp_path, "k" * 20))
    for calls in (15, 12, 8):
        left[0] = calls
        monkeypatch.setattr(guided, "_cost", dies)
        with pytest.raises(KeyboardInterrupt):
            invert_guided(subject, family, config)
    monkeypatch.setattr(guided, "_cost", cost)
    assert list(tmp_path.iterdir())
    again = invert_guided(subject, family, config)
    assert again.trigger.spec() == whole.trigger.spec() and again.facts == whole.facts
