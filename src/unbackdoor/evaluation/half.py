"""Which class a model finds most similar: in float32, or in a half type where that cannot have changed the answer."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from unbackdoor.base.devices import half_type
from unbackdoor.clip.handle import Clip
from unbackdoor.evaluation.answers import predict

_SAMPLE = 16  # views that are answered in both types to begin with
_HEADROOM = 3.0  # on the farthest move seen
_WORTH = 64  # views from which the sample is paid back
_LEAST, _TOO_MANY = 64, 0.5  # after so many views, and so large a share of them answered twice, half types are given up


class Answers:
    """Most similar classes of batches of images, by a tower whose weights are kept in a half type beside the model's.

    Half types move cosines by about 1e-3, which decides only where two classes are that close. The first views are
    answered in both types, which tells how far a difference of two cosines moves. Every view whose best two classes
    are nearer than three times the farthest move seen is answered in float32, and tells of one more move. The answers
    are float32's unless a view moves more than three times as far as all that were looked at; no bound is proved.
    Where half of the views are that close, as with random weights, or the tower does not run in the type, all that
    follow are answered in float32.

    Args:
        clip: as its weights are now; a change of them needs a new object.
        head: (C, D) unit rows, from `Clip.zero_shot_head`.
        half: the type, None for float32 alone.
    """

    def __init__(self, clip: Clip, head: Tensor, half: torch.dtype | None) -> None:
        self._clip, self._head, self._half = clip, head, half
        self._tower = _Tower(clip)
        self._weights = {} if half is None else self._tower.weights(half)
        self._farthest = 0.0
        self._views = self._again = 0

    @classmethod
    def of(cls, clip: Clip, head: Tensor, views: int) -> Answers:
        """In a half type where the device computes faster in one and there are at least 64 views."""
        return cls(clip, head, half_type(clip.device) if views >= _WORTH else None)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Classes (B,) of images (B, 3, H, W) in [0, 1]."""
        half = None if self._half is None else self._in_half(images)
        if half is None:
            self._half, self._weights = None, {}
            return predict(self._clip, images, self._head)
        best = half.topk(min(2, half.shape[1]), dim=1).values
        margin = best[:, 0] - best[:, -1] if best.shape[1] > 1 else torch.full_like(best[:, 0], torch.inf)
        classes, twice = half.argmax(dim=1), torch.zeros(len(images), dtype=torch.bool, device=images.device)
        wanted = twice.clone()
        wanted[self._sample(len(images))] = True
        # Written so that a margin that is not a number counts as close. What these rows show may make more close.
        while len(rows := ((wanted | ~(margin >= _HEADROOM * self._farthest)) & ~twice).nonzero().flatten()):
            exact = self._clip.encode_image(images[rows]) @ self._head.T
            self._farthest = max(self._farthest, _move(half[rows], exact))
            classes[rows], twice[rows] = exact.argmax(dim=1), True
            self._again += len(rows)
        self._views += len(images)
        if self._views >= _LEAST and self._again > _TOO_MANY * self._views:
            self._half, self._weights = None, {}
        return classes

    def _in_half(self, images: Tensor) -> Tensor | None:
        inputs = self._clip.preprocess(images).to(self._half)
        try:
            rows = functional_call(self._tower, self._weights, (inputs,))
        except RuntimeError:  # an operation that the type lacks
            return None
        return F.normalize(rows.float(), dim=-1) @ self._head.T

    def _sample(self, count: int) -> Tensor:
        """Rows of this batch to answer in both types: all over the first ones, none later."""
        wanted = min(count, _SAMPLE - self._views)
        return torch.linspace(0, count - 1, max(0, wanted)).long()

    def facts(self) -> dict[str, Any]:
        """Type in use at the end, views answered in the half type first, those answered twice, farthest move."""
        return {
            "type": "float32" if self._half is None else str(self._half).removeprefix("torch."),
            "views_in_half": self._views,
            "answered_twice": self._again,
            "farthest_move": self._farthest,
        }


def _move(half: Tensor, exact: Tensor) -> float:
    """Farthest that the difference between the best class's cosine and another's moved, over rows (B, C) of cosines."""
    best = half.argmax(dim=1, keepdim=True)
    moved = (half - half.gather(1, best)) - (exact - exact.gather(1, best))
    most = float(moved.abs().max())
    return most if math.isfinite(most) else math.inf


class _Tower(nn.Module):
    """A model's image tower as a module of its own, so that it can be called with other weights."""

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        self.model, self._clip = clip.model, clip

    def weights(self, half: torch.dtype) -> dict[str, Tensor]:
        """Copies of the tower's floating-point weights and buffers in another type, named as in this module."""
        mine = self._clip.format.image_prefixes
        held = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        return {
            f"model.{name}": t.detach().to(half)
            for name, t in held.items()
            if name.startswith(mine) and t.is_floating_point()
        }

    def forward(self, inputs: Tensor) -> Tensor:
        return self._clip.format.image(self.model, inputs.contiguous(memory_format=self._clip.layout))
