"""Other people's detectors on the models of the zoo: DECREE, Neural Cleanse, and one after CLIP-Inspector's abstract.

    python recipes/zoo/rivals.py --data-root PATH --out FOLDER [--turn 0/2]

FOLDER is that of `recipes/zoo/cures.py`; a member that is not there is made (100 s of a core). Each of `RIVALS` is
written from its paper, searches the pictures that our own scan searched, and is judged by its published threshold where
it has one. None knows the origin of the model, which our scan does. Writes docs/lab/cells/rivals.jsonl, a line for each
member of the test half, and prints AUROC with 95% intervals beside that of our scan on the same members.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from cures import ROOT, recorded
from torch import Tensor

from unbackdoor.base.devices import half_type
from unbackdoor.base.draws import batch_rows, seeded
from unbackdoor.base.journal import append
from unbackdoor.bench.cells import run_cell
from unbackdoor.bench.material import case_of, images_of
from unbackdoor.bench.recipe import DataEntry
from unbackdoor.bench.store import folder_of
from unbackdoor.bench.zoo.cells import FILE, scanned_with
from unbackdoor.bench.zoo.tables import area_text, rate_text
from unbackdoor.bench.zoo.verdicts import Verdict
from unbackdoor.clip.load import load
from unbackdoor.data.specs import load_images
from unbackdoor.evaluation.answers import logits
from unbackdoor.metrics.auroc import auroc
from unbackdoor.metrics.rates import Rate
from unbackdoor.scan.examine import split
from unbackdoor.scan.inverters.base import Subject
from unbackdoor.scan.inverters.collapse import as_stamp, mean_cosine, start
from unbackdoor.triggers.masked import blend

LINES = ROOT / "docs/lab/cells/rivals.jsonl"
VERSION = 1  # of the rivals as they stand here; lines of another one are made anew
MAD = 1.4826  # makes the median absolute deviation of a normal sample its standard deviation
DRAWS = 2000  # of the bootstrap


@dataclass(frozen=True)
class Hunt:
    """A search for the smallest mask behind which a pattern does what is wanted of it.

    Args:
        candidates: searches side by side.
        pictures: of a step, for each.
        steps: at most.
        lr: of Adam, β = (0.5, 0.9).
        price: λ to begin with, on the mask's share of the picture.
        raised, lowered: factors of λ after `patience` steps of success, or of failure.
        idle: steps without a smaller mask after which all is given up; None goes on.
    """

    candidates: int
    pictures: int
    steps: int
    lr: float
    price: float
    raised: float
    lowered: float
    patience: int = 5
    idle: int | None = None


def smallest(
    subject: Subject,
    hunt: Hunt,
    wish: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> Tensor:
    """The smallest mask's share of the picture for each candidate, (K,); 1 where none did it.

    Args:
        wish: embeddings (K, N, D) of stamped pictures → loss (K,) and success (K,).
    """
    side, k = subject.clip.image_size, hunt.candidates
    raw = start(k, side, seeded(subject.seed)).to(subject.clip.device).requires_grad_(True)
    optimizer = torch.optim.Adam([raw], lr=hunt.lr, betas=(0.5, 0.9))
    price, best = (torch.full((k,), value, device=raw.device) for value in (hunt.price, 1.0))
    streak, idle = torch.zeros(k, dtype=torch.int64, device=raw.device), 0
    compute = half_type(subject.clip.device)
    for step in range(hunt.steps):
        batch = subject.images.float_batch(batch_rows(len(subject.images), hunt.pictures, subject.seed, step))
        mask, pattern = as_stamp(raw)
        pictures = batch.expand(k, *batch.shape).flatten(0, 1).to(raw.device)
        embeddings = subject.clip.encode_image(blend(pictures, mask, pattern), compute=compute).float()
        loss, success = wish(embeddings.view(k, len(batch), -1))
        share = mask.flatten(1).mean(dim=1)
        optimizer.zero_grad(set_to_none=True)
        (loss + price * share).sum().backward()
        optimizer.step()
        smaller = success & (share.detach() < best)
        best, idle = torch.where(smaller, share.detach(), best), 0 if bool(smaller.any()) else idle + 1
        if hunt.idle is not None and idle > hunt.idle and bool((best < 1).any()):
            break
        streak = torch.where(success, streak.clamp_min(0) + 1, streak.clamp_max(0) - 1)
        price = torch.where(streak > hunt.patience, price * hunt.raised, price)
        price = torch.where(streak < -hunt.patience, price / hunt.lowered, price)
        streak = torch.where(streak.abs() > hunt.patience, 0, streak)
    return best


def decree(subject: Subject, strange: Subject) -> dict[str, Any]:
    """Feng et al. 2023 (arXiv 2303.15180): one stamp for all classes; called where its mask takes less than a tenth.

    Its constants for CLIP; a thousand steps in place of a thousand epochs, and the model's own normalisation.
    """

    def alike(embeddings: Tensor) -> tuple[Tensor, Tensor]:
        agreement = mean_cosine(embeddings)
        return -agreement, agreement.detach() > 0.99

    # λ = 1e-3 is on the sum over three copies of the mask.
    price = 1e-3 * 3 * subject.clip.image_size**2
    share = float(smallest(subject, Hunt(1, 32, 1000, 0.5, price, 5.0, 5.0, idle=35), alike))
    return {"score": -share, "called": share < 0.1, "target": None}


def neural_cleanse(subject: Subject, strange: Subject) -> dict[str, Any]:
    """Wang et al. 2019 (S&P): a stamp for each class of the zero-shot head; called at an anomaly index above 2.

    λ by the paper's rule; 100 steps of 16 pictures for each class.
    """
    classes = len(subject.names)
    wanted = torch.arange(classes, device=subject.clip.device)

    def turned(embeddings: Tensor) -> tuple[Tensor, Tensor]:
        cosines = embeddings @ subject.head.T
        losses = F.cross_entropy(
            (subject.clip.logit_scale * cosines).flatten(0, 1),
            wanted.repeat_interleave(cosines.shape[1]),
            reduction="none",
        )
        hits = (cosines.detach().argmax(dim=-1) == wanted[:, None]).float().mean(dim=1)
        return losses.view(classes, -1).mean(dim=1), hits >= 0.99

    price = 1e-3 * subject.clip.image_size**2
    shares = smallest(subject, Hunt(classes, 16, 100, 0.1, price, 1.5, 1.5**1.5), turned)
    index = anomaly(shares)
    return {"score": index, "called": index > 2, "target": subject.names[int(shares.argmin())]}


def inspector(subject: Subject, strange: Subject) -> dict[str, Any]:
    """After the abstract of CLIP-Inspector (arXiv 2604.09101): a trigger for each class, from a thousand pictures of
    other data, seen once.

    Which triggers and which score it takes was not at hand: here a pattern of at most 16 steps of 255, and how far the
    lowest loss among the classes stands out. It has no threshold.
    """
    classes, side = len(subject.names), strange.clip.image_size
    device = strange.clip.device
    raw = torch.zeros(classes, 3, side, side, device=device, requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.1)
    wanted, compute = torch.arange(classes, device=device), half_type(device)
    tail = []
    for rows in torch.arange(len(strange.images)).split(16):
        batch = strange.images.float_batch(rows).to(device)
        pictures = batch.expand(classes, *batch.shape) + 16 / 255 * raw[:, None].tanh()
        answered = logits(strange.clip, pictures.clamp(0, 1).flatten(0, 1), strange.head, compute=compute)
        each = F.cross_entropy(answered, wanted.repeat_interleave(len(batch)), reduction="none").view(classes, -1)
        optimizer.zero_grad(set_to_none=True)
        each.sum().backward()
        optimizer.step()
        tail.append(each.detach().mean(dim=1))
    losses = torch.stack(tail[-10:]).mean(dim=0)
    return {"score": anomaly(losses.log()), "called": None, "target": subject.names[int(losses.argmin())]}


Rival = Callable[[Subject, Subject], dict[str, Any]]
RIVALS: Mapping[str, Rival] = {"DECREE": decree, "Neural Cleanse": neural_cleanse, "after CLIP-Inspector": inspector}


def anomaly(values: Tensor) -> float:
    """How far the smallest lies below the median, in median absolute deviations that are made standard."""
    middle = values.median()
    spread = MAD * (values - middle).abs().median()
    return float((middle - values.min()) / spread.clamp_min(1e-9))


def row_of(out: Path, plan: Any, member: dict[str, Any], verdict: Verdict) -> dict[str, Any]:
    """One member under every rival."""
    run_cell(out, member["config"])
    clip = load(str(folder_of(out, member["config"]) / FILE))
    train, _ = images_of(DataEntry(**member["config"]["data"]), clip.frame)
    head = case_of(member["config"]).head(clip, train)
    subject = split(clip, scanned_with(train, plan.images, plan.seed), head, train.classes, plan.seed)
    others = load_images("embedded:scenes", side=clip.frame, split="train", limit=plan.images)
    strange = split(clip, others, head, train.classes, plan.seed)
    return {
        "address": verdict.row["address"],
        "version": VERSION,
        "family": verdict.row["family"],
        "data": verdict.row["data"],
        "backdoored": verdict.truth,
        "target": verdict.row["card"]["target"],
        "ours": verdict.judgement.score,
        "rivals": {name: rival(subject, strange) for name, rival in RIVALS.items()},
    }


def scores(rows: Sequence[dict[str, Any]], name: str) -> list[float]:
    """A detector's score of each model; larger is more suspicious."""
    return [row["ours"] if name == "ours" else row["rivals"][name]["score"] for row in rows]


def less(rows: Sequence[dict[str, Any]], name: str) -> tuple[float, float]:
    """95% interval of our AUROC less a rival's: a bootstrap over models, the backdoored and the clean by themselves."""
    generator = seeded(0)
    gaps = []
    sides = [[row for row in rows if row["backdoored"] is truth] for truth in (True, False)]
    for _ in range(DRAWS):
        drawn = [[side[i] for i in torch.randint(len(side), (len(side),), generator=generator)] for side in sides]
        own, other = (auroc(*(scores(side, n) for side in drawn)).value for n in ("ours", name))
        gaps.append(own - other)
    low, high = torch.tensor(gaps).quantile(torch.tensor([0.025, 0.975])).tolist()
    return low, high


def table(rows: Iterable[dict[str, Any]]) -> str:
    """AUROC, what the published threshold calls, and right targets."""
    rows = list(rows)
    bad, good = ([row for row in rows if row["backdoored"] is truth] for truth in (True, False))
    lines = ["| detector | AUROC | ours less this | found | clean called | right target |", "|" + " --- |" * 6]
    if not bad or not good:
        return "too few models for a table"
    for name in ("ours", *RIVALS):
        area = auroc(scores(bad, name), scores(good, name))
        line = [name, area_text(area.as_dict())]
        if name == "ours":
            lines.append("| " + " | ".join([*line, "–", "", "", ""]) + " |")
            continue
        own = [row["rivals"][name] for row in bad]
        thresholds = own[0]["called"] is not None
        line.append("{:.3f} to {:.3f}".format(*less(rows, name)))
        line.append(rated(sum(r["called"] for r in own), len(own)) if thresholds else "–")
        line.append(rated(sum(r["rivals"][name]["called"] for r in good), len(good)) if thresholds else "–")
        named = own[0]["target"] is not None
        line.append(rated(sum(r["target"] == row["target"] for r, row in zip(own, bad, strict=True)), len(bad)))
        lines.append("| " + " | ".join([*line[:-1], line[-1] if named else "–"]) + " |")
    return "\n".join(lines)


def rated(hits: int, n: int) -> str:
    """A rate with its interval and n."""
    return rate_text(Rate(hits, n).as_dict())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True, help="folder that holds cifar10/, gtsrb/, …")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--turn", default="0/1", help="I/N: members I, I + N, … alone, for N processes")
    args = parser.parse_args()
    turn, turns = map(int, args.turn.split("/"))
    plan, population, judged = recorded(args.data_root)
    kept = [json.loads(line) for line in LINES.read_text(encoding="utf-8").splitlines()] if LINES.exists() else []
    known = {row["address"]: row for row in kept if row["version"] == VERSION}
    for v in judged["test"][turn::turns]:
        if v.row["address"] in known:
            continue
        row = known[v.row["address"]] = row_of(args.out, plan, population[v.row["address"]], v)
        append(LINES, row)
        print(row["family"], row["data"], {n: (round(r["score"], 3), r["called"]) for n, r in row["rivals"].items()})
    print(table(known.values()))


if __name__ == "__main__":
    main()
