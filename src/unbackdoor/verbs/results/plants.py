"""What `poison`, `craft`, `convert` and `push` return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unbackdoor.runs.result import RateTable, Result, optional


@dataclass(frozen=True, eq=False, kw_only=True)
class PlantResult(Result):
    """A model that `poison` planted a backdoor in.

    Args:
        regime: `pairs`, left out of the regime `classes`, as `test`, `trained_on` and `skipped` are.
        model: its folder.
        model_reference: of the clean one.
        poisoned: images or pairs.
        trained_on: pairs.
        skipped: pairs that could not be read.
        before, after: rates on the test images, of pairs as far as these have labels and captions.
    """

    verb: Literal["poison"] = "poison"
    regime: str | None = optional()
    model: str
    model_reference: str
    data: str
    test: str | None = optional()
    trigger: str
    target: str
    poison_rate: float
    clean_label: bool
    poisoned: int
    trained_on: int | None = optional()
    skipped: int | None = optional()
    seed: int
    before: RateTable
    after: RateTable
    seconds: float


@dataclass(frozen=True, eq=False, kw_only=True)
class CraftResult(Result):
    """A patch that `craft` optimized.

    Args:
        trigger: its whole spec.
        trigger_file: holds that.
        before, after: rates of the patch that crafting starts from, and of the crafted one, on the same model.
    """

    verb: Literal["craft"] = "craft"
    model_reference: str
    data: str
    test: str
    trigger: str
    target: str
    trigger_file: str
    steps: int | None
    seed: int
    before: RateTable
    after: RateTable
    seconds: float


@dataclass(frozen=True)
class FormDifferences:
    """Largest differences of unit embeddings between two forms of a model."""

    images: float
    texts: float


@dataclass(frozen=True, eq=False, kw_only=True)
class ConvertResult(Result):
    """A model that `convert` wrote in the other library's form.

    Args:
        model: its folder.
        to: `hf` or `open_clip`.
    """

    verb: Literal["convert"] = "convert"
    model: str
    model_reference: str
    to: str
    differences: FormDifferences
    seconds: float


@dataclass(frozen=True, eq=False, kw_only=True)
class PushResult(Result):
    """A model that `push` uploaded.

    Args:
        url: of the repository.
        public: everybody can see it.
        files: that were uploaded, the card among them.
    """

    verb: Literal["push"] = "push"
    repository: str
    url: str
    public: bool
    files: tuple[str, ...]
