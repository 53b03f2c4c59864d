"""What the page of a cure shows of single test images: their pictures, the answers to them, and where they lie."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.evaluation import Task
from unbackdoor.evaluation.answers import embed, predict
from unbackdoor.report import Example, Map
from unbackdoor.weights.vector import Vector, Walk

EXAMPLES = 6
POINTS, _LEAST = 100, 3  # images on the map, at most and at least
STATES = ("clean, suspect", "triggered, suspect", "triggered, cured")
Answers = tuple[list[int], list[int]]  # to the clean and to the triggered examples


class Gallery:
    """Some test images as the suspect and as the cured model see them.

    Args:
        data: test images.
        task: its attack is known.
    """

    def __init__(self, data: ImageSet, task: Task) -> None:
        assert task.attack is not None
        self._data, self._task, self._attack = data, task, task.attack
        self._rows = _pick(data, task.attack.target)
        spread = torch.linspace(0, max(0, len(data) - 1), min(POINTS, len(data))).long()
        self._spread = spread[data.labels[spread] != task.attack.target]
        self._answers: dict[str, Answers] = {}
        self._places: dict[str, tuple[Tensor, Tensor]] = {}
        self._along: list[Answers] = []

    def look(self, clip: Clip, when: str) -> None:
        """Ask a model as it is now.

        Args:
            when: `suspect` or `cured`.
        """
        self._answers[when] = self._ask(clip)
        if len(self._spread) >= _LEAST:
            clean, triggered = (embed(clip, self._data, self._spread, trigger=t) for t in (None, self._attack.trigger))
            self._places[when] = clean.cpu(), triggered.cpu()

    def walk(self, clip: Clip, vector: Vector, chosen: float, alphas: Iterable[float]) -> None:
        """Ask the cured model at each α as well; its weights are afterwards what they were, bit for bit.

        Args:
            vector: what was subtracted, `chosen` times.
        """
        walk = Walk(clip.state(), vector)
        try:
            for alpha in alphas:
                walk.to(alpha - chosen)
                self._along.append(self._ask(clip))
        finally:
            walk.settle(0.0)

    def examples(self) -> list[Example]:
        """The pictures with their answers."""
        images = self._data.float_batch(self._rows)
        triggered = (self._attack.trigger(images, keys=self._rows) * 255).round().to(torch.uint8)
        names = self._data.classes
        (clean_before, triggered_before), (clean_after, triggered_after) = (
            self._answers["suspect"],
            self._answers["cured"],
        )
        return [
            Example(
                clean=self._data.images[row],
                triggered=triggered[i],
                truth=names[int(self._data.labels[row])],
                clean_before=names[clean_before[i]],
                clean_after=names[clean_after[i]],
                triggered_before=names[triggered_before[i]],
                triggered_after=names[triggered_after[i]],
                along=tuple((names[clean[i]], names[stamped[i]]) for clean, stamped in self._along),
            )
            for i, row in enumerate(self._rows.tolist())
        ]

    def places(self) -> Map | None:
        """The map of their embeddings; None of fewer than three images, or where a model answers no number."""
        if not self._places:
            return None
        (clean, triggered), (clean_after, triggered_after) = self._places["suspect"], self._places["cured"]
        rows = torch.cat([clean, triggered, triggered_after])
        if not bool(rows.isfinite().all()):
            return None  # a vector that was given may be large enough to leave no number
        plane, share = principal_plane(rows)
        names = [self._data.classes[label] if label >= 0 else "" for label in self._data.labels[self._spread].tolist()]
        points = [
            (round(x, 4), round(y, 4), place // len(names), names[place % len(names)])
            for place, (x, y) in enumerate(plane.tolist())
        ]
        cosines = {"suspect": (clean, triggered), "cured model": (clean_after, triggered_after)}
        means = {model: float((a * b).sum(dim=1).mean()) for model, (a, b) in cosines.items()}
        return Map(tuple(points), STATES, share, means, len(names))

    def _ask(self, clip: Clip) -> Answers:
        if not len(self._rows):
            return [], []
        images = self._data.float_batch(self._rows).to(self._task.head.device)
        clean = predict(clip, images, self._task.head)
        triggered = predict(clip, self._attack.trigger(images, keys=self._rows), self._task.head)
        return clean.tolist(), triggered.tolist()


def _pick(data: ImageSet, target: int) -> Tensor:
    """The first images of as many different classes as are shown, target class left out."""
    picked: dict[int, int] = {}
    for i, label in enumerate(data.labels.tolist()):
        if label not in (target, -1) and label not in picked:
            picked[label] = i
        if len(picked) == EXAMPLES:
            break
    return torch.tensor(list(picked.values()), dtype=torch.int64)


def principal_plane(rows: Tensor) -> tuple[Tensor, float]:
    """Coordinates (N, 2) of rows (N, D) in the two directions of their largest variance, and their share of it all.

    Signs are such that the largest coordinate of each direction is positive, so that the same rows give the same map.
    """
    centered = rows.double() - rows.double().mean(dim=0)
    left, sizes, _ = torch.linalg.svd(centered, full_matrices=False)
    plane = left[:, :2] * sizes[:2]
    plane = plane * torch.where(plane.gather(0, plane.abs().argmax(dim=0, keepdim=True)) < 0, -1.0, 1.0)
    total = float(sizes.square().sum())
    return plane, float(sizes[:2].square().sum()) / total if total else 1.0
