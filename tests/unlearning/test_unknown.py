"""What a cure is taken from that knows nothing of the attack."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.scan.toy import CORNER, TARGET, toy_clip, toy_images, toy_subject
from unbackdoor.clip.handle import Clip
from unbackdoor.scan.finding import Lead
from unbackdoor.scan.inverters.base import works
from unbackdoor.triggers import parse_trigger
from unbackdoor.unlearning import unknown
from unbackdoor.unlearning.alpha import BLIND
from unbackdoor.unlearning.known import Plan
from unbackdoor.unlearning.unknown import rule_for, source
from unbackdoor.unlearning.vector import VectorConfig
from unbackdoor.weights.files import state_hash

FOUND = parse_trigger(f"badnets:size={CORNER},pattern=white")
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
    clip, images = toy_clip(6.0, SECOND), toy_images()
    before = state_hash(clip.state())
    subject = toy_subject(6.0, SECOND)
    how = (clip, subject, Lead(subject.names[TARGET], FOUND, "patch"), images, Plan(VectorConfig(), images, BLIND))
    mixed = source(*how, backdoored=backdoored)
    assert state_hash(clip.state()) == before, "the model itself is not moved"
    assert len(cured) == (0 if backdoored is False else 1)
    hidden = toy_subject(0.0, SECOND)
    by_hidden = [works(hidden, trigger, TARGET) for trigger in mixed.triggers]
    first = len(source(*how, backdoored=False).triggers)
    assert mixed.triggers[0] == FOUND and 1 < first <= 5
    assert not any(by_hidden[:first]), "what is found at first goes the easy way"
    assert (len(mixed.triggers) > first) == added
    assert all(by_hidden[first:])


def test_alpha_keeps_its_reserve_unless_the_scan_said_clean() -> None:
    assert [rule_for(said, BLIND).reserve for said in (True, None, False)] == [BLIND.reserve, BLIND.reserve, 1.0]
