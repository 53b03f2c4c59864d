"""Weights of a Hugging Face folder: one file or shards with their index, safetensors or torch's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from unbackdoor.clip.skeleton import shapes_of
from unbackdoor.disk import write_text
from unbackdoor.errors import InputError
from unbackdoor.untrusted import read_json
from unbackdoor.weights.files import read_checkpoint, read_tensors, write_tensors
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


def has_weights(folder: Path) -> bool:
    """Whether there are weights under the library's own names."""
    return any((folder / name).is_file() for name in NAMES)


def find_weights(folder: Path, reference: str) -> Weights:
    """The weights that the library would take.

    Safetensors are only looked into here; files of torch are read, since nothing else tells what they hold.

    Raises:
        InputError: there are none, or they are damaged, or an index names what is not there or lies elsewhere.
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
        state = read_checkpoint(folder / name)
        files = dict.fromkeys(state, WEIGHTS)
    else:
        state, files = _torch_shards(folder, folder / name)
    return Weights(shapes_of(state), files, lambda: state)


def _instead(folder: Path) -> str:
    for name, kind in (("tf_model.h5", "TensorFlow"), ("flax_model.msgpack", "Flax")):
        if (folder / name).is_file():
            return f"; {name} is for {kind}, so save the model with PyTorch"
    return ""


def _torch_shards(folder: Path, index: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, and the safetensors file that each is to be written to."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise InputError(f"{index}: holds no weight_map; fetch the model again")
    if not all(isinstance(file, str) and beside(file) and file.endswith(".bin") for file in places.values()):
        raise InputError(f"{index}: names a file outside its folder, or none of torch's; do not trust it")
    state: dict[str, Tensor] = {}
    for file in dict.fromkeys(places.values()):
        shard = read_checkpoint(folder / file)
        wrong = next((n for n in {**shard, **_of(places, file)} if n not in shard or places.get(n) != file), None)
        if wrong is not None:
            raise InputError(f"{index}: its files do not hold what it says (first: {wrong}); fetch the model again")
        state |= shard
    return state, {name: _safe_name(file) for name, file in places.items()}


def _of(places: Mapping[str, str], file: str) -> dict[str, str]:
    return {name: f for name, f in places.items() if f == file}


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
