"""What `disentangle` and `locate` return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from unbackdoor.runs.result import Rates, Result, Share, optional
from unbackdoor.verbs.results.cures import CurvePoint


@dataclass(frozen=True)
class BoxError:
    """Mean ξ over the unit box, and its 95% interval over n images."""

    value: float
    interval: tuple[float, float]
    n: int


@dataclass(frozen=True)
class PointError:
    """ξ at one point: the sum of the shares of clean and of triggered images whose answers change."""

    value: float
    interval: tuple[float, float]
    clean: Share
    triggered: Share


@dataclass(frozen=True)
class PlanePoint:
    """What was measured at one point of the plane."""

    xi: PointError
    ca: Share
    asr: Share


@dataclass(frozen=True)
class SurfacePoint:
    """A point of the plane with its coordinates."""

    alpha_clean: float
    alpha_trigger: float
    xi: PointError
    ca: Share
    asr: Share


@dataclass(frozen=True, eq=False, kw_only=True)
class MapResult(Result):
    """A map of ξ that `disentangle` made.

    Args:
        clean, triggered: the vectors, as they were named.
        low, high, points, sharp: of the lattice.
        box: mean ξ over [0, 1]².
        looked_at: points.
        cosine: of the two vectors.
        norms: of the two vectors.
        at: the corners of the unit box, by `α_c,α_t`.
        map: picture's file.
        surface: every point, in `surface.json` alone.
    """

    file: ClassVar[str] = "surface.json"
    verb: Literal["disentangle"] = "disentangle"
    model: str
    clean: str
    triggered: str
    data: str
    images: int
    trigger: str
    target: str
    low: float
    high: float
    points: int
    sharp: float
    templates: str | None
    seed: int
    box: BoxError
    looked_at: int
    cosine: float | None
    norms: dict[str, float]
    at: dict[str, PlanePoint]
    map: str
    seconds: float
    surface: tuple[SurfacePoint, ...] | None = optional()


@dataclass(frozen=True)
class Rank:
    """Effective and full rank of a matrix."""

    effective: float
    full: int


@dataclass(frozen=True)
class Block:
    """A block of a vector.

    Args:
        share: of the vector's squared norm.
        elements: numbers that it holds.
        alone: rates when it alone is subtracted.
        without: rates when all but it is.
        ranks: of its matrices.
    """

    block: str
    share: float
    elements: int
    alone: Rates
    without: Rates
    ranks: dict[str, Rank]


@dataclass(frozen=True)
class Cosines:
    """Cosine with another vector, of the whole and by block; None where one of the two is 0."""

    whole: float | None
    blocks: dict[str, float | None]


@dataclass(frozen=True, eq=False, kw_only=True)
class LocateResult(Result):
    """Where `locate` found a vector to sit.

    Args:
        vector, others: files.
        norm: of the vector.
        path: rates along θ − α·τ.
        cosines: with the others, by file.
        picture: of the path.
        location: the file that holds all this.
    """

    file: ClassVar[str] = "location.json"
    verb: Literal["locate"] = "locate"
    model: str
    vector: str
    others: tuple[str, ...]
    data: str
    images: int
    trigger: str
    target: str
    alpha: float
    templates: str | None
    seed: int
    norm: float
    blocks: tuple[Block, ...]
    path: tuple[CurvePoint, ...]
    cosines: dict[str, Cosines]
    picture: str
    seconds: float
    location: str | None = optional()
