"""What a cure leaves of the family of triggers that was found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.scan.toy import CORNER, TARGET, toy_clip, toy_subject
from unbackdoor.scan import family
from unbackdoor.scan.family import LEFT, Reach, left, not_whole, reach
from unbackdoor.scan.inverters.base import Subject
from unbackdoor.scan.variants import searched
from unbackdoor.triggers import parse_trigger

FOUND = parse_trigger(f"badnets:size={CORNER},pattern=white")
OTHER = parse_trigger(f"badnets:size={CORNER},pattern=white,position=top-left")
NOTHING = parse_trigger("badnets:size=1,pattern=white")


def suspect(strength: float, second: float = 0.0, natural: float | None = 0.0) -> Subject:
    """The suspect, whose twin has a corner of strength `natural`; None for no twin."""
    subject = replace(toy_subject(strength, second), origin=None if natural is None else toy_clip(0.0))
    subject.__dict__["twin"] = None if natural is None else toy_subject(natural)
    return subject


def came(subject: Subject, before: Subject, trigger: Any = FOUND, earlier: Reach | None = None) -> Reach:
    return reach(subject, before, "patch", TARGET, trigger, earlier)


@pytest.fixture(scope="module")
def before() -> Reach:
    return came(toy_subject(6.0), suspect(6.0))


def test_a_suspect_s_family_reaches_far_above_its_twin(before: Reach) -> None:
    assert before.net > 0.9 and before.natural is not None and before.natural[0] <= 2


@pytest.mark.parametrize(
    ("strength", "whole"), [(6.0, False), (3.0, False), (0.0, True)], ids=["nothing done", "half of it", "cured"]
)
@pytest.mark.parametrize("natural", [0.0, None], ids=["with a twin", "without"])
def test_a_cure_is_whole_where_the_family_reaches_no_further_than_in_a_clean_model(
    strength: float, whole: bool, natural: float | None, before: Reach
) -> None:
    after = came(toy_subject(strength), suspect(6.0, natural=natural), FOUND, before)
    assert (left(before, after) <= LEFT) == whole
    why, known = not_whole(before, after), natural is not None
    assert (why is None) == whole and (after.natural is not None) == known
    if why is not None:
        assert ("clean twin" in why) == known and f"{after.net:.0%}" in why and f"{before.net:.0%}" in why


def test_another_start_finds_what_the_cure_of_the_known_trigger_left(before: Reach) -> None:
    # The opposite corner works on; the trigger that was found does not.
    after = came(toy_subject(0.0, 6.0), suspect(6.0, 6.0), FOUND, before)
    assert left(before, after) > LEFT and after.spec != FOUND.spec()


def searches(monkeypatch: pytest.MonkeyPatch, *ends: Any) -> list[int]:
    """Every search ends with these; its turns."""
    turns: list[int] = []

    def search(subject: Subject, inverter: str, target: int, turn: int) -> list[Any]:
        turns.append(turn)
        return list(ends)

    monkeypatch.setattr(family, "searched", search)
    return turns


def test_what_works_on_the_cured_model_alone_is_of_the_cure_s_making(
    monkeypatch: pytest.MonkeyPatch, before: Reach
) -> None:
    searches(monkeypatch, OTHER)
    for second, counts in ((6.0, True), (0.0, False)):
        after = came(toy_subject(0.0, 6.0), suspect(6.0, second), NOTHING, before)
        assert (left(before, after) > LEFT) == counts, second


def test_what_the_twin_does_too_is_natural(monkeypatch: pytest.MonkeyPatch, before: Reach) -> None:
    searches(monkeypatch, FOUND)
    same = came(toy_subject(6.0), suspect(6.0, natural=6.0), NOTHING, before)
    assert same.net == 0.0 and left(same, same) == 0.0, "nothing is left of nothing"


def test_without_a_twin_a_new_search_could_not_be_told_from_nature(
    monkeypatch: pytest.MonkeyPatch, before: Reach
) -> None:
    turns = searches(monkeypatch, OTHER)
    after = came(toy_subject(0.0, 6.0), suspect(6.0, 6.0, natural=None), FOUND, before)
    assert not turns and after.net < 0.1 and after.spec == FOUND.spec()
    came(toy_subject(6.0), suspect(6.0)), came(toy_subject(0.0), suspect(6.0), FOUND, before)
    assert turns == [family.BEFORE, family.AFTER] and not {0, 1} & set(turns), "another start than a cure's own"


@pytest.mark.parametrize(("hits", "whole"), [(12, True), (13, False)])
def test_a_fifth_is_the_limit(hits: int, whole: bool) -> None:
    earlier, cured = Reach((60, 60), (0, 60), ""), Reach((hits, 60), (0, 60), "")
    assert (not_whole(earlier, cured) is None) == whole
    more = Reach((hits + 6, 60), (6, 60), "")
    assert (not_whole(earlier, more) is None) == whole, "nature is taken off"


def test_turns_of_a_search_start_elsewhere() -> None:
    ends = [searched(toy_subject(6.0), "patch", TARGET, turn) for turn in (family.BEFORE, family.AFTER)]
    assert ends[0][0].spec() != ends[1][0].spec() and len(ends[0]) == 4
