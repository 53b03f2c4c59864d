from __future__ import annotations

import numpy as np
import pytest
import torch

from unbackdoor.data import load_images, scenes


def test_scenes_do_not_depend_on_the_batch() -> None:
    whole = scenes.draw(5, np.arange(200))
    for i in (0, 7, 63, 64, 199):
        assert torch.equal(scenes.draw(5, np.array([i]))[0], whole[i])
    assert torch.equal(scenes.draw(5, np.array([9, 3])), whole[[9, 3]])


def test_scenes_differ_by_seed_and_index() -> None:
    a, b = scenes.draw(1, np.arange(50)), scenes.draw(2, np.arange(50))
    assert not torch.equal(a, b)
    assert len({x.numpy().tobytes() for x in a}) == 50


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_block_shows_every_class_once(seed: int) -> None:
    n = len(scenes.CLASS_NAMES)
    found = scenes.labels(seed, np.arange(3 * n)).reshape(3, n)
    assert all(sorted(block) == list(range(n)) for block in found)


def test_captions_tell_what_is_drawn() -> None:
    index = np.arange(720)
    layout, sentences = scenes.layout(3, index), scenes.captions(3, index)
    for i, sentence in enumerate(sentences):
        assert scenes.CLASS_NAMES[layout.label[i]] in sentence
        assert scenes.SIZES[layout.size[i]] in sentence
        assert list(scenes.BACKGROUNDS)[layout.background[i]] in sentence
    assert len(set(sentences)) > 700


def test_every_class_can_be_told_from_its_neighbours() -> None:
    """The same place and ground, another colour, shape or texture: pictures must differ visibly."""
    for shape in scenes.SHAPES:
        axis = (torch.arange(64) + 0.5) / 32 - 1
        y, x = torch.meshgrid(axis * 1.3, axis * 1.3, indexing="ij")
        mask = scenes._distance(shape, x[None], y[None])[0] < 0
        assert 0.1 < float(mask.float().mean()) < 0.75, shape
    masks = torch.stack([scenes._distance(s, x[None], y[None])[0] < 0 for s in scenes.SHAPES]).float()
    for i in range(len(masks)):
        for j in range(i):
            assert float((masks[i] != masks[j]).float().mean()) > 0.02, (scenes.SHAPES[i], scenes.SHAPES[j])


@pytest.mark.parametrize(("spec", "train", "test"), [("embedded:scenes", 3600, 1440), ("embedded:digits", 1437, 360)])
def test_splits_are_fixed_and_apart(spec: str, train: int, test: int) -> None:
    a, b = load_images(spec, side=64, split="train"), load_images(spec, side=64, split="test")
    assert (len(a), len(b)) == (train, test) and a.classes == b.classes
    seen = {x.numpy().tobytes() for x in a.images}
    repeated = sum(x.numpy().tobytes() in seen for x in b.images)
    assert repeated <= 1  # two scanned digits can be the same 64 grey values
    assert a.content_hash() == load_images(spec, side=64, split="train").content_hash()
    assert a.captions is not None and all(
        a.classes[int(label)] in caption for label, caption in zip(a.labels, a.captions, strict=True)
    )
