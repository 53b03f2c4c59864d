"""Does what a cure says of itself follow what it leaves? Shares of one cure, measured by the attacker's own trigger.

    unbackdoor vet SUSPECT --data D --policy POLICY --out vetted        # with cure: true
    python recipes/zoo/partial_cures.py vetted --suspect SUSPECT --data D --origin embedded \\
        --trigger badnets:size=8 --target seven

The suspect's weights are moved by shares of the way to the cured model's. Of each the true attack is measured on the
test split, and triggers that the cure was not taken from are tried, as `unlearn --scan` does after a round. Prints a
table.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

import unbackdoor
from unbackdoor.base.draws import permutation
from unbackdoor.clip.handle import Clip
from unbackdoor.evaluation import Task, evaluate_images
from unbackdoor.metrics.rates import Rate
from unbackdoor.scan.examine import split
from unbackdoor.scan.family import LEFT, left, reach
from unbackdoor.scan.finding import Finding
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.attack import Attack
from unbackdoor.weights.vector import add_, difference

SHARES = (0.0, 0.15, 0.25, 0.4, 0.5, 0.75, 1.0)


def between(suspect: Clip, cured: Clip, share: float) -> Clip:
    """The suspect, moved by a share of the way to the cured model."""
    clip = suspect.clone()
    add_(clip.image_parameters(), difference(cured.image_parameters(), suspect.image_parameters()), share)
    return clip


def text(rate: Rate | None) -> str:
    """With its 95% Wilson interval."""
    if rate is None:
        return "–"
    low, high = (100 * bound for bound in rate.interval)
    return f"{100 * rate.value:.1f}% [{low:.1f}, {high:.1f}], n = {rate.n}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("vetted", type=Path, help="output folder of a vet that cured")
    for name in ("suspect", "data", "origin", "trigger", "target"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    finding = Finding.read(args.vetted / "scan")
    suspect, cured = unbackdoor.load(args.suspect), unbackdoor.load(str(args.vetted / "cure" / "model"))
    train, test = (unbackdoor.load_images(args.data, side=suspect.frame, split=s) for s in ("train", "test"))
    drawn = train.subset(permutation(len(train), finding.seed)[: finding.images])
    images = replace(drawn, labels=torch.full_like(drawn.labels, -1))
    head, target = suspect.zero_shot_head(train.classes), train.classes.index(args.target)
    task = Task(head, Attack(parse_trigger(args.trigger), target, args.target))
    trigger = parse_trigger(finding.trigger.spec)
    natural = split(suspect.clone(), images, head, train.classes, finding.seed, unbackdoor.load(args.origin))
    before = None
    print(f"found by {finding.trigger.inverter}; not whole above {LEFT:g}")
    print("| share of the cure | true ASR | CA | triggers found apart turn | left |\n|" + " --- |" * 5)
    for share in SHARES:
        clip = between(suspect, cured, share)
        subject = split(clip, images, head, train.classes, finding.seed)
        now = reach(subject, natural, target, trigger, before)
        before = before or now
        rates = evaluate_images(clip, test, task)
        cells = (f"{share:g}", text(rates.asr), text(rates.ca), text(Rate(*now.turned)), f"{left(before, now):.2f}")
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
