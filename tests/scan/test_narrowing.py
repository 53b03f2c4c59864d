"""Long class lists are narrowed to what holds the target, short ones are not touched, and a null says which it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.scan.toy import TARGET, toy_clip, toy_subject
from unbackdoor.scan import narrowing, twins
from unbackdoor.scan.examine import settings
from unbackdoor.scan.inverters.base import Subject
from unbackdoor.scan.narrowing import LIMIT, clusters, foremost, in_force, narrowed


def many(strength: float, classes: int = 120) -> Subject:
    """The toy with more classes than there is room for; they lie between the four that are no target."""
    subject = toy_subject(strength)
    others = torch.randn(classes - 5, 5, generator=torch.Generator().manual_seed(2))
    others[:, TARGET] = 0
    head = torch.cat([subject.head, F.normalize(others, dim=1)])
    return replace(subject, head=head, names=tuple(f"class {i}" for i in range(classes)))


@pytest.mark.parametrize("twin", [False, True])
def test_the_target_is_among_few_of_many_classes(twin: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrowing, "LIMIT", 16)
    monkeypatch.setattr(twins, "STEPS", 20)
    subject = replace(many(6.0), origin=toy_clip(0.0) if twin else None)
    after = narrowed(subject)
    assert after.candidates is not None and len(after.candidates) == 16 and TARGET in after.candidates.tolist()
    assert after.candidates.tolist() == sorted(set(after.candidates.tolist()))
    assert after.own is subject.own and after.twin is subject.twin, "nothing is made anew"
    scores = narrowing.looks(subject)
    assert any("twin" in name for name in scores) == twin


def test_a_look_for_patches_puts_the_class_of_a_patch_in_front_and_only_with_a_backdoor() -> None:
    ranks = []
    for strength in (6.0, 0.0):
        scores = narrowing.looks(many(strength))["patch"]
        ranks.append(int((scores > scores[TARGET]).sum()) + 1)
    assert ranks[0] <= 3 and ranks[1] > 60


def test_a_short_list_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrowing, "looks", lambda *_: pytest.fail("nothing is looked at"))
    short = many(6.0, LIMIT)
    assert narrowed(short) is short and not in_force(LIMIT) and in_force(LIMIT + 1)


def test_the_fingerprint_tells_of_narrowing_where_it_is_in_force() -> None:
    plain = settings(96, ("patch",), "hash")
    assert settings(96, ("patch",), "hash", LIMIT) == plain != settings(96, ("patch",), "hash", LIMIT + 1)


def test_the_best_of_each_look_are_kept_rank_by_rank() -> None:
    looks = [torch.tensor([5.0, 4.0, 3.0, 0.0, 0.0, 0.0]), torch.tensor([9.0, 0.0, 0.0, 2.0, 3.0, 1.0])]
    assert [foremost(looks, count).tolist() for count in (1, 2, 3, 4)] == [[0], [0, 1], [0, 1, 4], [0, 1, 2, 4]]


def test_centers_are_of_clusters() -> None:
    points = F.normalize(torch.tensor([[1.0, 0.01], [1.0, -0.01], [0.01, 1.0], [-0.01, 1.0]]), dim=1)
    found = clusters(points, 2, 0)
    near = (points @ found.T).max(dim=1).values
    assert found.shape == (2, 2) and torch.allclose(found.norm(dim=1), torch.ones(2)) and float(near.min()) > 0.999
