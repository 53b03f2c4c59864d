"""The kinds of cells, each a function of its configuration alone: plant a backdoor, cure one and measure, and a zoo's.

A finished cell is read, not run; a killed one continues from its training checkpoint.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from unbackdoor.base.manifest import Manifest, reset_peak_memory, write_json
from unbackdoor.base.registry import Registry
from unbackdoor.bench.recipe import Json
from unbackdoor.bench.store import RESULT, address, folder_of, read_result

Cell = Callable[[Path, Json, Path, str, Manifest], Json]  # (out, config, folder, device, manifest) → result
CELLS: Registry[Cell] = Registry(
    "kind of cell",
    {
        "suspect": ("unbackdoor.bench.suspects:suspect_cell", "plant a backdoor"),
        "yardstick": (
            "unbackdoor.bench.suspects:yardstick_cell",
            "measure an attack's trigger on the same fine-tuning without poison",
        ),
        "cure": ("unbackdoor.bench.cures:cure_cell", "repair a suspect"),
        "member": ("unbackdoor.bench.zoo.cells:member_cell", "make a model of a zoo"),
        "examination": ("unbackdoor.bench.zoo.cells:examination_cell", "run the inverters on a member"),
        "recovery": ("unbackdoor.bench.zoo.cells:recovery_cell", "cure a member of what was found"),
    },
)


def run_cell(out: Path, config: Json, device: str = "auto", cell: Cell | None = None) -> Json:
    """Run a cell, or read its result when it is finished.

    Args:
        cell: in place of the one that is registered for its kind.

    Raises:
        InputError: anything in the configuration that cannot be used.
    """
    finished = read_result(out, config)
    if finished is not None:
        return finished
    folder = folder_of(out, config)
    (folder / ".work").mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    manifest = Manifest(config["kind"], config)
    reset_peak_memory()
    own = (cell or CELLS.get(config["kind"]))(out, config, folder, device, manifest)
    facts = manifest.as_dict()
    manifest.write(folder)
    result = {
        **own,
        "address": address(config),
        "wall_seconds": facts["seconds"],
        "peak_memory_mib": facts["peak_memory_mib"],
    }
    write_json(folder / RESULT, result)
    shutil.rmtree(folder / ".work", ignore_errors=True)
    return result
