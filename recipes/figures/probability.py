"""Fit the probability of a backdoor on the zoo's calibration half, and measure it on the test half.

    python recipes/figures/probability.py --data-root PATH

Reads docs/lab/cells/zoo.jsonl and runs no model. Prints the fit, which `scan/probability.py` holds, and cross entropy
and Brier score of the test half with 95% bootstrap intervals over models, each class weighing one half: 0.693 and
0.250 is what "one half" for every model would get.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import zoo
from torch import Tensor

from unbackdoor.bench.store import address
from unbackdoor.bench.zoo.recipe import classes_of, members, read_zoo
from unbackdoor.bench.zoo.verdicts import Verdict, judge_rows
from unbackdoor.clip.load import load
from unbackdoor.scan.detection import Origin, architecture
from unbackdoor.scan.examine import settings
from unbackdoor.scan.inverters import inverter_names
from unbackdoor.scan.probability import probability
from unbackdoor.weights.files import state_hash

DRAWS = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    args = parser.parse_args()
    calibration, test = judged(args.data_root)
    intercept, slope = fitted(*points(calibration))
    print(f"intercept {intercept:.4f}, slope {slope:.4f}")
    for name, verdicts in (("calibration", calibration), ("test", test)):
        scores, truth = points(verdicts)
        own = torch.tensor([probability(float(score)) for score in scores], dtype=torch.float64)
        entropy = torch.where(truth, -own.log(), -(1 - own).log())
        brier = (own - truth.double()) ** 2
        counts = f"{int(truth.sum())} backdoored and {int((~truth).sum())} clean"
        print(f"{name}, {counts}: cross entropy {spread(entropy, truth)}, Brier score {spread(brier, truth)}")


def judged(root: Path) -> tuple[list[Verdict], list[Verdict]]:
    """Both halves, each member under the null of the calibration half's clean ones."""
    plan, base = read_zoo(zoo.RECIPE, root), load("embedded")
    weights = state_hash(base.state())
    places = {address(m["config"]): i for i, m in enumerate(members(plan, weights, classes_of(plan)))}
    rows = [json.loads(line) for line in zoo.LINES.read_text(encoding="utf-8").splitlines()]
    if not all(row["address"] in places for row in rows):
        raise SystemExit(f"the recorded members do not lie under {root}: cells know their data by this folder's path")
    rows.sort(key=lambda row: places[row["address"]])
    identity = settings(plan.images, inverter_names(), weights)
    origin = Origin(plan.model, weights)
    _, halves = judge_rows(rows, list(plan.halves), architecture(base.state()), identity, 0.05, origin)
    return halves["calibration"], halves["test"]


def points(verdicts: list[Verdict]) -> tuple[Tensor, Tensor]:
    """Scores, and whether a model is backdoored; without those whose attack did not take."""
    known = [v for v in verdicts if v.truth is not None]
    return torch.tensor([v.score for v in known]).double(), torch.tensor([bool(v.truth) for v in known])


def fitted(scores: Tensor, truth: Tensor) -> tuple[float, float]:
    """Intercept and slope of a logistic regression on log(1 + score), by Platt's goals."""
    x = scores.clamp_min(0).log1p()
    goal = torch.where(truth, (truth.sum() + 1) / (truth.sum() + 2), 1 / ((~truth).sum() + 2)).double()
    weight = torch.where(truth, 0.5 / truth.sum(), 0.5 / (~truth).sum())
    line = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([line], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        each = torch.nn.functional.binary_cross_entropy_with_logits(line[0] + line[1] * x, goal, reduction="none")
        value = (weight * each).sum()
        value.backward()
        return value

    optimizer.step(loss)
    intercept, slope = line.detach().tolist()
    return intercept, slope


def spread(values: Tensor, truth: Tensor) -> str:
    """Mean of the two classes' means, with a 95% interval over models drawn with replacement within each class."""
    generator = torch.Generator().manual_seed(0)
    parts = [values[truth], values[~truth]]
    drawn = [part[torch.randint(len(part), (DRAWS, len(part)), generator=generator)].mean(1) for part in parts]
    low, high = ((drawn[0] + drawn[1]) / 2).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return f"{float(sum(part.mean() for part in parts)) / 2:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
