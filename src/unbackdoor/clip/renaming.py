"""Names of tensors in a Hugging Face file and in the library's module, which differ: both ways, once for each model.

transformers renames on loading, and renames back on saving: modules got new names in version 5 (`encoder.layer.0.` of a
ViT is `layers.0.` now), while files keep the old ones. This module asks the library's own table of renamings, name
by name; the library never sees the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from unbackdoor.base.errors import InputError
from unbackdoor.clip.skeleton import shapes_of

# TensorFlow's names, in files of before 2020.
_LEGACY = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
# Counters and tables that the module of some version computes by itself; they go back into the file unchanged.
_COMPUTED = ("position_ids", "token_type_ids", "relative_position_index", "relative_coords_table", "attn_mask")


@dataclass(frozen=True)
class Names:
    """Where each tensor of a file goes.

    Args:
        places: name in the file → names in the module; several where the file holds them one after another.
        extra: names of the file that the module computes by itself, or has no use for.
    """

    places: dict[str, tuple[str, ...]] = field(default_factory=dict)
    extra: tuple[str, ...] = ()

    @property
    def aliases(self) -> dict[str, str]:
        """Name in the file → name in the module, where the two differ and stand for one whole tensor."""
        return {name: targets[0] for name, targets in self.places.items() if targets != (name,) and len(targets) == 1}

    def translated(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Any part of a state by its names in the module; what bears no name of the file stays as it is."""
        out: dict[str, Tensor] = {}
        for name, t in tensors.items():
            targets = self.places.get(name, (name,))
            out.update(zip(targets, (t,) if len(targets) == 1 else t.chunk(len(targets)), strict=True))
        return out

    def inside(self, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by their names in the module; pieces of one are views of it."""
        return self.translated({name: stored[name] for name in self.places})

    def outside(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `inside`, in the file's own order; what the file left out stays out."""
        return {
            name: state[targets[0]] if len(targets) == 1 else torch.cat([state[n] for n in targets])
            for name, targets in self.places.items()
        }

    def shapes(self, stored: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Shapes by names in the module."""
        return {
            n: stored[name] if len(targets) == 1 else (stored[name][0] // len(targets), *stored[name][1:])
            for name, targets in self.places.items()
            for n in targets
        }


def names_of(model: nn.Module, stored: Mapping[str, tuple[int, ...]], what: str, idle: tuple[str, ...] = ()) -> Names:
    """Where the tensors of a file go in a model, which may lie on the meta device.

    Args:
        stored: names and shapes, as the file has them.
        idle: modules that the model is built without, though the file may hold them.

    Raises:
        InputError: two tensors of the file are one in the model, or one cannot be cut as the library cuts it.
    """
    own, places, extra, sources = set(model.state_dict()), dict[str, tuple[str, ...]](), list[str](), dict[str, str]()
    rename = _Renaming(model)
    for name, shape in stored.items():
        targets = rename(name)
        if len(targets) > 1 and (not shape or shape[0] % len(targets)):
            raise InputError(f"{what}: {name} of shape {tuple(shape)} cannot be cut into {len(targets)} equal parts")
        if not own.issuperset(targets):
            targets = (name,)
        useless = name.rpartition(".")[2] in _COMPUTED or name.startswith(tuple(f"{module}." for module in idle))
        if name not in own and targets == (name,) and useless:
            extra.append(name)
            continue
        for target in targets:
            if target in sources:
                raise InputError(
                    f"{what}: {sources[target]} and {name} are one tensor of the model; take one of them out"
                )
            sources[target] = name
        places[name] = targets
    return Names(places, tuple(extra))


def library_names(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes under which the installed version saves a model that it built."""
    from transformers.core_model_loading import revert_weight_conversion

    state = {name: t.to("meta") for name, t in model.state_dict().items()}
    return shapes_of(revert_weight_conversion(model, state))


class _Renaming:
    """The renamings that the installed version makes on loading, for one model."""

    def __init__(self, model: nn.Module) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping

        transforms: list[Any] = get_model_conversion_mapping(model)
        self._plain = [t for t in transforms if not hasattr(t, "operations")]
        self._cuts = [t for t in transforms if hasattr(t, "operations")]
        self._prefix = str(getattr(model, "base_model_prefix", ""))
        self._own = set(model.state_dict())

    def __call__(self, name: str) -> tuple[str, ...]:
        """Names in the module; the name itself where it stays as it is."""
        new = name
        for end, other in _LEGACY.items():
            new = new.removesuffix(end) + other if new.endswith(end) else new
        for transform in self._plain:
            new, _ = transform.rename_source_key(new)
        for transform in self._cuts:
            new, matched = transform.rename_source_key(new)
            if matched is not None:
                return self._pieces(transform, new) or (name,)
        if new not in self._own and self._prefix:
            # A file of the bare model, or of one with a head.
            bare, headed = new.removeprefix(f"{self._prefix}."), f"{self._prefix}.{new}"
            new = bare if bare in self._own else headed if headed in self._own else new
        return (new,)

    def _pieces(self, transform: Any, first: str) -> tuple[str, ...]:
        """What one tensor is cut into; nothing where the library does more than to cut it along its rows."""
        operations = list(transform.operations)
        plain = len(operations) == 1 and type(operations[0]).__name__ == "Chunk" and operations[0].dim == 0
        patterns = list(transform.target_patterns)
        return tuple(first.replace(patterns[0], pattern) for pattern in patterns) if plain else ()
