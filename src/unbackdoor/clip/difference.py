"""A model stored as what distinguishes it from a base: half the size of its tower, for populations of models.

The file is safetensors; its metadata names the base and holds the hashes of both models' weights, so that a base that
has changed, or a damaged file, is noticed. A base on the network is not followed: the file is untrusted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from unbackdoor.base.errors import InputError
from unbackdoor.clip.handle import Clip
from unbackdoor.weights.files import read_tensors, state_hash, write_tensors
from unbackdoor.weights.vector import distinct

KIND = "unbackdoor-difference"


@torch.no_grad()
def save_difference(base: Clip, changed: Clip, path: Path) -> str:
    """Write `changed − base` in half precision; returns the hash of the model that comes back.

    `changed` becomes that model: its weights are rounded in place.

    Raises:
        InputError: the two models' tensors differ in name or shape.
    """
    start, end = base.state(), changed.state()
    if {n: t.shape for n, t in start.items()} != {n: t.shape for n, t in end.items()}:
        raise InputError(f"{path}: {changed.reference} has other tensors than its base {base.reference}")
    tensors = {
        name: (end[name].float() - t.float()).half()
        for name, t in start.items()
        if t.is_floating_point() and not torch.equal(t, end[name])
    }
    again = base.clone()
    _add(again, tensors)
    for name, t in again.state().items():
        end[name].copy_(t)
    digest = state_hash(end)
    facts = {"kind": KIND, "base": base.reference, "base_hash": state_hash(start), "hash": digest}
    write_tensors(path, tensors, facts)
    return digest


def from_file(path: Path, open_base: Callable[[str], Clip]) -> Clip:
    """The model behind a difference.

    Raises:
        InputError: not such a file, a base that cannot be opened or is another model, or damaged tensors.
    """
    tensors, facts = read_tensors(path)
    if facts.get("kind") != KIND:
        raise InputError(
            f"{path}: a bare weight file; name its architecture: --model ViT-B-32 --checkpoint {path.name}"
        )
    reference = facts.get("base", "")
    if reference.startswith("hf-hub:"):
        raise InputError(f"{path}: its base {reference} lies on the network; fetch it and store the difference anew")
    if reference.endswith(".safetensors"):
        raise InputError(f"{path}: its base {reference} is a weight file; a base is a whole model")
    clip = open_base(reference)
    if state_hash(clip.state()) != facts.get("base_hash"):
        raise InputError(f"{path}: made from another {reference} than the one here; its base has changed")
    _add(clip, tensors)
    if state_hash(clip.state()) != facts.get("hash"):
        raise InputError(f"{path}: base and difference do not give the model that was stored; the file is damaged")
    clip.reference = str(path)
    return clip


@torch.no_grad()
def _add(clip: Clip, tensors: dict[str, torch.Tensor]) -> None:
    state = clip.state()
    for name, t in tensors.items():
        if name not in state or state[name].shape != t.shape:
            raise InputError(f"tensor {name} of the difference does not fit its base {clip.reference}")
    for name in distinct(state, tensors):
        state[name].add_(tensors[name].to(state[name]))
