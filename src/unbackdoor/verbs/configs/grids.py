"""What `bench` and `zoo` take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unbackdoor.runs.parameters import Parameters
from unbackdoor.runs.settings import setting
from unbackdoor.verbs.configs.scan import Judging

STAGES = ("make", "examine", "cure")


@dataclass(frozen=True)
class GridConfig:
    """Which cells are run, and by whom.

    Args:
        recipe: YAML; see `unbackdoor.bench.recipe` and `unbackdoor.bench.zoo.recipe`.
        engine: `local` processes or `ray`.
        workers: cells at once; 0 lets the engine decide.
        only: run a part, such as `data=gtsrb`, `seed=1,2` or `half=test`; a cell must pass all of them. Tables hold
            whatever is finished.
    """

    recipe: Path | str = setting("", argument=True)
    data_root: Path | str | None = setting(None, "Folder that stands for {data} in the recipe.")
    engine: str = setting("local", choices=("local", "ray"))
    workers: int = setting(0, "Cells at once; by default one per two cores.", low=0, high=1024, quiet=True)
    only: Sequence[str] = setting((), "Run a part: data=gtsrb, seed=1,2, …; repeatable.", metavar="KEY=VALUE")
    dry_run: bool = setting(False, "Run nothing; count the cells and tabulate what is there.")
    online: bool = setting(False, "Models and data of the recipe may lie on the network.")


@dataclass(frozen=True)
class ZooConfig(GridConfig, Judging):
    """Which members are made, examined and cured, and what they are judged under.

    Args:
        null: a file of `calibrate` or of another zoo, to judge the other halves under. None takes this zoo's own, or
            the one shipped for the architecture as long as no clean member of the first half is examined.
        stage: stop after `make`, `examine` or `cure`.
        false_alarm_rate: share of clean models that may be called backdoored.
    """

    null: Path | str | None = setting(None, "Judge under this one; by default the zoo's own.")
    stage: str = setting("cure", choices=STAGES)


BENCH = Parameters(
    GridConfig,
    needs=("recipe", "out"),
    takes=("device", "track"),
    changes={"out": {"help": "Folder of cells and tables."}},
)
ZOO = Parameters(
    ZooConfig,
    needs=("recipe", "out"),
    takes=("device", "track"),
    changes={
        "only": {"help": "Make, examine and cure a part: half=test, …; repeatable."},
        "dry_run": {"help": "Run nothing; tabulate what is there."},
        "out": {"help": "Folder of members and tables."},
    },
)
