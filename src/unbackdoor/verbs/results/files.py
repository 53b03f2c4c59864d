"""What the verbs of `weights` return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from unbackdoor.runs.result import Result, optional


@dataclass(frozen=True)
class TensorCounts:
    """Tensors that were computed, and those that were copied as they are."""

    moved: int
    copied: int


@dataclass(frozen=True, eq=False, kw_only=True)
class ArithmeticResult(Result):
    """A file of weights that `weights diff`, `apply`, `combine` or `convert` wrote."""

    verb: str
    out: str
    tensors: TensorCounts
    bytes: int
    seconds: float


@dataclass(frozen=True, eq=False, kw_only=True)
class AdapterResult(Result):
    """An adapter that `weights lora` wrote.

    Args:
        kept: share of the vector's squared norm.
        modules: that it changes.
        left_out: tensors that do not fit into one.
    """

    verb: Literal["weights lora"] = "weights lora"
    out: str
    rank: int
    kept: float
    modules: int
    left_out: int
    bytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Norms:
    """Of a block of weights A, or of all.

    Args:
        group: name of the block.
        broken: numbers that are NaN or infinite.
        other_norm: of B, where B is named, too; None where B holds such numbers.
        cosine: of A and B.
        apart: ‖A − B‖/‖B‖.
    """

    group: str | None = optional()
    tensors: int
    elements: int
    dtypes: tuple[str, ...]
    norm: float
    broken: int
    other_norm: float | None = optional(null=True)
    cosine: float | None = optional(null=True)
    apart: float | None = optional(null=True)


@dataclass(frozen=True, eq=False, kw_only=True)
class InspectResult(Result):
    """What `weights inspect` tells.

    Args:
        tied: the tensor behind each alias.
        left_out: tensors of no floating type.
        only_a, only_b: tensors that the other lacks.
    """

    verb: Literal["weights inspect"] = "weights inspect"
    a: str
    b: str | None
    bytes: int
    files: int
    metadata: dict[str, str]
    tied: dict[str, str]
    groups: tuple[Norms, ...]
    whole: Norms
    left_out: tuple[str, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON form; what compares A with B is there where there is a B."""
        form = super().as_dict()
        for row in (*form["groups"], form["whole"]) if self.b is None else ():
            for name in ("other_norm", "cosine", "apart"):
                del row[name]
        return form
