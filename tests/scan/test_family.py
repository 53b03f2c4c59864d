"""What a cure leaves: triggers that it was not taken from, before and after it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.scan.toy import CORNER, TARGET, toy_clip, toy_subject
from unbackdoor.scan import family, variants
from unbackdoor.scan.family import LEFT, Reach, left, not_whole, reach
from unbackdoor.scan.inverters.base import Subject
from unbackdoor.scan.narrowing import FAMILIES
from unbackdoor.scan.pull import pulls
from unbackdoor.scan.variants import HALF_NATURAL, NATURAL, of_families
from unbackdoor.triggers import parse_trigger

FOUND = parse_trigger(f"badnets:size={CORNER},pattern=white")
OTHER = parse_trigger(f"badnets:size={CORNER},pattern=white,position=top-left")
NOTHING = parse_trigger("badnets:size=1,pattern=white")


def suspect(strength: float, second: float = 0.0, natural: float | None = 0.0) -> Subject:
    """The suspect, whose twin has a corner of strength `natural`; None for no twin."""
    subject = replace(toy_subject(strength, second), origin=None if natural is None else toy_clip(0.0))
    subject.__dict__["twin"] = None if natural is None else toy_subject(natural)
    return subject


@pytest.fixture(scope="module")
def before() -> Reach:
    return reach(toy_subject(6.0), suspect(6.0), TARGET, FOUND)


def test_triggers_of_several_families_pull_in_a_suspect_and_not_in_its_twin(before: Reach) -> None:
    assert before.triggers[0] == FOUND.spec() and len(before.triggers) > 2 and before.natural is not None
    assert {spec.partition(":")[0] for spec in before.triggers[1:]} & {"masked", "additive"}
    assert all(net > 2 * own for net, own in zip(before.net, before.natural, strict=True))
    assert before.turned[0] >= 0.5 * before.turned[1]


@pytest.mark.parametrize(
    ("strength", "least", "most"),
    [(6.0, 0.99, 1.01), (3.0, 0.5, 1.0), (0.0, 0.0, LEFT)],
    ids=["nothing", "half", "cured"],
)
@pytest.mark.parametrize("natural", [0.0, None], ids=["with a twin", "without"])
def test_what_is_left_follows_what_was_done(strength: float, least: float, most: float, natural: float | None) -> None:
    came = suspect(6.0, natural=natural)
    first = reach(toy_subject(6.0), came, TARGET, FOUND)
    after = reach(toy_subject(strength), came, TARGET, FOUND, first)
    assert after.triggers == first.triggers and (after.natural is None) == (natural is None)
    assert least <= left(first, after) <= most
    assert natural is not None or first.triggers == (FOUND.spec(),), "a new search could not be told from nature"
    why = not_whole(first, after)
    assert (why is None) == (strength == 0.0) and (why is None or ("clean twin" in why) == (natural is not None))


def test_what_the_cure_was_not_taken_from_tells(before: Reach) -> None:
    # The opposite corner works on; the trigger that was found does not.
    came = suspect(6.0, 6.0)
    first = reach(toy_subject(6.0, 6.0), came, TARGET, FOUND)
    after = reach(toy_subject(0.0, 6.0), came, TARGET, FOUND, first)
    assert pulls(toy_subject(0.0, 6.0), [FOUND], TARGET)[0] < 0.2 * first.pulls[0]
    assert left(first, after) > 0.5 and not_whole(first, after) is not None


def test_what_a_twin_obeys_too_is_natural() -> None:
    found, none = (
        of_families(toy_subject(6.0), TARGET, 2, toy_subject(natural), natural=NATURAL) for natural in (0.0, 6.0)
    )
    assert found and not none
    same = reach(toy_subject(6.0), suspect(6.0, natural=6.0), TARGET, FOUND)
    assert same.triggers == (FOUND.spec(),) and same.net == [0.0] and left(same, same) == 0.0


@pytest.mark.parametrize(
    ("without", "left_out"),
    [("", set()), ("warp", {"warp"}), ("collapse", {"patch"}), ("spectral", {"additive"}), ("wave", {"additive"})],
)
def test_a_family_is_left_out_whose_variants_are_there(
    without: str, left_out: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []

    def searched(subject: Subject, family_of: Any, *_: Any) -> list[Any]:
        names.append(family_of(subject.clip.image_size).name)
        return []

    monkeypatch.setattr(variants, "_searched", searched)
    of_families(toy_subject(6.0), TARGET, 0, toy_subject(0.0), natural=NATURAL, without=without)
    assert set(FAMILIES) - set(names) == left_out and len(names) == len(set(names))


@pytest.mark.parametrize(
    ("strength", "limit", "kept"),
    [(0.8, NATURAL, True), (2.0, NATURAL, False), (2.0, HALF_NATURAL, True), (5.0, HALF_NATURAL, False)],
)
def test_natural_is_told_by_the_pull(strength: float, limit: float, kept: bool) -> None:
    twin = toy_subject(strength)
    triggers = of_families(toy_subject(6.0), TARGET, 2, twin, natural=limit)
    assert bool(triggers) == kept
    for trigger in triggers:
        there, here = (pulls(subject, [trigger], TARGET)[0] for subject in (twin, toy_subject(6.0)))
        assert there < limit * here


def test_a_search_starts_elsewhere_than_a_cure_s_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []

    def counted(subject: Subject, target: int, turn: int, twin: Any, **how: Any) -> list[Any]:
        calls.append((turn, subject.seed))
        assert how["natural"] == HALF_NATURAL, "what half belongs to nature is measured all the same"
        return [OTHER]

    monkeypatch.setattr(family, "of_families", counted)
    first = reach(toy_subject(6.0, 6.0), suspect(6.0), TARGET, FOUND)
    reach(toy_subject(0.0), suspect(6.0), TARGET, FOUND, first)
    ((turn, seed),) = calls
    assert turn not in (0, 1) and seed != toy_subject(6.0).seed
    assert first.triggers == (FOUND.spec(), OTHER.spec())


def test_a_pull_is_the_rise_of_the_log_odds_over_pictures_that_are_not_the_class_s_own() -> None:
    subject = toy_subject(6.0)
    assert abs(pulls(subject, [NOTHING], TARGET)[0]) < 5 < 20 < pulls(subject, [FOUND], TARGET)[0]
    all_own = toy_subject(6.0)
    all_own.__dict__["held_own"] = all_own.held_own * 0 + TARGET
    assert pulls(all_own, [FOUND], TARGET)[0] == 0.0


@pytest.mark.parametrize(
    ("earlier", "later", "natural", "share"),
    [
        ((10.0, 4.0), (0.9, 0.3), (0.0, 0.0), 0.09),
        ((10.0, 4.0), (0.9, 0.5), (0.0, 0.0), 0.125),  # the most of any
        ((10.0, 4.0), (-3.0, -1.0), (0.0, 0.0), 0.0),
        ((10.0, 4.0), (2.0, 3.0), (2.0, 3.0), 0.0),  # nature is taken off
        ((10.0, 4.0), (2.0, 3.0), (0.0, 2.0), 0.5),
        ((10.0, -4.0), (0.0, 4.0), (0.0, 0.0), 0.0),  # what did not pull before says nothing
    ],
)
def test_what_is_left(
    earlier: tuple[float, ...], later: tuple[float, ...], natural: tuple[float, ...], share: float
) -> None:
    ends = [Reach(("a", "b"), pulls, natural, (30, 120)) for pulls in (earlier, later)]
    assert left(*ends) == pytest.approx(share)
    why = not_whole(*ends)
    assert (why is None) == (share <= LEFT)
    assert why is None or (f"still pulls {share:.0%}" in why and "turn 25%" in why and "of 2 triggers" in why)


@pytest.mark.parametrize(("hits", "whole"), [(0, True), (5, True), (6, False), (50, False)])
def test_without_a_twin_a_tenth_of_the_pictures_is_the_limit(hits: int, whole: bool) -> None:
    ends = [Reach(("a",), (9.0,), None, (turned, 60)) for turned in (50, hits)]
    why = not_whole(*ends)
    assert (why is None) == whole and (why is None or f"{hits / 60:.0%} of 60 held pictures" in why)
