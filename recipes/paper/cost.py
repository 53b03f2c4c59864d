"""What a grid will take, computed from the model's own operations and sizes before anything is run; nothing is timed.

Operations are counted by PyTorch on one picture and one caption. Seconds are operations over a rate: that of
docs/lab/performance.md for two cores of a CPU, and for a GPU, on which nothing of this was measured, an assumed one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from streamed import LABELED
from unbackdoor.bench.recipe import DataEntry, Json
from unbackdoor.clip.handle import Clip

# 256 float32 forwards of ViT-B/32, of 8.8 GFLOP each, in 10.89 s on two cores (docs/lab/performance.md).
CPU_TFLOPS = 0.21
# Assumed: a fifth of what an A100's data sheet says for bfloat16 (312).
GPU_TFLOPS = 60.0
CAPTION = "a man in a red shirt is walking his dog on the beach at sunset"
TRAINING = 3  # forward, and twice as much backward
LOOKS = 10  # values of α that a search measures, about
TEST_IMAGES = {"sun397": 19_850, "cifar100": 10_000, "imagenet-1k": 50_000}  # where no limit says how many
COPIES = 5  # of the weights in float32, in training: themselves, gradients, two moments, and the start
GIB = 2**30


@dataclass(frozen=True)
class ModelCost:
    """What one picture or caption asks of a model.

    Args:
        image, text: operations of a forward.
        weights: bytes in float32.
        kept: bytes that a picture's forward keeps for the backward, in float32; captions are left out.
        side: of its pictures, in pixels.
    """

    image: float
    text: float
    weights: int
    kept: int
    side: int


@dataclass(frozen=True)
class GridCost:
    """What is left of a grid.

    Args:
        cells: not finished yet.
        operations: in all of them.
        ram: bytes of decoded pictures, at the most.
        device: bytes on the device, at the most.
        disk: bytes of suspects, which stay, or of a cure, which does not.
    """

    cells: int
    operations: float
    ram: float
    device: float
    disk: float


def model_cost(clip: Clip) -> ModelCost:
    """Counted on one picture and one caption."""
    own = {p.untyped_storage().data_ptr() for p in clip.model.parameters()}
    kept: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    picture = torch.zeros(1, 3, clip.image_size, clip.image_size, device=clip.device)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        image = _operations(lambda: clip.encode_image(picture))
    text = _operations(lambda: clip.encode_text([CAPTION], grad=True))
    weights = sum(4 * t.numel() for t in clip.state().values())
    return ModelCost(image, text, weights, sum(kept.values()), clip.image_size)


def _operations(forward: Any) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        forward()
    return float(counter.get_total_flops())


def grid_cost(cells: Iterable[Json], model: ModelCost, workers: int = 1) -> GridCost:
    """Of these cells' configurations, as `bench.grid.plan` makes them; each worker holds pictures and a model."""
    operations, ram, device, disk, count = 0.0, 0.0, 0.0, 0.0, 0
    for cell in cells:
        count += 1
        yardstick = cell["kind"] == "yardstick"
        entry = DataEntry(**(cell["suspect"] if yardstick else cell)["data"])
        if yardstick:  # clean and triggered test images, once
            operations += 2 * _tests(entry) * model.image
            continue
        settings: Json = cell["poison"] if cell["kind"] == "suspect" else cell["defence"]
        tune = settings.get("tune") or {"batch_size": 0, "towers": "image"}
        operations += _suspect(cell, entry, model) if cell["kind"] == "suspect" else _cure(cell, entry, model)
        ram = max(ram, _pictures(entry) * 3 * model.side**2)
        # Half types keep half as much; captions keep as their operations are to a picture's.
        kept = tune["batch_size"] * model.kept / 2 * (1 + (tune["towers"] == "both") * model.text / model.image)
        device = max(device, COPIES * model.weights + kept)
        disk += model.weights if cell["kind"] == "suspect" else 0
    return GridCost(count, operations, workers * ram, workers * device, disk)


def _tests(entry: DataEntry) -> int:
    """Images that a model is measured on."""
    place = f"{entry.source} {entry.test or ''}"
    usual = next((n for name, n in TEST_IMAGES.items() if name in place), 10_000)
    return min(usual, entry.test_limit or usual)


def _pictures(entry: DataEntry) -> int:
    """Decoded pictures held at once: the training split, a copy in shares, and the test images; of pairs, which are
    streamed, the defender's alone, and some that are labelled."""
    if entry.regime == "pairs":
        return entry.defender + LABELED + _tests(entry)
    return 2 * (entry.attacker + entry.defender + entry.validation) + _tests(entry)


def _suspect(cell: Json, entry: DataEntry, model: ModelCost) -> float:
    tune = cell["poison"]["tune"]
    each = model.image + (model.text if tune["towers"] == "both" else 0)
    count = tune["steps"] * tune["batch_size"] or tune["epochs"] * entry.attacker
    views = 2 if cell["trigger"] is not None else 1
    return TRAINING * count * each + 2 * views * _tests(entry) * model.image


def _cure(cell: Json, entry: DataEntry, model: ModelCost) -> float:
    config = cell["defence"]
    tune = config.get("tune")
    operations = 2 * _tests(entry) * model.image
    if tune is None:
        return operations
    both = model.image + (model.text if tune["towers"] == "both" else 0)
    views = 2 if "in_weight" in config or config.get("anchor") else 1  # CleanCLIP's, or triggered beside clean ones
    images = min(config.get("samples", entry.defender), entry.defender)
    steps = tune["steps"] * tune["batch_size"] or tune["epochs"] * images
    looks = 2 * LOOKS * (config["validation"] or 4 * images) if "rule" in config else 0
    return operations + TRAINING * steps * views * both + looks * model.image


def blind_cost(cells: Iterable[Json], methods: int, model: ModelCost) -> GridCost:
    """Of scanning and curing these suspects by so many methods; pictures and models are those of their grid."""
    # A scan is 60 steps of 64 pictures, before the cure and after it; variants and their rehearsal are 200 of 16; the
    # two cures and their looks at α come to some 60,000 forwards. Test images are answered before and after a cure.
    configs = [cell for cell in cells if cell["kind"] == "suspect"]
    forwards = sum(2 * 11_520 + 9_600 + 60_000 + 8 * _tests(DataEntry(**cell["data"])) for cell in configs)
    # Of a cure on disk, the round's model, the last one and the vector, until they are measured.
    return replace(grid_cost(configs, model), operations=methods * forwards * model.image, disk=3 * model.weights)


def sentences(part: str, cost: GridCost, tflops: float, what: str = "cells") -> str:
    """What is told before the start."""
    device, cpu = (cost.operations / (rate * 1e12) / 3600 for rate in (tflops, CPU_TFLOPS))
    return (
        f"{part}: {cost.cells} {what} to run, {cost.operations / 1e15:,.2f} PFLOP: about {_hours(device)} at "
        f"{tflops:g} TFLOP/s, {_hours(cpu)} on two CPU cores; at most {cost.ram / GIB:,.1f} GiB of decoded pictures "
        f"in memory, {cost.device / GIB:,.1f} GiB on the device, {cost.disk / GIB:,.1f} GiB on disk. Computed from "
        "counts of operations and sizes, not measured on a GPU; decoding pictures from files comes on top."
    )


def _hours(hours: float) -> str:
    return f"{hours * 60:,.1f} min" if hours < 1 else f"{hours:,.1f} h" if hours < 72 else f"{hours / 24:,.0f} days"
