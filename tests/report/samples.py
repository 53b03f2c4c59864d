"""Results as `unlearn` and `scan` hand them to the page, small and with names of strangers."""

from __future__ import annotations

from typing import Any

import torch

from unbackdoor.metrics.rates import Rate
from unbackdoor.report import Example, Map
from unbackdoor.report.scan import Look

# Whatever ends an element, an attribute, a script or a comment, and what a template or Vega might take for its own.
HOSTILE = "</script><!--<script>alert('x')</script>\"{{7*7}}'&amp;=data:\u202e\ud800"


def share(hits: int, n: int = 512) -> dict[str, Any]:
    return Rate(hits, n).as_dict()


def rates(ca: float, asr: float) -> dict[str, Any]:
    shares = {name: share(round(1000 * v), 1000) for name, v in (("ca", ca), ("asr", asr), ("triggered_accuracy", 0.5))}
    return {
        **{name: row["value"] for name, row in shares.items()},
        "n": {name: row["n"] for name, row in shares.items()},
        "interval": {name: row["interval"] for name, row in shares.items()},
    }


def curve() -> list[dict[str, Any]]:
    points = ((0.0, 509, 497, 3), (0.25, 503, 205, 251), (0.5, 491, 1, 466), (1.125, 400, 0, 399))
    return [
        {"alpha": a, "ca": share(ca), "asr": share(asr), "triggered_accuracy": share(back)}
        for a, ca, asr, back in points
    ]


def class_line(name: str, n: int, moved: int, after: int = 0) -> dict[str, Any]:
    before = {"correct": n, "triggered_correct": n - moved, "moved": moved}
    return {"name": name, "n": n, "before": before, "after": {**before, "triggered_correct": n, "moved": after}}


CLASSES = [
    class_line("b second", 10, 3),
    class_line("three", 8, 8),
    class_line("a first", 20, 19, after=1),
    class_line(HOSTILE, 5, 5),
]


def result(**changes: Any) -> dict[str, Any]:
    base = {
        "verb": "unlearn", "model": "out/model", "data": "embedded:digits", "trigger": "badnets:size=6",
        "target": "three", "alpha": 0.5, "rule": "the rule", "message": None, "retention": 0.98,
        "tolerance": 0.01, "ca_floor": 0.85, "before": rates(0.9, 0.97), "after": rates(0.88, 0.005),
        "by_class": CLASSES, "curve": curve(), "vector": {"samples": 256},
    }  # fmt: skip
    return {**base, **changes}


def pictures(side: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    clean = torch.zeros(3, side, side, dtype=torch.uint8)
    triggered = clean.clone()
    triggered[:, -2:, -3:] = 20
    return clean, triggered


def example(truth: str = HOSTILE) -> Example:
    along = ((truth, "three"), (truth, "three"), (truth, truth), ("b second", truth))
    return Example(*pictures(), truth, truth, truth, "three", truth, along)


MAP = Map(
    points=((0.0, 0.0, 0, HOSTILE), (1.0, 0.5, 1, "a first"), (0.2, 0.1, 2, "a first")),
    states=("clean, suspect", "triggered, suspect", "triggered, cured"),
    share=0.4,
    cosines={"suspect": 0.25, "cured model": 0.99},
    n=1,
)
MANIFEST = {"config": {"model": HOSTILE, "tune": {"lr": 1e-4}}, "hashes": {"weights": "ab"}, "seconds": 3.2}
SCORES = [0.5, 0.51, 1.25, -0.125, 0.0, 2.0, 0.25]


def finding(**changes: Any) -> dict[str, Any]:
    line = {"target": HOSTILE, "statistic": 1.5, "norm": 0.25, "strength": share(30, 32), "excess": 2.5}
    base = {
        "verb": "scan", "model_reference": HOSTILE, "backdoored": True, "p_value": 0.25, "probability": 0.9,
        "false_alarm_rate": 0.3, "clean_models": len(SCORES), "score": 1.75, "clean_scores": SCORES,
        "compared_with": "shipped", "message": "a clean model would look like this in at most 25.0% of cases",
        "target": {"name": HOSTILE, "confidence": 0.75, "nearest_texts": [{"text": HOSTILE, "cosine": 0.5}]},
        "twin_agreement": None, "trigger": {"spec": "badnets:size=6", "inverter": "patch", "norm": 0.25},
        "others": [], "inverters": [{"name": "patch", **line}, {"name": "color", **line, "excess": None}],
        "origin": None, "data": "embedded:digits", "images": 64, "seed": 0, "seconds": 3.0,
    }  # fmt: skip
    return {**base, **changes}


LOOKS = [Look(*pictures()), Look(*pictures())]
