"""From a score to the probability of a backdoor, where one model in two has one.

Platt's scaling (Platt 1999, "Probabilistic outputs for support vector machines", with his smoothed goals) of log(1 +
score), fitted on the calibration half of the zoo, both classes weighing alike (`recipes/figures/probability.py`;
docs/scan.md tells how far it was off on the test half). The score is in steps of the null's own spread.
"""

from __future__ import annotations

import math

INTERCEPT, SLOPE = -5.0, 3.0965


def probability(score: float) -> float:
    """The probability, between 0.007 and 1, of a score as `judgement.judge` gives it; what lies below 0 counts as 0.

    Whoever thinks that one model in k is backdoored divides the odds p / (1 − p) by k − 1.
    """
    return 1 / (1 + math.exp(-(INTERCEPT + SLOPE * math.log1p(max(0.0, score)))))
