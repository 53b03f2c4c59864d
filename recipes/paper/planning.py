"""What is asked for, and what is to be run for it: the model to start from, the data, and the cells of both grids."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from places import AbsentError, fill, locate, specs_of
from subset import draw_subset
from unbackdoor.base.errors import InputError
from unbackdoor.base.manifest import write_json
from unbackdoor.base.untrusted import read_json, read_yaml
from unbackdoor.bench.grid import narrow, plan
from unbackdoor.bench.recipe import Grid, Json, read_recipe
from unbackdoor.clip import published
from unbackdoor.clip.load import load

PARTS = ("single-task", "image-text", "unknown")
LARGE, PAIRS = "imagenet-1k", "cc3m"  # of the first a share is drawn, of the second where it lies on the Hub
Cells = list[tuple[Json, list[Json]]]


@dataclass(frozen=True)
class Order:
    """What the user asks for; the fields are the options."""

    model: str
    out: Path
    data_root: Path | None
    data: list[str]
    part: list[str]
    only: list[str]
    checkpoint: Path | None
    recipes: Path
    images: int
    workers: int
    device: str
    tflops: float
    online: bool
    dry_run: bool


@dataclass(frozen=True)
class Part:
    """A part's recipe, filled in and planned.

    Args:
        chosen: the cells that `--only` lets through.
    """

    name: str
    recipe: Path
    grid: Grid
    cells: Cells
    chosen: Cells


def start_model(order: Order) -> Path:
    """The model as every part starts from it: opened once, and kept in the output folder.

    Raises:
        InputError: it cannot be opened, lies on the network without `--online`, or the folder holds another one's run.
    """
    folder, card = order.out / "start", order.out / "start.json"
    wanted = {"model": order.model, "checkpoint": None if order.checkpoint is None else str(order.checkpoint)}
    if card.exists():
        if read_json(card) != wanted:
            raise InputError(f"{order.out} holds a run of another model ({card} tells which); name another --out")
        return folder.resolve()
    architecture = published.parse(order.model)
    remote = order.model.startswith("hf-hub:") or (architecture is not None and bool(architecture[1]))
    if remote and order.checkpoint is None and not order.online:
        raise InputError(f"{order.model}: is fetched; give --online, or its file with --checkpoint FILE")
    load(order.model, checkpoint=order.checkpoint, device="cpu").save(folder)
    write_json(card, wanted)
    return folder.resolve()


def planned(order: Order, model: Path, weights: str) -> list[Part]:
    """The recipes of both grids, filled in for what data there are, as far as they can be.

    Raises:
        InputError: data on the network without `--online`, a recipe that cannot be used, or nothing to run.
    """
    specs = specs_of(order.data)
    models = {model_name(order.model): str(model)}
    parts, refused, absent = [], [], list[str]()
    for name in PARTS[:2]:
        if name not in order.part and order.part != ["unknown"]:
            continue
        recipe = order.out / f"{name}.yaml"
        spec_of = partial(spec_for, order=order, specs=specs)
        try:
            absent += fill(order.recipes / f"{name}.yaml", recipe, models, spec_of)
        except AbsentError as error:
            refused.append(f"{name}: {error}")
            continue
        grid = read_recipe(recipe, online=order.online)
        cells = plan(grid, dict.fromkeys(grid.models, weights))
        try:
            parts.append(Part(name, recipe, grid, cells, narrow(cells, order.only)))
        except InputError as error:  # what one grid has not got, the other may have
            refused.append(f"{name}: {error}")
    for line in dict.fromkeys((*absent, *(refused if parts else ()))):
        print(line, file=sys.stderr)
    if not parts:
        raise InputError("nothing to run; " + "; ".join(refused))
    return parts


def model_name(reference: str) -> str:
    """What tables call a model: its reference, of a folder the last part, in letters that a file's name may have."""
    place = Path(reference.rpartition(":")[2])
    return re.sub(r"[^\w.-]+", "-", place.name if place.is_absolute() else reference).strip("-.") or "model"


def spec_for(name: str, order: Order, specs: dict[str, str]) -> str:
    """Where a data set lies; of what cannot be used as it is, a share that is drawn into the output folder first.

    Raises:
        InputError: it is nowhere, or on the network without `--online`.
    """
    spec = locate(name, specs, order.data_root)
    remote = spec.startswith("hf:")
    if remote and not order.online:
        raise InputError(f"{spec}: lies on the network; give --online")
    folder = (order.out / "data" / name).resolve()
    if name == LARGE:
        return draw_subset(spec, folder, order.images)
    if name == PAIRS and remote:  # the Hub's library reads images; files of pairs are streamed
        entry = read_yaml(order.recipes / "image-text.yaml")["data"][name]
        return draw_subset(spec, folder, entry["attacker"] + entry["defender"])
    return spec
