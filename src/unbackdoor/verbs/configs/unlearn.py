"""What `unlearn` takes, of an attack that is known and of one that a scan found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unbackdoor.base.errors import InputError
from unbackdoor.runs.parameters import Parameters
from unbackdoor.runs.settings import again, setting
from unbackdoor.unlearning.alpha import BLIND, AlphaConfig
from unbackdoor.verbs.configs.vector import VectorSettings

if TYPE_CHECKING:
    from unbackdoor.clip.handle import Clip

KNOWN = AlphaConfig()


def checked_alpha(text: str) -> str:
    """The text, which is noted as it was written.

    Raises:
        InputError: it is neither `auto` nor a finite number.
    """
    try:
        sound = text == "auto" or math.isfinite(float(text))
    except ValueError:
        sound = False
    if not sound:
        raise InputError(f"--alpha {text!r} is neither auto nor a number")
    return text


@dataclass(frozen=True)
class CureSettings(VectorSettings):
    """How the vector is taken, and how many images choose α."""

    validation: int | None = setting(
        None,
        "Labelled images for choosing α, unlabelled with --scan; 0: the triggered ones, unlabelled.  [default: 0 lora "
        "and distilled, 512 otherwise and with --scan]",
        low=0,
    )


@dataclass(frozen=True)
class UnlearnConfig(CureSettings):
    """How a known attack is cured.

    Args:
        alpha_config: the search's settings and rule; those that the command line offers may be named by themselves.
        validation: images with labels for choosing α, 0 to choose it on views of the forget set.
    """

    vector: Path | str | None = setting(None, "Vector file; taken now when not given.")
    alpha: str | float = setting("auto", "auto, or the coefficient to subtract with.", parse=checked_alpha)
    alpha_config: AlphaConfig = KNOWN


@dataclass(frozen=True)
class UnlearnScanConfig(CureSettings):
    """How an attack that a scan found is cured.

    Args:
        finding: `finding.json` of `scan` (or its folder), or what `scan` returned.
        rounds: at most so many cures; a round follows while something is left.
        null, origin: as for `scan`, for the scans after each round; the finding's own origin by default.
        alpha_config: without its reserve where the finding says that the model is clean.
        samples, validation: None takes `FORGET` and `TUNING` of `unbackdoor.unlearning.unknown`.
    """

    method: str = again(VectorSettings, "method", "distilled")
    finding: Path | str | dict[str, Any] = setting("", "Cure what this finding of scan tells.", flag="--scan")
    rounds: int = setting(3, "With --scan: cures at most.", low=1)
    null: Path | str | None = setting(None, "With --scan: clean models' scores, as for scan.")
    origin: str | Clip | None = setting(None, "With --scan: a clean model that the suspect was made from, as for scan.")
    force: bool = setting(False, "With --scan: cure although the finding is not a clear one.")
    alpha_config: AlphaConfig = BLIND


_SHARED = ("test", "test_limit", "checkpoint", "classes", "templates", "device", "seed")
UNLEARN = Parameters(
    UnlearnConfig,
    needs=("model", "data", "trigger", "target", "out"),
    takes=(*_SHARED, "track", "verb", "extra"),
    changes={
        "model": {"help": "Model reference; with --scan, the scanned one unless given."},
        "trigger": {"help": "Trigger spec, such as badnets:size=16; @FILE reads one."},
    },
)
UNLEARN_SCAN = Parameters(UnlearnScanConfig, needs=("finding", "data", "out"), takes=("model", *_SHARED, "track"))
