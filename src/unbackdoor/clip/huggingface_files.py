"""Weights of a Hugging Face folder: one file or shards with their index, safetensors or torch's."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from unbackdoor.base.disk import write_text
from unbackdoor.base.errors import InputError
from unbackdoor.base.untrusted import read_json
from unbackdoor.weights.files import read_checkpoint, read_shapes, read_tensors, write_tensors
from unbackdoor.weights.names import fitted, unwrapped
from unbackdoor.weights.stored import beside, open_stored

WEIGHTS, OLD = "model.safetensors", "pytorch_model.bin"
# In the library's own order.
NAMES = (WEIGHTS, f"{WEIGHTS}.index.json", OLD, f"{OLD}.index.json")


@dataclass(frozen=True)
class Weights:
    """What a folder's weight files hold.

    Args:
        shapes: of every tensor by name, as the files have them.
        files: name → the safetensors file that it is written to again.
        read: the tensors themselves.
    """

    shapes: dict[str, tuple[int, ...]]
    files: dict[str, str]
    read: Callable[[], dict[str, Tensor]]


def cleared(weights: Weights, own: Collection[str], what: str) -> Weights:
    """The same weights without what a wrapper put before or into all names, where that makes them a model's.

    Args:
        own: names that the model knows, in a file or as a module.

    Raises:
        InputError: two tensors would get one name.
    """
    names = fitted({name: name for name in weights.shapes}, own, what)

    def read() -> dict[str, Tensor]:
        tensors = weights.read()
        return {new: tensors[old] for new, old in names.items()}

    shapes = {new: weights.shapes[old] for new, old in names.items()}
    return Weights(shapes, {new: weights.files[old] for new, old in names.items()}, read)


def has_weights(folder: Path) -> bool:
    """Whether there are weights under the library's own names."""
    return any((folder / name).is_file() for name in NAMES)


def find_weights(folder: Path, reference: str) -> Weights:
    """The weights that the library would take.

    Only names and shapes are read here.

    Raises:
        InputError: there are none, they are damaged, or an index names a file that is missing or lies elsewhere.
    """
    name = next((n for n in NAMES if (folder / n).is_file()), None)
    if name is None:
        raise InputError(f"{reference}: none of {', '.join(NAMES)} is there{_instead(folder)}")
    if name.startswith(WEIGHTS):
        stored = open_stored(folder / name)
        shapes = {entry.name: entry.shape for entry in stored.entries.values()}
        files = {entry.name: entry.file.name for entry in stored.entries.values()}
        paths = [shard.path for shard in stored.shards]
        return Weights(shapes, files, lambda: {n: t for path in paths for n, t in read_tensors(path)[0].items()})
    if name == OLD:
        path = folder / name
        shapes = read_shapes(path)
        return Weights(shapes, dict.fromkeys(shapes, WEIGHTS), lambda: read_checkpoint(path))
    return _torch_shards(folder, folder / name)


def _instead(folder: Path) -> str:
    for name, kind in (("tf_model.h5", "TensorFlow"), ("flax_model.msgpack", "Flax")):
        if (folder / name).is_file():
            return f"; {name} is for {kind}, so save the model with PyTorch"
    return ""


def _torch_shards(folder: Path, index: Path) -> Weights:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise InputError(f"{index}: holds no weight_map; fetch the model again")
    if not all(isinstance(file, str) and beside(file) and file.endswith(".bin") for file in places.values()):
        raise InputError(f"{index}: names a file outside its folder, or none of torch's; do not trust it")
    shapes: dict[str, tuple[int, ...]] = {}
    paths = [folder / file for file in dict.fromkeys(places.values())]
    for path in paths:
        shard = read_shapes(path)
        own = unwrapped({name: name for name, file in places.items() if file == path.name}, str(index))
        wrong = sorted(set(shard) ^ set(own))
        if wrong:
            raise InputError(f"{index}: its files do not hold what it says (first: {wrong[0]}); fetch the model again")
        shapes |= shard
    files = {name: _safe_name(file) for name, file in unwrapped(places, str(index)).items()}
    return Weights(shapes, files, lambda: {n: t for path in paths for n, t in read_checkpoint(path).items()})


def _safe_name(file: str) -> str:
    """`pytorch_model-00001-of-00002.bin` → `model-00001-of-00002.safetensors`."""
    return file.removeprefix("pytorch_").removesuffix(".bin") + ".safetensors"


def write_weights(tensors: Mapping[str, Tensor], files: Mapping[str, str], target: Path) -> None:
    """Write tensors into the files they came from, with an index where there are several.

    Args:
        tensors: by their names in the files.
        files: name → file.
    """
    shards: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        shards.setdefault(files[name], {})[name] = tensor
    for file, part in shards.items():
        write_tensors(target / file, part, {"format": "pt"})
    if set(shards) != {WEIGHTS}:
        total = sum(t.numel() * t.element_size() for t in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": {n: f for n, f in files.items() if n in tensors}}
        write_text(target / f"{WEIGHTS}.index.json", json.dumps(index, indent=2) + "\n")
