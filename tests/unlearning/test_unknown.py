"""What a cure is taken from that knows nothing of the attack."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.scan.toy import CORNER, TARGET, toy_clip, toy_images, toy_subject
from unbackdoor.clip.handle import Clip
from unbackdoor.scan.family import Reach
from unbackdoor.scan.finding import Lead
from unbackdoor.scan.inverters.base import works
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.base import Trigger
from unbackdoor.triggers.mixed import Mixed
from unbackdoor.unlearning import unknown
from unbackdoor.unlearning.alpha import BLIND
from unbackdoor.unlearning.known import Plan
from unbackdoor.unlearning.unknown import Suspect, cure_class, cure_unknown, rule_for, source
from unbackdoor.unlearning.vector import VectorConfig
from unbackdoor.weights.files import state_hash

FOUND = parse_trigger(f"badnets:size={CORNER},pattern=white")
OTHER, THIRD = (parse_trigger(f"badnets:size={CORNER},pattern=white,position={at}") for at in ("center", "top-left"))
RING = parse_trigger("blended:ratio=0.2")
SECOND = 3.0  # strength of the opposite corner, which nothing is known of


@pytest.mark.parametrize(
    ("backdoored", "added"), [(True, True), (None, True), (False, False)], ids=["found", "cannot tell", "called clean"]
)
def test_a_rehearsal_adds_what_the_cure_would_leave(
    backdoored: bool | None, added: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cured: list[Any] = []

    def cure(copy: Clip, *_: object) -> None:
        """A cure that takes the easy corner out and leaves the other."""
        with torch.no_grad():
            copy.image_parameters()["visual.strength"][0] = 0.0
        cured.append(copy)

    monkeypatch.setattr(unknown, "cure_known", cure)
    monkeypatch.setattr(unknown, "of_families", lambda *_, **how: [])
    clip, images = toy_clip(6.0, SECOND), toy_images()
    before = state_hash(clip.state())
    subject = toy_subject(6.0, SECOND)
    plan = Plan(VectorConfig(), images, BLIND)
    suspect = Suspect(clip, images, subject.names, subject.head, images, plan, backdoored)
    how = (subject, Lead(subject.names[TARGET], FOUND, "patch"))
    mixed = source(suspect, *how)
    assert state_hash(clip.state()) == before, "the model itself is not moved"
    assert len(cured) == (0 if backdoored is False else 1)
    hidden = toy_subject(0.0, SECOND)
    by_hidden = [works(hidden, trigger, TARGET) for trigger in mixed.triggers]
    first = len(source(replace(suspect, backdoored=False), *how).triggers)
    assert mixed.triggers[0] == FOUND and 1 < first <= 5
    assert not any(by_hidden[:first]), "what is found at first goes the easy way"
    assert (len(mixed.triggers) > first) == added
    assert all(by_hidden[first:])


@pytest.mark.parametrize(
    ("backdoored", "natural", "families"),
    [(True, 0.0, True), (None, 0.0, True), (True, None, False), (True, 6.0, False), (False, 0.0, False)],
    ids=["found", "cannot tell", "no twin", "natural", "called clean"],
)
def test_triggers_of_other_families_are_among_them(
    backdoored: bool | None, natural: float | None, families: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsed: list[bool] = []
    monkeypatch.setattr(unknown, "cure_known", lambda *_: rehearsed.append(True))
    monkeypatch.setattr(unknown, "again", lambda *_: [])
    clip, images, subject = toy_clip(6.0), toy_images(), toy_subject(6.0)
    seen = replace(subject)
    seen.__dict__["twin"] = None if natural is None else toy_subject(natural)
    plan = Plan(VectorConfig(), images, BLIND)
    suspect = Suspect(clip, images, subject.names, subject.head, images, plan, backdoored, natural=seen)
    mixed = source(suspect, subject, Lead(subject.names[TARGET], FOUND, "patch"))
    names = {trigger.spec().partition(":")[0] for trigger in mixed.triggers[1:]}
    assert "masked" in names and bool(names - {"masked"}) == families
    assert bool(rehearsed) == (natural is None), "with a twin the other families stand for a rehearsal"
    assert all(works(subject, trigger, TARGET) for trigger in mixed.triggers)


def test_alpha_keeps_its_reserve_unless_the_scan_said_clean() -> None:
    assert [rule_for(said, BLIND).reserve for said in (True, None, False)] == [BLIND.reserve, BLIND.reserve, 1.0]
    assert [rule_for(said, BLIND).longer for said in (True, None, False)] == [BLIND.longer, BLIND.longer, 1]


@pytest.mark.parametrize(
    ("others", "scans", "limit", "order", "left"),
    [
        ([], None, None, ["ant"], None),
        (["bee", "elk"], None, None, ["ant", "elk"], None),  # the bee's trigger works no longer
        (["elk"], None, 1, ["ant"], "elk"),
        ([], [("elk", []), (None, [])], None, ["ant", "elk"], None),
        (["elk"], [("fox", ["elk"]), (None, []), (None, [])], None, ["ant", "fox", "elk"], None),
        ([], [("ant", []), (None, [])], None, ["ant", "ant"], None),  # a scan that still names the class
        (["elk"], [(None, []), (None, ["elk"])], None, ["ant", "elk"], None),  # what is cured is cured once
        (["elk"], [("fox", []), ("fox", [])], 2, ["ant", "fox"], "fox"),
    ],
)
def test_classes_are_cured_one_after_the_other(
    others: list[str],
    scans: list[tuple[str | None, list[str]]] | None,
    limit: int | None,
    order: list[str],
    left: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("ant", "bee", "elk", "fox")
    monkeypatch.setattr(unknown, "works", lambda subject, trigger, target: names[target] in ("elk", "fox"))
    monkeypatch.setattr(Suspect, "subject", lambda self: replace(toy_subject(0.0), names=names))
    monkeypatch.setattr(unknown, "source", lambda suspect, subject, lead: lead.trigger)
    images = toy_images()
    suspect = Suspect(toy_clip(0.0), images, names, toy_subject(0.0).head, images, Plan(VectorConfig(), images, BLIND))

    def lead(name: str) -> Lead:
        return Lead(name, FOUND, "patch")

    def look(number: int) -> tuple[Lead | None, list[Lead]]:
        assert scans is not None
        urgent, further = scans[number - 1]
        return (None if urgent is None else lead(urgent)), [lead(name) for name in further]

    cured: list[str] = []

    def cure(number: int, lead: Lead, trigger: Any) -> int:
        assert number == len(cured) + 1 and trigger() == FOUND
        cured.append(lead.target)
        return number

    rounds, rest = cure_unknown(
        suspect, [lead("ant"), *map(lead, others)], cure, None if scans is None else look, limit
    )
    assert cured == order and rounds == list(range(1, len(order) + 1))
    assert (None if rest is None else rest.target) == left


@pytest.mark.parametrize(
    ("pulled", "natural", "more", "cures"),
    [
        ((0.0, 0.0), 0.0, [OTHER], 1),  # whole
        ((0.0, 9.0), 0.0, [OTHER], 2),
        ((0.0, 9.0), 0.0, [], 1),  # nothing more of that family works
        ((0.0, 9.0), 0.0, [RING], 1),  # of other families nothing is left
        ((0.0, 9.0), 0.0, [FOUND], 1),  # it was there already
        ((0.0, 9.0), None, [OTHER], 1),  # without a twin the rehearsal has looked
    ],
    ids=["whole", "left", "no more", "another family", "there already", "no twin"],
)
def test_a_cure_that_is_not_whole_is_made_again(
    pulled: tuple[float, float],
    natural: float | None,
    more: list[Trigger],
    cures: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unknown, "of_families", lambda *_, **how: more)
    clip, images, subject = toy_clip(6.0), toy_images(), toy_subject(6.0)
    came = replace(subject)
    came.__dict__["twin"] = None if natural is None else toy_subject(natural)
    plan = Plan(VectorConfig(), images, BLIND)
    suspect = Suspect(clip, images, subject.names, subject.head, images, plan, natural=came)
    start, first, given = state_hash(clip.state()), Mixed.of([FOUND]), []

    def cure(number: int, triggers: Mixed) -> int:
        assert state_hash(clip.state()) == start, "each starts from the suspect"
        given.append([trigger.spec() for trigger in triggers.triggers])
        with torch.no_grad():
            clip.image_parameters()["visual.strength"][0] -= number
        return number

    def reached(number: int) -> Reach:
        return replace(before, pulls=pulled if number == 1 else (0.0, 0.0))

    lead = Lead(subject.names[TARGET], FOUND, "patch")
    before = Reach((FOUND.spec(), THIRD.spec()), (9.0, 9.0), None if natural is None else (0.0, 0.0), (16, 16))
    made, after = cure_class(suspect, lead, first, before, cure, reached)
    assert made == cures == len(given) and after == reached(cures)
    assert given == [[FOUND.spec()], [FOUND.spec(), OTHER.spec()]][:cures]
    assert clip.image_parameters()["visual.strength"][0].item() == 6.0 - cures, "the last cure stays"
    assert cure_class(replace(suspect, clip=toy_clip(6.0)), lead, first, None, lambda *_: 1, reached) == (1, None)
