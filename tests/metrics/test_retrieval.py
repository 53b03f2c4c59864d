from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from unbackdoor.metrics.retrieval import RetrievalMeter, image_to_text_ranks, recall, text_to_image_ranks


def pairs(n: int = 40, per_image: int = 3, noise: float = 1.2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    images = normalize(torch.randn(n, 8, generator=g), dim=1)
    owner = torch.arange(n).repeat_interleave(per_image)[torch.randperm(n * per_image, generator=g)]
    texts = normalize(images[owner] + noise * torch.randn(len(owner), 8, generator=g), dim=1)
    return images, texts, owner


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recall_counted_by_hand(k: int) -> None:
    images, texts, owner = pairs()
    scores = images @ texts.T
    to_text = sum(any(owner[t] == i for t in row.argsort(descending=True)[:k]) for i, row in enumerate(scores))
    to_image = sum(owner[t] in column.argsort(descending=True)[:k] for t, column in enumerate(scores.T))
    found = recall(image_to_text_ranks(images, texts, owner), k)
    assert (found.hits, found.n) == (to_text, 40) and 0 < found.hits < 40
    found = recall(text_to_image_ranks(images, texts, owner), k)
    assert (found.hits, found.n) == (to_image, 120) and 0 < found.hits < 120


def test_perfect_pairs_are_all_found_and_collapsed_ones_never() -> None:
    images = torch.eye(12)
    same = torch.arange(12)
    point = torch.ones(12, 12) / 12**0.5
    for ranks in (image_to_text_ranks, text_to_image_ranks):
        assert recall(ranks(images, images, same), 1).value == 1
        assert recall(ranks(point, point, same), 10).value == 0


def test_images_without_texts_are_left_out_but_stay_candidates() -> None:
    images = torch.eye(3)
    texts, owner = torch.eye(3)[[0, 1]], torch.tensor([0, 2])
    assert image_to_text_ranks(images, texts, owner).tolist() == [0, 1]
    assert text_to_image_ranks(images, texts, owner).tolist() == [0, 2]


def test_streaming_equals_whole() -> None:
    images, texts, owner = pairs()
    meter = RetrievalMeter(recalls=(1, 5))
    for rows in torch.arange(40).split(7):
        mine = torch.nonzero((owner >= rows[0]) & (owner <= rows[-1])).flatten()
        meter.update(images[rows], texts[mine], owner[mine] - rows[0])
    found = meter.compute()
    for way, ranks in (("image_to_text", image_to_text_ranks), ("text_to_image", text_to_image_ranks)):
        for k in (1, 5):
            assert found[way][k] == recall(ranks(images, texts, owner), k)


def test_nothing_fed_counts_nothing() -> None:
    found = RetrievalMeter().compute()
    assert [rate.n for way in found.values() for rate in way.values()] == [0] * 6
