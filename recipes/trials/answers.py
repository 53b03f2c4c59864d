"""How often answers in bfloat16, with float32 where classes are close, differ from float32's: on planted suspects.

    python recipes/trials/answers.py --data-root PATH --runs FOLDER [--only KEY=VALUE]

Suspects are those of `unbackdoor bench recipes/bench/core.yaml --out FOLDER`. Each answers its test images, clean and
triggered, three times: in float32, in bfloat16 alone, and as evaluations do (`unbackdoor.answers.Answers`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from suspects import Suspect, suspects

from unbackdoor.answers import Answers, predict
from unbackdoor.evaluation import batch_size
from unbackdoor.metrics.rates import Rate


class Bare(Answers):
    """Answers in the half type alone."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        cosines = self._in_half(images)
        assert cosines is not None
        return cosines.argmax(dim=1)


def differing(suspect: Suspect) -> tuple[int, int, int, int]:
    """Views, those answered twice, those answered otherwise than in float32, and otherwise in bfloat16 alone."""
    clip, head, trigger = suspect.clip, suspect.known.head, suspect.known.trigger
    mixed, bare = Answers(clip, head, torch.bfloat16), Bare(clip, head, torch.bfloat16)
    views = wrong = alone = 0
    with torch.inference_mode():
        for rows in torch.arange(len(suspect.test)).split(batch_size(clip.image_size, clip.device)):
            images = suspect.test.float_batch(rows)
            both = torch.cat([images, trigger(images, keys=rows)])
            exact = predict(clip, both, head)
            views += len(both)
            wrong += int((mixed(both) != exact).sum())
            alone += int((bare(both) != exact).sum())
    return views, mixed.facts()["answered_twice"], wrong, alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--only", action="append", default=[])
    args = parser.parse_args()
    sums, count = [0, 0, 0, 0], 0
    for names, open_suspect in suspects("core", args.data_root, args.runs, args.only):
        found = differing(open_suspect())
        sums, count = [a + b for a, b in zip(sums, found, strict=True)], count + 1
        print(" · ".join(str(names[key]) for key in ("data", "attack", "seed")), *found, flush=True)
    views, *rest = sums
    for what, hits in zip(("answered twice", "other than float32", "other in bfloat16 alone"), rest, strict=True):
        rate = Rate(hits, views)
        low, high = rate.interval
        print(f"{count} suspects, {what}: {hits} of {views}, {rate.value:.3%} [{low:.3%}, {high:.3%}]")


if __name__ == "__main__":
    main()
