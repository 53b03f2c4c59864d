"""Every candidate for a better vector, on the same suspects, by the same rule of α: the ablation's table.

    python recipes/trials/vectors.py --data-root PATH --runs FOLDER --out FOLDER [--only data=cifar10]

The suspects are those of `unbackdoor bench recipes/bench/core.yaml --out RUNS`, as far as they are there. Every
candidate is subtracted as far as one rule says: the smallest α that leaves at most 1% ASR on 512 labelled images and
95% of CA, else the best trade-off. Rates are of the test images. Results are kept in `vectors.jsonl`, a line each; a
killed run goes on, and `--table` renders what is there.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from suspects import suspects
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.evaluation import Task, class_logits, evaluate_images
from unbackdoor.training.embedding import embed
from unbackdoor.training.guard import learn_guard
from unbackdoor.training.losses import squared_distance, target_cross_entropy
from unbackdoor.unlearning.alpha import AlphaConfig
from unbackdoor.unlearning.known import subtract
from unbackdoor.unlearning.vector import METHODS, Known, VectorConfig, as_answered, trigger_vector
from unbackdoor.weights.names import block_of
from unbackdoor.weights.vector import Vector, Walk, snapshot

RULE = AlphaConfig(tolerance=0.01)


@dataclass
class Subject:
    """A suspect, with the vectors that several candidates start from taken once."""

    clip: Clip
    known: Known

    def take(self, config: VectorConfig, **known: Any) -> Vector:
        return trigger_vector(self.clip, replace(self.known, **known), config).vector

    @cached_property
    def tbar(self) -> Vector:
        return self.take(METHODS["tbar"])

    @cached_property
    def anchored(self) -> Vector:
        return self.take(METHODS["anchored"])

    def batches(self, size: int = 16) -> Iterable[Tensor]:
        for rows in torch.arange(len(self.known.forget)).split(size):
            yield self.known.forget.float_batch(rows)


def projected(subject: Subject, vector: Vector) -> Vector:
    """Off what clean images feel, after the fact: the guard on the whole vector instead of every step."""
    guard = learn_guard(subject.clip, subject.batches(), 0.1)
    return {name: guard.soften(name, t) for name, t in vector.items()}


def trimmed(vector: Vector, share: float = 0.2) -> Vector:
    """The largest `share` of every tensor's elements (TIES, Yadav et al. 2023, arXiv 2306.01708, section 3)."""
    out = {}
    for name, t in vector.items():
        least = t.abs().flatten().kthvalue(max(1, int((1 - share) * t.numel()))).values
        out[name] = t * (t.abs() >= least)
    return out


def dropped(vector: Vector, rate: float = 0.8) -> Vector:
    """A random share of elements dropped, the rest rescaled (DARE, Yu et al. 2023, arXiv 2311.03099, section 3)."""
    generator = torch.Generator().manual_seed(0)
    return {n: t * (torch.rand(t.shape, generator=generator) >= rate) / (1 - rate) for n, t in vector.items()}


def of_rank(vector: Vector, rank: int = 8) -> Vector:
    """Every matrix at its best approximation of so many ranks."""
    out = {}
    for name, t in vector.items():
        if t.ndim < 2:
            out[name] = t
            continue
        u, s, v = torch.linalg.svd(t.flatten(1), full_matrices=False)
        out[name] = (u[:, :rank] * s[:rank] @ v[:rank]).reshape(t.shape)
    return out


def paired(subject: Subject) -> Vector:
    """What triggered images teach, less what the same images teach untriggered, both towards the target."""
    plain = replace(subject.known, trigger=lambda images, keys=None: images)  # type: ignore[arg-type]
    untriggered = trigger_vector(subject.clip, plain, METHODS["tbar"]).vector
    return {name: t - untriggered[name] for name, t in subject.tbar.items()}


def off_clean(subject: Subject) -> Vector:
    """The published vector less its part along a clean fine-tuning's, tensor by tensor.

    That fine-tuning is the published one too, of untriggered images towards the suspect's own answers.
    """
    clip, rows = subject.clip, as_answered(subject.clip, subject.known.forget, subject.known.head)
    weights, start = clip.image_parameters(), snapshot(clip.image_parameters())
    for p in weights.values():
        p.requires_grad_(True)
    optimiser = torch.optim.AdamW(weights.values(), lr=1e-4)
    for _ in range(8):
        for batch in torch.arange(len(rows)).split(64):
            optimiser.zero_grad()
            logits = clip.logit_scale * clip.encode_image(rows.float_batch(batch)) @ subject.known.head.T
            torch.nn.functional.cross_entropy(logits, rows.labels[batch]).backward()
            optimiser.step()
    clean = {name: p.detach() - start[name] for name, p in weights.items()}
    _back(weights, start)
    out = {}
    for name, t in subject.tbar.items():
        along = (t * clean[name]).sum() / clean[name].pow(2).sum().clamp(min=1e-20)
        out[name] = t - along * clean[name]
    return out


def by_block(subject: Subject, vector: Vector, steps: int = 30) -> Vector:
    """α of every block by a few gradient steps on the distillation's loss, 64 images, no labels."""
    clip, known = subject.clip, subject.known
    rows = as_answered(clip, known.forget.subset(torch.arange(64)), known.head)
    own, marked = embed(clip, rows), rows.labels != known.target
    weights, start = clip.image_parameters(), snapshot(clip.image_parameters())
    blocks = sorted({block_of(name) for name in vector})
    alphas = torch.full((len(blocks),), 2.0, requires_grad=True)
    optimiser = torch.optim.Adam([alphas], lr=0.2)
    clean = rows.float_batch(torch.arange(64))
    triggered = known.trigger(clean, keys=torch.arange(64))
    for p in weights.values():
        p.requires_grad_(True)
    for _ in range(steps):
        _move(weights, start, vector, dict(zip(blocks, alphas.tolist(), strict=True)))
        moved, kept = clip.encode_image(torch.cat([triggered[marked], clean])).split([int(marked.sum()), 64])
        loss = squared_distance(moved, own[marked]) + 10 * squared_distance(kept, own)
        slopes = torch.autograd.grad(loss, [weights[name] for name in vector])
        alphas.grad = torch.zeros_like(alphas)
        for name, slope in zip(vector, slopes, strict=True):
            alphas.grad[blocks.index(block_of(name))] -= (slope * vector[name]).sum()
        optimiser.step()
    found = dict(zip(blocks, alphas.tolist(), strict=True))
    _back(weights, start)
    return {name: found[block_of(name)] * t for name, t in vector.items()}


def tangent(subject: Subject, steps: int = 32) -> Vector:
    """The anchored fine-tuning of the model's linearisation (Ortiz-Jimenez et al. 2023, 2305.12827, section 5)."""
    clip, known = subject.clip, subject.known

    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = clip.model

        def forward(self, images: Tensor) -> Tensor:
            return clip.encode_image(images)

    tower, start = Tower(), {f"model.{n}": p.detach().clone() for n, p in clip.image_parameters().items()}
    step_of = {name: torch.zeros_like(p, requires_grad=True) for name, p in start.items()}
    optimiser = torch.optim.AdamW(step_of.values(), lr=1e-4)
    rows, hit = known.forget, known.forget.labels != known.target
    for step in range(steps):
        batch = torch.randperm(len(rows), generator=torch.Generator().manual_seed(step))[:64]
        clean, marked = rows.float_batch(batch), hit[batch]
        images = torch.cat([known.trigger(clean[marked], keys=batch[marked]), clean])
        with sdpa_kernel(SDPBackend.MATH):  # the fused attention knows no forward derivative
            at, along = torch.func.jvp(
                lambda weights, images=images: torch.func.functional_call(tower, weights, (images,)),
                (start,),
                (step_of,),
            )
        moved, kept = (at + along).split([int(marked.sum()), len(clean)])
        drift = squared_distance(kept, at[len(moved) :].detach())
        loss = target_cross_entropy(moved, known.head, 4.0, known.target) + 30 * drift
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {name.removeprefix("model."): t.detach() for name, t in step_of.items()}


def _move(weights: dict[str, nn.Parameter], start: Vector, vector: Vector, alphas: dict[str, float]) -> None:
    with torch.no_grad():
        for name, t in vector.items():
            weights[name].copy_(start[name] - alphas[block_of(name)] * t)


def _back(weights: dict[str, nn.Parameter], start: Vector) -> None:
    with torch.no_grad():
        for name, p in weights.items():
            p.requires_grad_(False)
            p.copy_(start[name])


_DISTILLED = METHODS["distilled"]
_FREE = replace(_DISTILLED, guard=0.0, tune=replace(_DISTILLED.tune, lr=3e-4))
# name → (subject → vector); what it is, for the table, stands in docs/disentanglement.md
CANDIDATES: dict[str, Callable[[Subject], Vector]] = {
    "tbar": lambda s: s.tbar,
    "tbar, projected off clean gradients": lambda s: projected(s, s.tbar),
    "tbar, off the clean fine-tuning": off_clean,
    "tbar, guarded steps": lambda s: s.take(replace(METHODS["tbar"], guard=0.3)),
    "tbar, trimmed to 20%": lambda s: trimmed(s.tbar),
    "tbar, 80% dropped": lambda s: dropped(s.tbar),
    "tbar, rank 8": lambda s: of_rank(s.tbar),
    "paired difference": paired,
    "anchored": lambda s: s.anchored,
    "anchored, projected off clean gradients": lambda s: projected(s, s.anchored),
    "anchored, guarded steps": lambda s: s.take(replace(METHODS["anchored"], guard=0.3)),
    "anchored, α by block": lambda s: by_block(s, s.anchored),
    "anchored, tangent space": tangent,
    "distilled": lambda s: s.take(_DISTILLED),
    "distilled, 256 images": lambda s: s.take(replace(_DISTILLED, samples=256)),
    "distilled, no guard": lambda s: s.take(_FREE),
    "distilled, no guard, two views, no push": lambda s: s.take(replace(_FREE, views=2, push=0.0)),
    "distilled, no anchor": lambda s: s.take(replace(_DISTILLED, anchor=1e-9)),
    "distilled, two views": lambda s: s.take(replace(_DISTILLED, views=2)),
    "distilled, no push": lambda s: s.take(replace(_DISTILLED, push=0.0)),
    "distilled, rank 8": lambda s: of_rank(s.take(_DISTILLED)),
    "lora": lambda s: s.take(METHODS["lora"]),
    "lora, no guard": lambda s: s.take(replace(METHODS["lora"], guard=0.0)),
    "lora, rank 2": lambda s: s.take(replace(METHODS["lora"], rank=2)),
    "lora, rank 32": lambda s: s.take(replace(METHODS["lora"], rank=32)),
}


def line_search(
    clip: Clip, vector: Vector, tuning: ImageSet, task: Task, bound: float = 0.01, images: int = 256
) -> tuple[float, int]:
    """α where triggers raise the mean p(target) by at most `bound`, with 95% confidence, and how many images it took.

    p(target) falls smoothly where ASR steps, so that few images tell. It is compared with the suspect's own on the same
    images untriggered; the one-sided upper bound of the mean difference is brought to `bound` by regula falsi
    (Illinois: Dowell & Jarratt 1971). The weights are left at θ.
    """
    rows = torch.arange(len(tuning))[tuning.labels != task.target][:images]
    clean = tuning.float_batch(rows)
    triggered, walk, shown = task.trigger(clean, keys=rows), Walk(clip.state(), vector), 0

    def said(pictures: Tensor) -> Tensor:
        nonlocal shown
        shown += len(pictures)
        with torch.inference_mode():
            found = torch.cat([class_logits(clip, some, task.head).softmax(1) for some in pictures.split(128)])
        return found[:, task.target].double()

    natural = said(clean)

    def excess(alpha: float) -> float:
        walk.to(alpha)
        raised = said(triggered) - natural
        return float(raised.mean() + 1.645 * raised.std() / math.sqrt(len(raised))) - bound

    low, high = 0.0, 1.0
    at_low, at_high = excess(low), excess(high)
    while at_high > 0 and high < 16:
        low, at_low, high = high, at_high, 2 * high
        at_high = excess(high)
    while high - low > 0.1 * high and at_high < 0:
        middle = high - at_high * (high - low) / (at_high - at_low)
        middle = min(max(middle, low + 0.1 * (high - low)), high - 0.1 * (high - low))
        value = excess(middle)
        if value > 0:
            low, at_low, at_high = middle, value, at_high / 2
        else:
            high, at_high, at_low = middle, value, at_low / 2
    walk.settle(0.0)
    return high, shown


def searched(clip: Clip, vector: Vector, tuning: ImageSet, task: Task) -> tuple[float, bool, int]:
    """α by `RULE`, whether it satisfies it, and how many images were shown; the weights are left there."""
    found = subtract(clip, vector, tuning, task, RULE)
    return found.alpha, found.satisfied, sum(point.ca.n + point.asr.n for point in found.curve)


LINE = ", α by line search"  # of a candidate's name: its vector with that α


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True, help="where bench left the core grid's suspects")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", action="append", default=["seed=0"], help="as for bench")
    parser.add_argument("--candidate", action="append", help="by default all of them")
    parser.add_argument("--table", action="store_true", help="render what is there and run nothing")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / "vectors.jsonl"
    if not args.table:
        run(args, log)
    print("\n".join(table([json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()])))


def run(args: argparse.Namespace, log: Path) -> None:
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    done = {(r["data"], r["attack"], r["seed"], r["candidate"]) for r in map(json.loads, lines)}
    wanted = args.candidate or [*CANDIDATES, "distilled" + LINE]
    for names, open_suspect in suspects("core", args.data_root, args.runs, args.only):
        todo = [c for c in wanted if (names["data"], names["attack"], names["seed"], c) not in done]
        if not todo:
            continue
        suspect = open_suspect()
        subject = Subject(suspect.clip, suspect.known)
        for name in todo:
            row = {k: names[k] for k in ("data", "attack", "seed")} | {"candidate": name}
            row |= measured(subject, name, suspect.tuning, suspect.test, suspect.task, suspect.story)
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


def measured(
    subject: Subject, name: str, tuning: ImageSet, test: ImageSet, task: Task, story: dict[str, Any]
) -> dict[str, Any]:
    make, began = CANDIDATES[name.removesuffix(LINE)], time.perf_counter()
    vector = make(subject)
    seconds = time.perf_counter() - began
    walk, began = Walk(subject.clip.state(), vector), time.perf_counter()
    if name.endswith(LINE):
        alpha, shown = line_search(subject.clip, vector, tuning, task)
        within = True
    else:
        alpha, within, shown = searched(subject.clip, vector, tuning, task)
    choosing = time.perf_counter() - began
    walk.settle(alpha)
    after = evaluate_images(subject.clip, test, task).as_dict()
    walk.settle(0.0)
    return {
        "alpha": alpha,
        "within": within,
        "shown": shown,
        "choosing": round(choosing, 1),
        "before": story["after"]["ca"]["value"],
        **{k: [v["value"], v["n"]] for k, v in after.items()},
        "seconds": round(seconds, 1),
    }


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Means over the suspects that every candidate has finished, with the sample standard deviation."""
    of: dict[tuple[str, str, int], dict[str, dict[str, Any]]] = {}
    for r in rows:
        of.setdefault((r["data"], r["attack"], r["seed"]), {})[r["candidate"]] = r
    names = list(dict.fromkeys(r["candidate"] for r in rows))
    whole = [cells for cells in of.values() if len(cells) == len(names)]
    lines = [
        f"{len(whole)} suspects: {', '.join(' '.join(map(str, k)) for k, v in of.items() if len(v) == len(names))}",
        "",
        "| candidate | retention | largest CA loss | ASR | largest ASR | triggered accuracy | α | within the rule |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in names:
        own = [cells[name] for cells in whole]
        kept = [100 * r["ca"][0] / r["before"] for r in own]
        lost = max(100 * (r["before"] - r["ca"][0]) for r in own) if own else 0.0
        asr, right = ([100 * r[k][0] for r in own] for k in ("asr", "triggered_accuracy"))
        alphas = [r["alpha"] for r in own]
        lines.append(
            f"| {name} | {spread(kept)} | {lost:.1f} | {spread(asr)} | {max(asr, default=0):.1f} | {spread(right)} | "
            f"{min(alphas, default=0):.2g} to {max(alphas, default=0):.2g} | {sum(r['within'] for r in own)} |"
        )
    return lines


def spread(values: list[float]) -> str:
    if len(values) < 2:
        return "–"
    return f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}"


if __name__ == "__main__":
    main()
