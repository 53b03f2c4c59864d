"""What `disentangle` and `locate` take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unbackdoor.runs.parameters import Parameters
from unbackdoor.runs.settings import setting

if TYPE_CHECKING:
    from unbackdoor.clip.handle import Clip
    from unbackdoor.weights.vector import Vector


@dataclass(frozen=True)
class DisentangleConfig:
    """Which plane is mapped, and how finely.

    Args:
        clean, triggered: τ_c and τ_t: a vector's safetensors file, or a model, whose image tower less θ_0's is taken.
        sharp: a cell of the coarse lattice whose corners' ξ differ by more is looked at more closely; 0 looks at all.
        alpha: draw a cure's path in, from (1, 1), where the suspect lies if it is θ_0 + τ_c + τ_t, down by this much.
    """

    clean: str | Path | Clip | Vector = setting("", "Clean vector: a vector's file, or a model less --model.")
    triggered: str | Path | Clip | Vector = setting("", "Trigger vector: a vector's file, or a model less --model.")
    low: float = setting(-3.0, "Smallest coefficient, both ways.")
    high: float = setting(3.0, "Largest coefficient.")
    points: int = setting(21, "Points a side.", low=2, high=501)
    sharp: float = setting(0.05, "Refine where ξ changes more; 0: all.", low=0)
    alpha: float | None = setting(None, "Draw a cure's path from (1, 1) down by this much.")


@dataclass(frozen=True)
class LocateConfig:
    """What is located.

    Args:
        alpha: how far blocks are subtracted; the path goes twice as far.
        others: further vectors' files, such as other triggers' or a clean task's; by block, too.
    """

    vector: Path | str = setting("", "Trigger vector, as vector writes it.")
    alpha: float = setting(1.0, "How far blocks are subtracted.")
    others: Sequence[Path | str] = setting((), "Compare with this vector, too.", flag="--other")


_SHARED = ("limit", "checkpoint", "classes", "templates", "device", "seed", "track")
DISENTANGLE = Parameters(
    DisentangleConfig,
    needs=("model", "clean", "triggered", "data", "trigger", "target", "out"),
    takes=_SHARED,
    changes={
        "limit": {"default": 256, "help": "Images, drawn by seed."},
        "out": {"help": "Folder for the map and its numbers."},
    },
)
LOCATE = Parameters(
    LocateConfig,
    needs=("model", "vector", "data", "trigger", "target", "out"),
    takes=_SHARED,
    changes={
        "limit": {"default": 512, "help": "Images, drawn by seed."},
        "out": {"help": "Folder for the numbers."},
    },
)
