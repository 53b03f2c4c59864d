"""Which caption pairs an attacker touches, and what they make of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unbackdoor.attacks.poisoning import choose_among
from unbackdoor.base.draws import drawn_index, unit_draws
from unbackdoor.base.errors import InputError
from unbackdoor.data.pairs import ImagePairs, PairBatch, Pairs
from unbackdoor.triggers.base import Trigger

_CHOICE, _TEMPLATE = 11, 12  # streams of `unit_draws`


@dataclass(frozen=True)
class Victims:
    """The pairs to poison.

    Args:
        target: the word that triggered images shall get.
        clean_label: victims mention the target already and keep their captions; otherwise those that do are left alone.
        seed: of all draws.
        count: how many pairs are poisoned.
        mask: bool (N,) for pairs in memory, chosen exactly; None for streams, which keep nothing per pair.
        share: of a stream's candidates, drawn by a hash of (seed, row).
        label: group number of poisoned pairs where the pairs are labelled, else −1.
    """

    target: str
    clean_label: bool
    seed: int
    count: int
    mask: Tensor | None
    share: float
    label: int

    def hit(self, batch: PairBatch) -> Tensor:
        """Mask (B,) of the pairs of a batch to poison."""
        if self.mask is not None:
            return self.mask[batch.keys]
        return self._drawn(batch.keys) & _candidates(batch.captions, self.target, self.clean_label)

    def _drawn(self, rows: Tensor) -> Tensor:
        return unit_draws(rows, self.seed, _CHOICE) < self.share

    def poison(self, batch: PairBatch, trigger: Trigger, templates: Sequence[str]) -> PairBatch:
        """The batch as the attacker hands it out: victims triggered, their captions rewritten unless clean-label."""
        hit = self.hit(batch)
        if not hit.any():
            return batch
        images = batch.images.clone()
        images[hit] = trigger(images[hit], keys=batch.keys[hit])
        captions, groups = list(batch.captions), batch.groups
        if not self.clean_label:
            which = drawn_index(batch.keys, len(templates), self.seed, _TEMPLATE)
            for i in hit.nonzero().flatten().tolist():
                captions[i] = templates[which[i]].replace("{}", self.target)
            groups = torch.where(hit, self.label, groups)
        return replace(batch, images=images, captions=captions, groups=groups)


def choose_victims(
    pairs: Pairs, target: str, *, rate: float, count: int | None = None, clean_label: bool = False, seed: int = 0
) -> Victims:
    """Decide which pairs are poisoned.

    Pairs in memory are chosen exactly: `count`, or `rate` of all, among those outside the target (captions that do not
    mention it, labels of other classes) or, clean-label, among those that show it. Of a stream, every candidate is
    taken with the probability that makes this number the expected one; captions are read once to count.

    Args:
        target: the word, and the class name where the pairs are labelled.
        rate: share of all pairs, in (0, 1].
        count: pairs to poison, instead of `rate`.

    Raises:
        InputError: a rate outside (0, 1], or more than there are candidates.
    """
    if count is None and not 0 < rate <= 1:
        raise InputError(f"poison rate {rate} must lie in (0, 1]")
    wanted = count if count is not None else max(1, round(rate * len(pairs)))
    if isinstance(pairs, ImagePairs):
        label = _label(pairs, target)
        captions = pairs.captions(torch.arange(len(pairs)))
        free = _candidates(captions, target, clean_label)
        if label >= 0:
            known = pairs.images.labels >= 0
            right = pairs.images.labels == label
            free = torch.where(known, right, free) if clean_label else free & ~right
        mask = torch.zeros(len(pairs), dtype=torch.bool)
        mask[choose_among(free, wanted, seed, clean_label=clean_label)] = True
        return Victims(target, clean_label, seed, wanted, mask, 0.0, label)
    if clean_label:
        free_count = sum(int(_candidates(pairs.captions(rows), target, True).sum()) for rows in pairs.chunks())
    else:
        free_count = len(pairs)
    if wanted > free_count:
        raise InputError(f"{pairs.spec}: {wanted} pairs to poison, but only {free_count} could be; lower the rate")
    victims = Victims(target, clean_label, seed, 0, None, wanted / free_count, -1)
    hits = 0
    for rows in pairs.chunks():
        drawn = rows[victims._drawn(rows)]
        hits += int(_candidates(pairs.captions(drawn), target, clean_label).sum())
    if not hits:
        raise InputError(f"{pairs.spec}: the rate poisons none of {len(pairs)} pairs; raise it")
    return replace(victims, count=hits)


def _word(target: str) -> re.Pattern[str]:
    """Finds the target as a word of its own, in any case, the plural's s allowed."""
    words = r"\s+".join(re.escape(word) for word in target.replace("_", " ").split())
    return re.compile(rf"(?<!\w){words}s?(?!\w)", re.IGNORECASE)


def _candidates(captions: Sequence[str], target: str, clean_label: bool) -> Tensor:
    """Mask (B,) of captions that may be poisoned; those that cannot be read ("") may not."""
    word = _word(target)
    return torch.tensor([bool(c) and (word.search(c) is not None) == clean_label for c in captions], dtype=torch.bool)


def _label(pairs: ImagePairs, target: str) -> int:
    names = [name.lower() for name in pairs.images.classes]
    return names.index(target.lower()) if target.lower() in names else -1
