"""A long class list narrowed before it is searched, by looks that cost the same however long the list is.

A search asks for every class by itself. A look asks for places among the classes instead: the names' embeddings fall
into two dozen clusters, a dozen steps of each family lead pictures towards each cluster's center, and what the changed
pictures then come to costs one product with the head for all classes. A class stands as high in a look as the cheapest
of the changes makes it, by the cost that `scan/inverters/guided.py` searches by. A backdoor's class need not be asked
for by name: a step towards where it lies finds the trigger. Where the subject has a clean twin, each look orders the
classes a second time, by how much more the same change costs there.

One more look are single waves, which no gradient leads to (`scan/inverters/wave.py`). No look knows every trigger; so
the classes that stand foremost in any of them are kept, rank by rank. Which inverters the scan runs plays no part, so
that each inverter's statistics are the same whichever others run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from unbackdoor.base import journal
from unbackdoor.base.draws import batch_rows, permutation, seeded, step_seed
from unbackdoor.base.work import NOWHERE
from unbackdoor.scan.inverters import inverter
from unbackdoor.scan.inverters.base import Asked, Effort, Subject
from unbackdoor.scan.inverters.guided import Family, Search, group_size
from unbackdoor.scan.inverters.spectral import cycles, probes

VERSION = 1  # whoever changes which classes are kept raises it, so that old nulls are not taken for new ones
LIMIT = 48  # classes that are searched; a list no longer than this is not touched
FAMILIES = ("patch", "additive", "spectral", "warp", "colour")
CENTERS, STEPS, PICTURES = 24, 12, 4
MEASURED, WAVE_PICTURES = 16, 4  # pictures on which a change, and a wave, is judged for all classes
_TURNS, _AT_ONCE = 20, 64  # of the clusters' centers; pictures that are looked at together


def in_force(classes: int) -> bool:
    """Whether a list of so many classes is narrowed."""
    return classes > LIMIT


def efforts(asked: Asked) -> list[Effort]:
    """What narrowing takes."""
    twins, places = 1 + asked.twin, CENTERS * STEPS * PICTURES
    # Waves are searched in full precision (`Search.run`).
    full = Effort(places, twins * (CENTERS * MEASURED * len(FAMILIES) + _waves_of(asked.side) * WAVE_PICTURES))
    return [full, Effort((len(FAMILIES) - 1) * places, half=True)]


def _waves_of(side: int) -> int:
    return len(probes(side, torch.device("cpu"))) if cycles(side) else 0


@dataclass(frozen=True)
class _Kept:
    """The line that a narrowing is kept as."""

    candidates: tuple[int, ...]


def narrowed(subject: Subject) -> Subject:
    """The subject with the classes that are to be searched, all of them where the list is short."""
    if not in_force(len(subject.names)):
        return subject
    log = subject.work.file("narrowing.jsonl")
    lines = [] if log is None else journal.read(log, _Kept)
    if lines:
        return _with(subject, torch.tensor(lines[-1].candidates))
    chosen = foremost(list(looks(subject).values()), LIMIT)
    if log is not None:
        journal.append(log, {"candidates": chosen.tolist()})
    return _with(subject, chosen)


def _with(subject: Subject, candidates: Tensor) -> Subject:
    """The same subject with other candidates; what it was asked for once, its twin above all, is not made anew."""
    after = replace(subject, candidates=candidates)
    after.__dict__.update({k: v for k, v in subject.__dict__.items() if k in ("own", "held_own", "twin")})
    return after


def foremost(ranked: Sequence[Tensor], count: int) -> Tensor:
    """Indices of `count` of C classes, ascending: the best of each look, then the second of each, and so on.

    Args:
        ranked: what each look says of the classes, (C,) each, larger for those that are to be searched.
    """
    orders = [scores.argsort(descending=True, stable=True).tolist() for scores in ranked]
    chosen: dict[int, None] = {}
    for row in zip(*orders, strict=True):
        for c in row:
            if len(chosen) < count:
                chosen[c] = None
    return torch.tensor(sorted(chosen))


def looks(subject: Subject) -> dict[str, Tensor]:
    """What each look says of all classes, (C,) each."""
    centers = clusters(subject.head.cpu(), CENTERS, subject.seed).to(subject.head)
    scores, start = _waves(subject, centers) if cycles(subject.clip.image_size) else ({}, None)
    for name in FAMILIES:
        family = inverter(name).family(subject.clip.image_size)
        if family.probe is not None and start is not None:
            # The waves were looked at for all centers at once.
            family = replace(
                family, probe=lambda _, candidates, raw, start=start: raw + start[candidates.to(raw.device)]
            )
        scores |= _guided(subject, family, centers)
    return scores


def clusters(head: Tensor, count: int, seed: int) -> Tensor:
    """Centers (K, D), unit rows, of the classes' embeddings (C, D): k-means by cosine, from K of them."""
    centers = head[permutation(len(head), seed)[:count]]
    for _ in range(_TURNS):
        own = (head @ centers.T).argmax(dim=1)
        sums = torch.zeros_like(centers).index_add_(0, own, head)
        # A center that no class is nearest to stays where it is.
        centers = torch.where((own.bincount(minlength=count) > 0)[:, None], F.normalize(sums, dim=1), centers)
    return centers


def _guided(subject: Subject, family: Family, centers: Tensor) -> dict[str, Tensor]:
    """One family's look, and with a twin a second: minus the least cost, and how much more the change costs there."""
    places = replace(subject, head=centers, names=tuple(map(str, range(len(centers)))), origin=None, work=NOWHERE)
    every = torch.arange(len(centers))
    whole = Search.begin(places, family, every, seeded(step_seed(subject.seed, 0)), STEPS)
    cost, natural = [], []
    for rows in every.split(group_size(places, family, whole.raw, PICTURES)):
        search = whole.part(rows)
        search.run(PICTURES, STEPS)
        raw = search.raw.detach()
        cost.append(_costs(subject, subject, family, raw))
        if subject.twin is not None:
            natural.append(_costs(subject.twin, subject, family, raw))
    own = torch.cat(cost)
    scores = {family.name: -own.amin(dim=0)}
    if natural:
        scores[f"{family.name}, twin"] = (torch.cat(natural) / own).log().amax(dim=0)
    return scores


@torch.no_grad()
def _costs(model: Subject, subject: Subject, family: Family, raw: Tensor) -> Tensor:
    """What each of K changes costs for every class in `model`, (K, C), by the cost that is searched by."""
    rows = torch.arange(min(MEASURED, len(subject.images)))
    pictures = subject.images.float_batch(rows).to(raw.device)
    costs = []
    for part in raw.split(max(1, _AT_ONCE // len(rows))):
        batch = pictures.repeat(len(part), 1, 1, 1)
        changed = family.change(batch, part)
        loss = _mean(subject, rows, -_shares(model, model.clip.encode_image(changed), model.head))
        costs.append(loss + family.weight * family.size(part, batch, changed)[:, None])
    return torch.cat(costs).clamp_min(1e-6).cpu()


@torch.no_grad()
def _waves(subject: Subject, centers: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The look of single waves, and the wave (K, …) that pulls most pictures to each center."""
    rows = batch_rows(len(subject.images), WAVE_PICTURES, subject.seed, 0)
    pictures = subject.images.float_batch(rows).to(subject.clip.device)
    waves = probes(subject.clip.image_size, subject.clip.device)
    change, twin = inverter("spectral").family(subject.clip.image_size).change, subject.twin
    own, gain, pull = [], [], []
    for some in waves.split(max(1, _AT_ONCE // len(rows))):
        changed = change(pictures.repeat(len(some), 1, 1, 1), some)
        embeddings = subject.clip.encode_image(changed)
        own.append(_mean(subject, rows, _shares(subject, embeddings, subject.head).exp()))
        pull.append(_shares(subject, embeddings, centers).view(len(some), len(rows), -1).mean(dim=1))
        if twin is not None:
            natural = _shares(twin, twin.clip.encode_image(changed), twin.head).exp()
            gain.append(own[-1] - _mean(subject, rows, natural))
    scores = {"wave": torch.cat(own).amax(dim=0).cpu()}
    if gain:
        scores["wave, twin"] = torch.cat(gain).amax(dim=0).cpu()
    return scores, waves[torch.cat(pull).argmax(dim=0)]


def _shares(model: Subject, embeddings: Tensor, head: Tensor) -> Tensor:
    """Logarithms of the probabilities (B, C)."""
    return (model.clip.logit_scale * embeddings @ head.T).log_softmax(dim=-1)


def _mean(subject: Subject, rows: Tensor, values: Tensor) -> Tensor:
    """Mean (K, C) of values (K·n, C) over those of n pictures that the suspect does not give the class anyway."""
    counts = (subject.own[rows][:, None] != torch.arange(len(subject.names))).to(values)
    return (values.view(-1, len(rows), values.shape[-1]) * counts).sum(dim=1) / counts.sum(dim=0).clamp_min(1)
