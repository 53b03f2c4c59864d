"""What `scan` takes, and `scan --calibrate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unbackdoor.runs.parameters import Parameters
from unbackdoor.runs.settings import setting

if TYPE_CHECKING:
    from unbackdoor.clip.handle import Clip
    from unbackdoor.scan.detection import Null

FALSE_ALARM_RATE = 0.05
IMAGES = 1024  # searched with and held out, see `scan.examine`


@dataclass(frozen=True)
class Judging:
    """Under what a model is called backdoored."""

    false_alarm_rate: float = setting(FALSE_ALARM_RATE, "Of clean models.", low=0, high=1, above=True, below=True)


@dataclass(frozen=True)
class Examining:
    """How a model is examined."""

    origin: str | Clip | None = setting(None, "A clean model that the suspect was made from; by default the null's.")
    inverters: Sequence[str] | None = setting(None, "Run this one; may be given several times.", flag="--inverter")


@dataclass(frozen=True)
class ScanConfig(Examining, Judging):
    """How a model is examined, and what it is compared with.

    Args:
        null: file of `calibrate`; None takes the one shipped for this architecture, if there is one.
        origin: a clean model that this one was made from, such as the public checkpoint before it was fine-tuned; None
            takes the null's. Classes that are cheap to reach by nature are told apart by it (`scan/twins.py`).
        false_alarm_rate: share of clean models that may be called backdoored.
        inverters: names; all by default, and those of the null where one is given.
        relatives: with an `origin`, where no null is named or on record, so many clean relatives of the suspect are
            made from it at most (`scan/own_null.py`); None makes as many as the false-alarm rate needs, 0 none.
        budget: minutes for everything, kept by searching less (`scan/cost.py`): inverters that are worth least are
            left out, for the suspect and its relatives alike, then relatives. None searches all.
        weighed: those that the p-value and the target rest on, where there is a null; all that run by default.
    """

    null: Path | str | Null | None = setting(None, "Clean models' scores, as --calibrate writes them.")
    relatives: int | None = setting(
        None,
        "Clean relatives to make from --origin at most, where no null is on record; 0: none.  [default: as many as the "
        "false-alarm rate needs, 19 for 5%]",
        low=0,
        high=9999,
        quiet=True,
    )
    budget: float | None = setting(
        None, "Minutes to keep to, by searching less.", low=0, above=True, high=1e6, quiet=True
    )
    weighed: Sequence[str] | None = None


@dataclass(frozen=True)
class CalibrateConfig(Examining):
    """Which clean models a null is made of.

    Args:
        models: references or handles of models known to be clean, all of one architecture.
        copies: besides each model, so many fine-tuned copies of it, for those who have one clean model only.
        origin: a clean model that these, and the suspects to come, were made from; see `scan`.
    """

    models: Sequence[str | Clip] = setting((), "Model reference; several with --calibrate.", flag="--model")
    copies: int = setting(0, "With --calibrate: fine-tuned copies of each.", low=0, high=9999, quiet=True)


_LIMIT = {"limit": {"default": IMAGES, "help": "Images to use, drawn by seed.", "low": 8}}
_SHARED = ("limit", "checkpoint", "classes", "templates", "device", "seed")
SCAN = Parameters(
    ScanConfig,
    needs=("model", "data"),
    takes=("out", *_SHARED, "track"),
    changes={**_LIMIT, "out": {"help": "Folder for the finding, the trigger and the report."}},
)
CALIBRATE = Parameters(CalibrateConfig, needs=("models", "data", "out"), takes=(*_SHARED, "track"), changes=_LIMIT)
