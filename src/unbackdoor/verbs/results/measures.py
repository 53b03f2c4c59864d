"""What `evaluate`, `info` and `scan --calibrate` return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from unbackdoor.runs.result import Recalls, Result, Share, optional


@dataclass(frozen=True)
class Precision:
    """How a model was asked.

    Args:
        type: in use at the end.
        views_in_half: answered in the half type first.
        answered_twice: of these.
        farthest_move: of a cosine difference between the types.
    """

    type: str
    views_in_half: int
    answered_twice: int
    farthest_move: float


@dataclass(frozen=True, eq=False, kw_only=True)
class EvaluateResult(Result):
    """What `evaluate` measured.

    Args:
        model: its reference.
        data: its spec.
        trigger: its spec.
        target: name of the class.
        counting: how ASR was counted.
        ca: clean accuracy, where the data has labels and class names.
        asr: with a trigger.
        triggered_accuracy: with a trigger.
        precision: how it was answered.
        retrieval: R@1/5/10 both ways, where it was asked for.
        skipped: images that could not be read.
        hashes: of `weights` and `data`.
        seconds: wall time.
    """

    verb: Literal["evaluate"] = "evaluate"
    model: str
    data: str
    trigger: str | None
    target: str | None
    counting: str
    ca: Share | None = optional()
    asr: Share | None = optional()
    triggered_accuracy: Share | None = optional()
    precision: Precision | None = optional()
    retrieval: Recalls | None = optional()
    skipped: int
    hashes: dict[str, str]
    seconds: float


@dataclass(frozen=True, eq=False, kw_only=True)
class ModelInfo(Result):
    """What `info --model` tells.

    Args:
        parameters: of `image` tower, of `text` tower with what both share, and `total`.
        dtype: in memory.
        stored_types: in the file.
    """

    verb: Literal["info"] = "info"
    model: str
    kind: str
    reference: str
    architecture: str | None
    parameters: dict[str, int]
    image_size: int
    embed_dim: int
    dtype: str
    stored_types: tuple[str, ...]
    logit_scale: float
    norm_layers: tuple[str, ...]
    weights_hash: str


@dataclass(frozen=True, eq=False, kw_only=True)
class DataInfo(Result):
    """What `info --data` tells.

    Args:
        splits: images of each.
        split: the one that evaluation reads, of which the rest tells.
        counts: images by class.
        captions: whether there are any.
    """

    verb: Literal["info"] = "info"
    data: str
    spec: str
    splits: dict[str, int]
    split: str
    classes: tuple[str, ...]
    counts: dict[str, int]
    unlabelled: int
    captions: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class TriggerInfo(Result):
    """What `info --trigger` tells.

    Args:
        trigger: its whole spec.
        parameters: its settings, those that were not given, too.
    """

    verb: Literal["info"] = "info"
    trigger: str
    name: str
    about: str
    parameters: dict[str, Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class NullResult(Result):
    """A null that `scan --calibrate` made.

    Args:
        null: its file.
        clean_models: that it holds.
        smallest_p_value: that a scan can give under it.
    """

    verb: Literal["calibrate"] = "calibrate"
    null: str
    clean_models: int
    smallest_p_value: float
    inverters: tuple[str, ...]
    seed: int
    seconds: float
