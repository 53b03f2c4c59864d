"""What a cure leaves of the family of triggers that was found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.scan.toy import CORNER, TARGET, toy_clip, toy_subject
from unbackdoor.scan import family
from unbackdoor.scan.family import LEFT, Reach, left, not_whole, reach
from unbackdoor.scan.inverters.base import Subject
from unbackdoor.scan.inverters.patch import FAMILY
from unbackdoor.scan.variants import search
from unbackdoor.triggers import parse_trigger

FOUND = parse_trigger(f"badnets:size={CORNER},pattern=white")
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


def test_a_suspect_s_family_is_far_cheaper_than_in_its_twin(before: Reach) -> None:
    assert before.net > 0.9 and before.natural is not None and before.natural[0] <= 2
    assert before.cheaper is not None and before.cheaper > 2


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
    assert (why is None) == whole and (after.natural is not None) == known == (after.lead is not None)
    assert why is None or "still" in why


def test_another_start_finds_what_the_cure_of_the_known_trigger_left(before: Reach) -> None:
    # The opposite corner works on; the trigger that was found does not.
    after = came(toy_subject(0.0, 6.0), suspect(6.0, 6.0), FOUND, before)
    assert after.net < 0.1 and left(before, after) > LEFT and after.spec != FOUND.spec()
    why = not_whole(before, after)
    assert why is not None and f"still {after.cheaper:.1f} times as cheap" in why


@pytest.mark.parametrize(("second", "counts"), [(6.0, True), (0.0, False)])
def test_what_is_cheap_in_the_cured_model_alone_is_of_the_cure_s_making(
    second: float, counts: bool, before: Reach
) -> None:
    after = came(toy_subject(0.0, 6.0), suspect(6.0, second), NOTHING, before)
    assert (left(before, after) > LEFT) == counts


def test_what_is_as_cheap_in_the_twin_is_natural() -> None:
    same = came(toy_subject(6.0), suspect(6.0, natural=6.0), FOUND)
    assert same.net == 0.0 and same.lead is not None and same.lead < 0.15 and left(same, same) == 0.0


def test_without_a_twin_a_new_search_could_not_be_told_from_nature(
    monkeypatch: pytest.MonkeyPatch, before: Reach
) -> None:
    turns: list[int] = []

    def counted(*given: Any) -> Any:
        turns.append(given[3])
        return search(*given)

    monkeypatch.setattr(family, "search", counted)
    after = came(toy_subject(0.0, 6.0), suspect(6.0, 6.0, natural=None), FOUND, before)
    assert not turns and after.net < 0.1 and after.spec == FOUND.spec() and after.lead is None
    came(toy_subject(6.0), suspect(6.0)), came(toy_subject(0.0), suspect(6.0), FOUND, before)
    assert turns == [family.BEFORE, family.AFTER] and not {0, 1} & set(turns), "another start than a cure's own"


@pytest.mark.parametrize(("hits", "whole"), [(12, True), (13, False)])
def test_a_fifth_of_the_trigger_is_the_limit(hits: int, whole: bool) -> None:
    earlier, cured = Reach((60, 60), (0, 60), None, ""), Reach((hits, 60), (0, 60), None, "")
    why = not_whole(earlier, cured)
    assert (why is None) == whole and (why is None or f"{hits / 60:.0%} of 60 held pictures" in why)
    more = Reach((hits + 6, 60), (6, 60), None, "")
    assert (not_whole(earlier, more) is None) == whole, "nature is taken off"


@pytest.mark.parametrize(
    ("earlier", "later", "share"),
    [
        (2.0, 0.39, 0.195),
        (2.0, 0.41, 0.205),
        (2.0, 3.0, 1.5),
        (0.3, 0.14, 0.0),  # no evidence: less than a difference of 16%
        (0.14, 0.3, 0.0),  # the family showed nothing before the cure
        (2.0, -0.5, 0.0),
        (None, 1.0, 0.0),
        (2.0, None, 0.0),
    ],
)
def test_what_is_left_of_a_lead(earlier: float | None, later: float | None, share: float) -> None:
    ends = [Reach((hits, 60), (0, 60), lead, "") for hits, lead in ((60, earlier), (0, later))]
    assert left(*ends) == pytest.approx(share)
    assert (not_whole(*ends) is None) == (share <= LEFT)


def test_turns_of_a_search_start_elsewhere() -> None:
    ends = [search(toy_subject(6.0), FAMILY, TARGET, turn).raw.detach() for turn in (family.BEFORE, family.AFTER)]
    assert not ends[0].equal(ends[1]) and len(ends[0]) == 4
