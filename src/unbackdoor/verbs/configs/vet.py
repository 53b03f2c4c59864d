"""What `vet` takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unbackdoor.formats import FORMATS
from unbackdoor.runs.parameters import Parameters
from unbackdoor.runs.settings import setting
from unbackdoor.verbs.configs.scan import IMAGES, Examining

if TYPE_CHECKING:
    from unbackdoor.clip.handle import Clip
    from unbackdoor.vetting.policy import Policy


@dataclass(frozen=True)
class VetConfig(Examining):
    """Which models are vetted, against what, and what is written.

    Args:
        models: references, folders that hold models, globs, and `@FILE` with one of these on each line; a handle where
            it is the only one.
        policy: a YAML file, or a policy; None takes the default.
        null, origin, relatives, inverters: as for `scan`.
        formats: names of `unbackdoor.formats`; each writes a file into the output folder.
        engine: of several models: `local` processes, or `ray`.
        workers: models at once; 0 lets the engine decide.
    """

    models: Sequence[str | Clip] = setting((), argument=True, metavar="MODEL...")
    policy: Path | str | Policy | None = setting(None, "What a model has to satisfy, in YAML; see --show-policy.")
    null: Path | str | None = setting(None, "Clean models' scores, as for scan.")
    relatives: int | None = setting(None, "Clean relatives, as for scan.", low=0, high=9999, quiet=True)
    formats: Sequence[str] = setting(
        (), "Write this one, too; may be given several times.", choices=FORMATS.names(), flag="--format"
    )
    engine: str = setting("local", "Of several models.", choices=("local", "ray"))
    workers: int = setting(0, "Models at once; by default one per two cores.", low=0, high=1024, quiet=True)


VET = Parameters(
    VetConfig,
    needs=("models", "data"),
    takes=("test", "limit", "test_limit", "checkpoint", "classes", "templates", "device", "seed", "out", "track"),
    changes={
        "test": {"help": "Data source to measure a cure on; by default the test split of --data."},
        "limit": {"default": IMAGES, "help": "Images to scan with, drawn by seed.", "low": 8},
        "out": {"help": "Folder for the page, the result and the formats."},
    },
)
