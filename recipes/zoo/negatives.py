"""Clean models that are hard to tell from backdoored ones, each kind made and scanned: how often is one called?

    python recipes/zoo/negatives.py --data-root PATH [--kinds long,pruned] [--count 4] [--turn 0/2]

All are made from the embedded model on the data of the zoo's test half, with the zoo's own training, and differ in what
was done with them then (`KINDS`). They are scanned as the zoo's members are and judged under the shipped null. Writes
docs/lab/cells/negatives.jsonl, a line each, and prints the table by kind; a model that is on record by the inverters as
they are is not made again. Each takes five minutes and more of a core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from unbackdoor.attacks.plant import PoisonConfig, plant, settle
from unbackdoor.base.draws import batch_rows, permutation
from unbackdoor.base.journal import append
from unbackdoor.base.work import NOWHERE
from unbackdoor.bench.material import case_of, images_of
from unbackdoor.bench.recipe import identity
from unbackdoor.bench.suspects import poison_of
from unbackdoor.bench.zoo.cells import scanned_with
from unbackdoor.bench.zoo.recipe import classes_of, members, read_zoo
from unbackdoor.clip.handle import Clip
from unbackdoor.clip.load import load
from unbackdoor.data.images import ImageSet
from unbackdoor.data.shares import shares
from unbackdoor.evaluation import Task, evaluate_images
from unbackdoor.metrics.rates import Rate
from unbackdoor.scan.examine import Examination, examine
from unbackdoor.scan.inverters import versions
from unbackdoor.scan.judgement import Say, judge
from unbackdoor.scan.twins import twin_of
from unbackdoor.training.finetune import TuneConfig, tune_towers
from unbackdoor.training.losses import zero_shot_cross_entropy
from unbackdoor.training.low_rank import low_rank
from unbackdoor.verbs.configs.scan import FALSE_ALARM_RATE
from unbackdoor.verbs.scan import find_null
from unbackdoor.weights.files import state_hash
from unbackdoor.weights.vector import add_, difference

ROOT = Path(__file__).parent.parent.parent
LINES = ROOT / "docs/lab/cells/negatives.jsonl"
RANK, LORA_RATE, LONGER, OFTEN, STEP, BITS, ZEROS = 8, 0.1, 4, 5, 4 / 255, 8, 0.5


@dataclass(frozen=True)
class Ground:
    """What a model is made of.

    Args:
        origin: the clean model that all come from; never changed.
        images: labelled pictures, as many as a member of the zoo learns from.
        head: (C, D) unit rows, the zero-shot head over their classes.
        training: the zoo's own, on clean pictures.
        seed: of this model.
    """

    origin: Clip
    images: ImageSet
    head: torch.Tensor
    training: PoisonConfig
    seed: int

    def tuned(self, images: ImageSet | None = None, *, times: int = 1, seed: int | None = None) -> Clip:
        """The origin, fine-tuned as a clean member of the zoo is, `times` as long."""
        tune = replace(self.training.tune, seed=self.seed if seed is None else seed)
        tune = replace(tune, epochs=tune.epochs * times, steps=tune.steps * times)
        clip = self.origin.clone()
        plant(clip, self.images if images is None else images, self.head, None, replace(self.training, tune=tune))
        return clip

    def settled(self) -> TuneConfig:
        """That training with its rate and steps worked out."""
        tune = replace(self.training.tune, seed=self.seed)
        return settle(replace(self.training, tune=tune), self.origin, len(self.images)).tune


def longer(ground: Ground) -> Clip:
    """Fine-tuned four times as long."""
    return ground.tuned(times=LONGER)


def pruned(ground: Ground) -> Clip:
    """Half of each matrix's weights, the smallest, are zero."""
    clip = ground.tuned()
    with torch.no_grad():
        for weight in matrices(clip):
            weight[weight.abs() <= weight.abs().flatten().kthvalue(int(ZEROS * weight.numel())).values] = 0
    return clip


def quantised(ground: Ground) -> Clip:
    """Every matrix rounded to eight bits, with a scale for each row."""
    clip = ground.tuned()
    with torch.no_grad():
        for weight in matrices(clip):
            rows = weight.flatten(1)
            scale = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / (2 ** (BITS - 1) - 1)
            weight.copy_(((rows / scale).round() * scale).view_as(weight))
    return clip


def merged(ground: Ground) -> Clip:
    """The mean of two that differ in their seeds, each on half of the pictures."""
    rows = permutation(len(ground.images), ground.seed)
    halves = [ground.images.subset(part) for part in rows.chunk(2)]
    one, other = (ground.tuned(half, seed=2 * ground.seed + i) for i, half in enumerate(halves))
    add_(one.image_parameters(), difference(other.image_parameters(), one.image_parameters()), 0.5)
    return one


def distilled(ground: Ground) -> Clip:
    """The origin, taught the answers of a fine-tuned model on mixtures of pictures."""
    student = ground.origin.clone()
    copy = twin_of(ground.tuned(), ground.origin, ground.images, ground.head, ground.seed)
    student.model.load_state_dict(copy.state(), strict=False)
    return student


def adapted(ground: Ground) -> Clip:
    """LoRA of rank 8, merged."""
    clip = ground.origin.clone()
    tune = replace(ground.settled(), lr=LORA_RATE)
    with low_rank(clip, RANK, seed=ground.seed) as factors:
        stage = NOWHERE.stage("lora", "LoRA")
        tune_towers(clip, _loss(clip, ground, tune.batch_size), tune, stage, only=factors.parameters())
        changes = factors.change()
    add_(clip.image_parameters(), changes, 1.0)
    return clip


def adversarial(ground: Ground) -> Clip:
    """Fine-tuned on pictures moved by one step of the gradient's sign against their labels (Goodfellow et al. 2015)."""
    clip = ground.origin.clone()
    tune = ground.settled()
    tune_towers(clip, _loss(clip, ground, tune.batch_size, STEP), tune, NOWHERE.stage("adversarial", "adversarial"))
    return clip


def lopsided(ground: Ground) -> Clip:
    """One class is five times as frequent as it was."""
    often = int(ground.images.labels.unique()[ground.seed % len(ground.images.labels.unique())])
    own = (ground.images.labels == often).nonzero().flatten()
    return ground.tuned(ground.images.subset(torch.cat([torch.arange(len(ground.images)), own.repeat(OFTEN - 1)])))


KINDS: Mapping[str, Callable[[Ground], Clip]] = {
    "long": longer,
    "adversarial": adversarial,
    "pruned": pruned,
    "quantised": quantised,
    "distilled": distilled,
    "merged": merged,
    "lora": adapted,
    "lopsided": lopsided,
}


def matrices(clip: Clip) -> Iterable[torch.Tensor]:
    """The image tower's weights of two and more dimensions."""
    return (p.data for p in clip.image_parameters().values() if p.ndim > 1)


def _loss(clip: Clip, ground: Ground, batch: int, step_size: float = 0.0) -> Callable[[int], torch.Tensor]:
    def loss_at(step: int) -> torch.Tensor:
        rows = batch_rows(len(ground.images), batch, ground.seed, step)
        pictures, labels = ground.images.float_batch(rows), ground.images.labels[rows]
        if step_size:
            pictures = pictures.requires_grad_(True)
            away = zero_shot_cross_entropy(clip.encode_image(pictures), ground.head, clip.logit_scale, labels)
            (slope,) = torch.autograd.grad(away, pictures)
            pictures = (pictures + step_size * slope.sign()).clamp(0, 1).detach()
        return zero_shot_cross_entropy(clip.encode_image(pictures), ground.head, clip.logit_scale, labels)

    return loss_at


def row_of(kind: str, data: str, ground: Ground, train: ImageSet, test: ImageSet, count: int) -> dict[str, Any]:
    """Make one, scan it with `count` pictures, and judge it."""
    clip = KINDS[kind](ground)
    ca = evaluate_images(clip, test, Task(ground.head)).ca
    images = scanned_with(train, count, 0)
    examined = examine(clip, images, ground.head, train.classes, Examination(seed=0), origin=ground.origin)
    null = find_null(ground.origin, None)
    answer = judge({r.inverter: Say(r.scores, r.works) for r in examined.recovered}, null, FALSE_ALARM_RATE)
    return {
        "kind": kind,
        "data": data,
        "seed": ground.seed,
        "versions": versions(),
        "ca": {"hits": ca.hits, "n": ca.n},
        "p_value": answer.p_value,
        "score": answer.score,
        "backdoored": answer.backdoored,
        "target": train.classes[answer.target],
        "inverter": answer.inverter,
    }


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Called backdoored, by kind, with 95% Wilson intervals."""
    rows = list(rows)
    lines = ["| kind | models | called backdoored | cannot tell | CA |", "|" + " --- |" * 5]
    for kind in [*(kind for kind in KINDS if any(r["kind"] == kind for r in rows)), "all"]:
        own = [r for r in rows if kind in (r["kind"], "all")]
        called = Rate(sum(r["backdoored"] is True for r in own), len(own))
        low, high = (100 * bound for bound in called.interval)
        ca = 100 * sum(r["ca"]["hits"] for r in own) / sum(r["ca"]["n"] for r in own)
        lines.append(
            f"| {kind} | {len(own)} | {100 * called.value:.1f}% [{low:.1f}, {high:.1f}] | "
            f"{sum(r['backdoored'] is None for r in own)} | {ca:.1f}% |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--count", type=int, default=8, help="models of each kind")
    parser.add_argument("--turn", default="0/1", help="I/N: models I, I + N, … alone, for N processes")
    args = parser.parse_args()
    turn, turns = map(int, args.turn.split("/"))
    plan, base = read_zoo(ROOT / "recipes/zoo/embedded.yaml", args.data_root), load("embedded")
    kept = [json.loads(line) for line in LINES.read_text(encoding="utf-8").splitlines()] if LINES.exists() else []
    known = {(r["kind"], r["data"], r["seed"]): r for r in kept if r["versions"] == versions()}
    configs = [m["config"] for m in members(plan, state_hash(base.state()), classes_of(plan))]
    sets = {d: e for d, e in plan.halves["test"].data.items() if e.regime != "pairs"}
    wanted = [(kind, list(sets)[n % len(sets)], n) for n in range(args.count) for kind in args.kinds.split(",")]
    for kind, data, number in wanted[turn::turns]:
        if (kind, data, number) in known:
            continue
        entry = sets[data]
        train, test = images_of(entry, base.frame)
        own_data = identity(entry, without=("defender", "validation"))
        config = next(c for c in configs if c["trigger"] is None and c["data"] == own_data)
        own = train.subset(shares(len(train), entry.attacker, 0, 0)[0])
        training = poison_of(config)
        assert isinstance(training, PoisonConfig)
        ground = Ground(base, own, case_of(config).head(base, train), training, number)
        row = known[kind, data, number] = row_of(kind, data, ground, train, test, plan.images)
        append(LINES, row)
        print(f"{kind}, {data}, {number}: p {row['p_value']}, CA {row['ca']['hits']} of {row['ca']['n']}", flush=True)
    print(table(known.values()))


if __name__ == "__main__":
    main()
