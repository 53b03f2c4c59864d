"""The one way to ask a model."""

from __future__ import annotations

import pytest
import torch

from tests.scan.toy import toy_clip, toy_images
from unbackdoor.evaluation.answers import BATCH, answers, embed, logits, nearest, predict
from unbackdoor.triggers import parse_trigger

COUNT = BATCH + 3  # two batches
HEAD = torch.nn.functional.normalize(torch.ones(5, 5) + 4 * torch.eye(5), dim=1)


@pytest.mark.parametrize("spec", [None, "badnets:size=4", "sig"])
def test_answers_are_those_of_every_image_by_itself(spec: str | None) -> None:
    clip, images, trigger = toy_clip(2.0), toy_images(COUNT), spec and parse_trigger(spec)
    pictures = images.float_batch(range(COUNT))
    rows = torch.arange(COUNT)
    seen = trigger(pictures, keys=rows) if trigger else pictures
    classes, embeddings = answers(clip, images, HEAD, trigger or None)
    torch.testing.assert_close(embeddings, clip.encode_image(seen).detach())
    assert torch.equal(classes, nearest(embeddings, HEAD)) and not embeddings.requires_grad


def test_rows_are_embedded_in_their_order() -> None:
    clip, images, rows = toy_clip(2.0), toy_images(COUNT), torch.tensor([7, 2, 130])
    torch.testing.assert_close(embed(clip, images, rows), embed(clip, images)[rows])


@pytest.mark.parametrize("batch", [None, 1, 50, COUNT + 1])
def test_batches_do_not_change_what_is_predicted(batch: int | None) -> None:
    clip, images = toy_clip(2.0), toy_images(COUNT)
    assert torch.equal(predict(clip, images.float_batch(range(COUNT)), HEAD, batch), answers(clip, images, HEAD)[0])


def test_logits_are_scaled_cosines_with_a_gradient() -> None:
    clip, pictures = toy_clip(2.0), toy_images(4).float_batch(range(4)).requires_grad_(True)
    cosines = clip.encode_image(pictures) @ HEAD.T
    torch.testing.assert_close(logits(clip, pictures, HEAD), clip.logit_scale * cosines)
    torch.testing.assert_close(logits(clip, pictures, HEAD, scale=3.0), 3.0 * cosines)
    assert logits(clip, pictures, HEAD).requires_grad
