"""What `poison` and `craft` take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unbackdoor.runs.parameters import Parameters
from unbackdoor.runs.settings import setting

REGIMES = ("classes", "pairs")


@dataclass(frozen=True)
class PoisonSettings:
    """How the data are poisoned and learnt.

    Args:
        poison_rate: share of the training images or pairs, in (0, 1]; None is 0.03 of images and 0.003 of pairs. Of
            pairs, 0 trains on clean ones, for comparison.
        epochs, batch_size: of the fine-tuning.
        lr: peak learning rate; None picks 1e-5 for full-size towers, 1e-3 below 20 M parameters.
    """

    poison_rate: float | None = setting(
        None, "Share of images (default 0.03) or of pairs (default 0.003).", low=0, high=1
    )
    clean_label: bool = setting(False, "Trigger images of the target class alone; change no label.")
    epochs: int = setting(3, low=1)
    batch_size: int = setting(128, low=1)
    lr: float | None = setting(
        None, "Peak learning rate; chosen by the size of the image tower by default.", low=0, above=True
    )
    regime: str = setting(
        "classes",
        "Labelled images and the image tower, or caption pairs and both towers.",
        choices=REGIMES,
    )
    captions: str | Path | None = setting(None, "Pairs: JSON file with synonyms and descriptions of the classes.")


@dataclass(frozen=True)
class CraftConfig:
    """How a patch is crafted.

    Args:
        steps: optimiser steps; None takes the default of `BadClipConfig`.
    """

    steps: int | None = setting(None, "Optimiser steps.", low=1)


_SHARED = ("test", "test_limit", "checkpoint", "classes", "templates", "device", "seed")
POISON = Parameters(
    PoisonSettings, needs=("model", "data", "trigger", "target", "out"), takes=("limit", *_SHARED, "track")
)
CRAFT = Parameters(
    CraftConfig,
    needs=("model", "data", "target", "out"),
    takes=("trigger", "limit", *_SHARED, "track"),
    changes={"trigger": {"default": "badclip", "help": "badclip with its size and position."}},
)
