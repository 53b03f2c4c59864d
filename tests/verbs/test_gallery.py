"""What the page shows of single images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unbackdoor import load, load_images
from unbackdoor.evaluation import Task
from unbackdoor.evaluation.answers import predict
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.attack import Attack
from unbackdoor.verbs.gallery import EXAMPLES, POINTS, Gallery, principal_plane
from unbackdoor.weights.vector import add_


def test_answers_along_the_way_are_those_of_each_model_and_the_weights_stay(vit_folder: Path) -> None:
    clip = load(str(vit_folder))
    data = load_images("embedded:digits", side=clip.frame, split="test")
    task = Task(clip.zero_shot_head(data.classes), Attack(parse_trigger("badnets:size=6"), 3, "three"))
    vector = {n: 0.2 * torch.randn_like(p) for n, p in clip.image_parameters().items() if p.ndim > 1}
    gallery = Gallery(data, task)
    gallery.look(clip, "suspect")
    add_(clip.state(), vector, -0.7)
    before = {name: t.clone() for name, t in clip.state().items()}
    gallery.walk(clip, vector, 0.7, [0.0, 0.5, 0.7])
    assert all(torch.equal(t, before[name]) for name, t in clip.state().items()), "bit for bit"
    gallery.look(clip, "cured")
    examples = gallery.examples()
    assert len(examples) == EXAMPLES == len({e.truth for e in examples}) and "three" not in {e.truth for e in examples}
    for e in examples:
        assert e.along[0] == (e.clean_before, e.triggered_before) and e.along[2] == (e.clean_after, e.triggered_after)
    add_(clip.state(), vector, 0.2)
    images = torch.stack([e.clean for e in examples]).float() / 255
    names = [data.classes[i] for i in predict(clip, images, task.head).tolist()]
    assert names == [e.along[1][0] for e in examples]
    assert len({e.along[0] for e in examples} | {e.along[2] for e in examples}) > 1, "the vector changes answers"


@pytest.mark.parametrize(("count", "shown"), [(0, None), (2, None), (40, 40), (1000, POINTS)])
def test_the_map_has_three_states_of_as_many_images_as_it_may(count: int, shown: int | None, vit_folder: Path) -> None:
    clip = load(str(vit_folder))
    data = load_images("embedded:digits", side=clip.frame, split="test")
    data = replace(data.subset(torch.arange(count) % len(data)), labels=torch.arange(count) % 3 - 1)
    gallery = Gallery(data, Task(clip.zero_shot_head(data.classes), Attack(parse_trigger("sig"), 9, "nine")))
    gallery.look(clip, "suspect")
    gallery.look(clip, "cured")
    assert len(gallery.examples()) == len({0, 1} & set(data.labels.tolist()))
    places = gallery.places()
    if shown is None:
        assert places is None
        return
    assert places is not None and places.n == shown and len(places.points) == 3 * shown
    assert {state for _, _, state, _ in places.points} == {0, 1, 2}
    assert places.cosines["suspect"] == places.cosines["cured model"] < 1 and 0 < places.share <= 1
    assert "" in {name for *_, name in places.points}, "an image without a label has no name"


def test_the_plane_is_the_one_of_largest_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=generator))[0]
    flat = torch.randn(50, 6, generator=generator) * torch.tensor([5.0, 3.0, 0.1, 0.1, 0.1, 0.1])
    plane, share = principal_plane(flat @ turn + 7)
    assert share > 0.99
    torch.testing.assert_close(torch.cdist(plane, plane).float(), torch.cdist(flat, flat), atol=0.2, rtol=0.1)
    again, _ = principal_plane(-(flat @ turn))
    assert (plane.abs().amax(0) == plane.amax(0)).all() and (again.abs().amax(0) == again.amax(0)).all()
    assert principal_plane(torch.ones(4, 3))[1] == 1.0
