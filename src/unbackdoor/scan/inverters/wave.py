"""One grey wave that pulls pictures to a class in the suspect and not in its clean twin; looked at, not searched for.

A search for waves goes where the gradient leads, and a wave that acts from half of the attacker's height on leads
nowhere at first: the class is given up before its wave is found. To look costs no gradient, and one look serves all
classes: the 632 waves of `spectral.probes`, about as high as an attacker's (0.108; SIG's are 0.08 to 0.16, Barni et al.
2019, arXiv 1902.11237), on a few pictures. The statistic of a class is the largest gain of its mean probability over
the twin's under the same wave; without a twin, over the median of the other classes' best.

The best of hundreds is best by luck, too, so that the foremost classes' best waves are measured on other pictures.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unbackdoor.base.devices import half_type
from unbackdoor.base.draws import batch_rows
from unbackdoor.evaluation.answers import logits
from unbackdoor.scan.inverters import additive, spectral
from unbackdoor.scan.inverters.base import Asked, Effort, Inverter, Recovered, Subject, try_out
from unbackdoor.scan.inverters.guided import others_median
from unbackdoor.triggers.additive import Additive, add

PICTURES, MEASURED = 16, 64
FOREMOST, BEST = 6, 4  # classes, and waves of each, that are measured


def invert(subject: Subject) -> Recovered:
    """See the module's first lines; the norm is the wave's RMS change."""
    side, device = subject.clip.image_size, subject.clip.device
    candidates = torch.arange(len(subject.names)) if subject.candidates is None else subject.candidates
    waves = spectral.probes(side, device)
    gain = _gain(subject, waves, batch_rows(len(subject.images), PICTURES, subject.seed, 0), candidates)
    foremost = gain.amax(dim=0).topk(min(FOREMOST, len(candidates))).indices
    best = gain[:, foremost].topk(min(BEST, len(waves)), dim=0).indices  # (BEST, FOREMOST)
    rows = batch_rows(len(subject.images), MEASURED, subject.seed, 1)
    again = _gain(subject, waves[best.flatten()], rows, candidates)[:, foremost].view(*best.shape, -1)
    own = again.diagonal(dim1=1, dim2=2)  # each class under its own waves
    score, place = own.max(dim=0)
    top = int(score.argmax())
    pattern = spectral.pattern(waves[best[place[top], top]][None], side)[0].cpu()
    trigger, target = Additive.of(pattern), int(candidates[foremost[top]])
    strength, embedding = try_out(subject, trigger, target)
    return Recovered(
        "wave",
        trigger,
        target,
        embedding,
        float(pattern.pow(2).mean().sqrt()),
        strength,
        float(score[top]),
        {int(candidates[c]): float(s) for c, s in zip(foremost, score, strict=True)},
        {
            "candidates": [subject.names[int(candidates[c])] for c in foremost],
            "score": [round(float(s), 4) for s in score],
        },
    )


def _gain(subject: Subject, waves: Tensor, rows: Tensor, candidates: Tensor) -> Tensor:
    """Mean probability of each candidate under each wave, less what it comes to by nature; (W, K)."""
    own, twin = _pull(subject, subject, waves, rows, candidates), subject.twin
    if twin is None:
        return own - others_median(own.amax(dim=0))
    return own - _pull(twin, subject, waves, rows, candidates)


@torch.no_grad()
def _pull(model: Subject, subject: Subject, waves: Tensor, rows: Tensor, candidates: Tensor) -> Tensor:
    """Mean probability (W, K) that `model` gives the candidates, over pictures that the suspect does not give them."""
    clip = model.clip
    pictures = subject.images.float_batch(rows).to(clip.device)
    counts = (subject.own[rows][:, None] != candidates).to(pictures)
    gains = []
    for some in waves.split(max(1, 128 // len(rows))):
        changed = add(pictures.repeat(len(some), 1, 1, 1), _patterns(some, pictures))
        share = logits(clip, changed, model.head, compute=half_type(clip.device)).softmax(dim=-1)
        share = share.view(len(some), len(rows), -1)[..., candidates.to(share.device)]
        gains.append((share * counts).sum(dim=1) / counts.sum(dim=0).clamp_min(1))
    return torch.cat(gains).cpu()


def _patterns(waves: Tensor, pictures: Tensor) -> Tensor:
    return spectral.pattern(waves, pictures.shape[-1])


def effort(asked: Asked) -> Effort:
    """Every wave on a few pictures, and the foremost classes' best on more, in the twin too."""
    looked = len(spectral.probes(asked.side, torch.device("cpu"))) * PICTURES if spectral.cycles(asked.side) else 0
    return Effort(0, (looked + FOREMOST * BEST * MEASURED) * (1 + asked.twin))


# A cure is taken from what a search for waves would have found.
INVERTER = Inverter(1, invert, spectral.family, additive.family, spectral.stronger, effort)
