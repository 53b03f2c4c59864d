"""Every kind of file that a stranger may hand over, and the reader of ours that it goes to."""

from __future__ import annotations

from tests.fuzz.engine import Target
from tests.fuzz.targets import data, models, runs, tokenizers, weights

TARGETS: tuple[Target, ...] = (
    *models.TARGETS, *tokenizers.TARGETS, *weights.TARGETS, *runs.TARGETS, *data.TARGETS,
)  # fmt: skip
