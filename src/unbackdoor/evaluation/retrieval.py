"""How well images and their captions find one another."""

from __future__ import annotations

import torch

from unbackdoor.base.progress import Progress
from unbackdoor.clip.handle import Clip
from unbackdoor.data.captions import sentences_of
from unbackdoor.data.images import ImageSet
from unbackdoor.evaluation.answers import BATCH, batch_size
from unbackdoor.metrics.rates import Rate
from unbackdoor.metrics.retrieval import RetrievalMeter


@torch.inference_mode()
def evaluate_retrieval(clip: Clip, data: ImageSet, *, label: str | None = None) -> dict[str, dict[int, Rate]]:
    """R@1/5/10 both ways between images and their captions; images without a caption are candidates all the same.

    Several captions of an image count as in the field (COCO, Flickr30k): any of them is a hit for the image, and each
    is a query of its own for the way from text to image.

    Args:
        data: decoded images with captions, "" where an image has none.
        label: name of the progress bar; None shows none.
    """
    assert data.captions is not None
    meter = RetrievalMeter()
    with Progress(label or "", len(data), quiet=label is None) as bar:
        for rows in torch.arange(len(data)).split(batch_size(clip.image_size, clip.device)):
            captions = [sentences_of(data.captions[i]) for i in rows.tolist()]
            owner = torch.tensor([i for i, own in enumerate(captions) for _ in own], dtype=torch.int64)
            images = clip.encode_image(data.float_batch(rows).to(clip.device))
            sentences = [sentence for own in captions for sentence in own]
            parts = [clip.encode_text(sentences[at : at + BATCH]) for at in range(0, len(sentences), BATCH)]
            texts = torch.cat(parts) if parts else images[:0]
            meter.update(images, texts, owner)
            bar.step(int(rows[-1]) + 1)
    return meter.compute()
