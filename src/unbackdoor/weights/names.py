"""What the names of tensors tell: blocks, what training code put before them, which of several models is meant."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from unbackdoor.base.errors import InputError
from unbackdoor.base.notices import warn

T = TypeVar("T")

# OpenCLIP's and CLIP's resblocks, CoCa's cross_attn, timm's blocks, Hugging Face's layers (BERT's layer, T5's block,
# ALBERT's groups), torchvision-like layer1 … layer4. Swin's layers are stages, and hold the blocks.
_BLOCK = re.compile(
    r"^(.*?\.(?:resblocks|cross_attn|blocks?|layers?|layer\d+|albert_layer_groups)\.\d+"
    r"(?:\.(?:blocks|albert_layers)\.\d+)?)\."
)
_STAGE = re.compile(r"^(.*?\.stages\.\d+)\.")
# torch.compile, FSDP, activation checkpointing, DeepSpeed: nobody calls a part of a model so.
_ARTEFACTS = frozenset(
    ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "_fpw_module")
)
# DataParallel's `module.`, and what training code calls the model that it holds.
_WRAPPERS = _ARTEFACTS | {
    "module", "_module", "model", "_model", "net", "network", "clip", "_clip", "clip_model", "backbone", "base_model",
    "wrapped_model", "inner", "ema", "ema_model", "model_ema", "ema_module", "student",
}  # fmt: skip
# Keys of a checkpoint by their words: averaged weights, and what is no model.
_AVERAGED = re.compile(r"(?i)(^|[_.\-])(ema|swa|averaged?|avg|shadow|teacher|momentum)([_.\-]|$)")
_MODEL = re.compile(
    r"(?i)(state_?dict|(clip_?)?(model|module|net|network|clip|weights|params|parameters)(_(state|state_?dict|weights))?)"
)
_NO_MODEL = re.compile(
    r"(?i)(^|[_.\-])(optim\w*|sched\w*|scaler|lr|callbacks|loops|rng|amp|loss|losses|criterion|hyper|metrics?|args|config)"
    r"([_.\-]|$)"
)
_DEEPEST = 6  # wrappers within wrappers


@dataclass(frozen=True)
class Chosen:
    """The state dict of a checkpoint.

    Args:
        state: name → tensor.
        where: keys that lead to it.
        averaged: keys beside it that hold an average of the weights (EMA), which is another model.
    """

    state: dict[str, Any]
    where: tuple[str, ...]
    averaged: tuple[str, ...]


def block_of(name: str) -> str:
    """Name of the block that a tensor belongs to; of one outside all blocks the name of its module."""
    match = _BLOCK.match(name) or _STAGE.match(name)
    return match.group(1) if match else name.rpartition(".")[0] or name


def bare(name: str) -> str:
    """A name without what wrappers put before or into it (`module.`, `model.`, `_orig_mod.`, …)."""
    words = name.split(".")
    first = next((i for i, word in enumerate(words[:-1]) if word not in _WRAPPERS), len(words) - 1)
    return ".".join(word for i, word in enumerate(words) if i >= first and word not in _ARTEFACTS)


def unwrapped(state: Mapping[str, T], what: str) -> dict[str, T]:
    """A state dict without what no model calls itself: artefacts of wrappers anywhere, `module.` before all names.

    Args:
        what: where it comes from, for the error.

    Raises:
        InputError: two tensors would get one name.
    """
    words = [name.split(".") for name in state]
    rest = [[word for word in row[:-1] if word not in _ARTEFACTS] + row[-1:] for row in words]
    while rest and all(len(row) > 1 and row[0] == "module" for row in rest):
        rest = [row[1:] for row in rest]
    return _renamed(state, [".".join(row) for row in rest], what)


def fitted(state: Mapping[str, T], own: Collection[str], what: str) -> dict[str, T]:
    """A state dict by the names that a model has, as far as a prefix or wrappers' words stand between them.

    A prefix, whatever its words, is taken off only if every name has it and more names are then the model's own; a
    warning names it. Of names that are still not its own, wrappers' words inside are taken out where that makes them
    one that is missing.

    Args:
        own: the model's names.

    Raises:
        InputError: as `unwrapped`; several models of these names side by side, such as `teacher.…` and `student.…`.
    """
    known, state = set(own), unwrapped(state, what)
    plain = list(state)
    choices = _cuts(plain)
    names = max(choices, key=lambda names: _hits(names, known))  # of equals the longest names
    if names != plain:
        prefix = plain[0].removesuffix(names[0])
        warn(f"{what}: every name begins with {prefix!r}, which is no part of the architecture; it is taken off")
    if 2 * _hits(names, known) < len(names):
        _check_single(choices[-1], known, plain[0].removesuffix(choices[-1][0]), what)
    missing = known - set(names)
    rows = [name.split(".") for name in names]
    inner = [".".join([*(w for w in row[:-1] if w not in _WRAPPERS), row[-1]]) for row in rows]
    names = [new if old not in known and new in missing else old for old, new in zip(names, inner, strict=True)]
    return _renamed(state, names, what)


def without_shared(names: Collection[str]) -> list[str]:
    """Names without the words that all of them begin with; every name keeps its last word."""
    return _cuts(list(names))[-1]


def _cuts(names: Sequence[str]) -> list[list[str]]:
    """Names as they are, and without the first, the first two, … of the words that all of them begin with."""
    rows, depth = [name.split(".") for name in names], 0
    choices = [list(names)]
    while rows and all(len(row) > depth + 1 and row[depth] == rows[0][depth] for row in rows):
        depth += 1
        choices.append([".".join(row[depth:]) for row in rows])
    return choices


def _hits(names: Collection[str], known: Collection[str]) -> int:
    return sum(name in known for name in names)


def _check_single(names: Sequence[str], known: Collection[str], prefix: str, what: str) -> None:
    """Refuse names of which several groups would each be a good part of the model."""
    groups: dict[str, list[str]] = {}
    for name in names:
        word, _, rest = name.partition(".")
        groups.setdefault(word, []).append(rest)
    models = [
        f"{prefix}{word}."
        for word, rest in groups.items()
        if 3 * max(_hits(n, known) for n in _cuts(rest)) > len(known)
    ]
    if len(models) > 1:
        raise InputError(f"{what}: holds several models ({_listed(models)}); keep one in a file of its own")


def prefixes_cut(names: Sequence[str]) -> list[dict[str, str]]:
    """Names as they are, and without the first, the first two, … of the wrappers' words that all of them begin with."""
    rows, depth = [name.split(".") for name in names], 0
    choices = [dict(zip(names, names, strict=True))]
    while rows and all(len(row) > depth + 1 and row[depth] in _WRAPPERS for row in rows):
        depth += 1
        choices.append({name: ".".join(row[depth:]) for name, row in zip(names, rows, strict=True)})
    return choices


def choose_state(content: Any, is_tensor: Callable[[Any], bool], what: str) -> Chosen:
    """The state dict within what a checkpoint holds, wrappers opened (`state_dict`, `model`, `module`, …).

    Plain weights are taken before averaged ones (`ema`). Optimisers and the like are passed over.

    Args:
        content: nested mappings; others are no part of a model.

    Raises:
        InputError: there is none, or more than one that could be meant; the line names them.
    """
    where: tuple[str, ...] = ()
    averaged: tuple[str, ...] = ()
    for _ in range(_DEEPEST):
        if not isinstance(content, Mapping):
            break
        children = [key for key, value in content.items() if isinstance(key, str) and _holds(value, is_tensor, {})]
        models = [key for key in children if not _NO_MODEL.search(key)]
        plain = [key for key in models if not _AVERAGED.search(key)]
        named = [key for key in plain if _MODEL.fullmatch(key)]
        own = {key: value for key, value in content.items() if isinstance(key, str) and is_tensor(value)}
        candidates = named or plain or models
        if own and not plain:
            return Chosen(own, where, averaged)
        if not candidates:
            break
        if len(candidates) > 1:
            raise InputError(f"{what}: holds several models ({_listed(candidates)}); keep one in a file of its own")
        averaged = tuple(key for key in models if key not in plain and key not in candidates) or averaged
        where, content = (*where, candidates[0]), content[candidates[0]]
    raise InputError(f"{what}: holds no state dict of tensors")


def _holds(value: Any, is_tensor: Callable[[Any], bool], known: dict[int, bool], depth: int = _DEEPEST) -> bool:
    """Whether tensors stand in a mapping, or in one within it."""
    if not isinstance(value, Mapping) or not depth:
        return False
    if id(value) not in known:
        known[id(value)] = False  # while it is open: a mapping may hold itself
        known[id(value)] = any(is_tensor(v) or _holds(v, is_tensor, known, depth - 1) for v in value.values())
    return known[id(value)]


def _renamed(state: Mapping[str, T], names: Iterable[str], what: str) -> dict[str, T]:
    out: dict[str, T] = {}
    for name, tensor in zip(names, state.values(), strict=True):
        if name in out:
            raise InputError(f"{what}: holds {name} twice, with and without a wrapper's prefix; keep one")
        out[name] = tensor
    return out


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(name[:40] for name in names[:4]) + more
