"""Putting a state dict into a module, with one clear line when it does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from unbackdoor.base.errors import InputError
from unbackdoor.clip.skeleton import shapes_of

Shapes = Mapping[str, Sequence[int]]


def check_shapes(model: nn.Module, stored: Shapes, what: str, hint: str = "") -> None:
    """Whether stored tensors are those of a model, by name and shape; the model may lie on the meta device.

    Of names that are one tensor in the model (tied weights), one has to be stored.

    Args:
        stored: names and shapes, as a file's header tells.
        hint: what else to try, where the caller knows; otherwise the names decide.

    Raises:
        InputError: missing, unexpected or mis-shaped tensors: the line counts them, names the first, and says what to
            try.
    """
    own = shapes_of(model.state_dict())
    aliases = _aliases(model)
    missing = [n for n in own if n not in stored and not any(a in stored for a in aliases.get(n, ()))]
    extra = [n for n in stored if n not in own]
    shaped = [n for n in own if n in stored and tuple(own[n]) != tuple(stored[n])]
    if missing or extra or shaped:
        first = (shaped or missing or extra)[0]
        detail = f" (stored {tuple(stored[first])}, expected {tuple(own[first])})" if shaped else ""
        raise InputError(
            f"{what}: the weights do not fit the architecture: {len(missing)} tensors missing, {len(extra)} "
            f"unexpected, {len(shaped)} of another shape; first {first}{detail}; "
            f"{_by_names(missing, extra) or hint or 'name the architecture that they were trained in'}"
        )


def fit_state(model: nn.Module, state: Mapping[str, Tensor], what: str, hint: str = "") -> dict[str, torch.dtype]:
    """Load `state` (any floating type) into the float32 `model`; returns the stored types.

    Raises:
        InputError: as `check_shapes`; tensors that are no plain numbers in memory, or integers where weights belong,
            as in quantised files; tied weights that differ.
    """
    check_shapes(model, shapes_of(state), what, hint)
    _check_plain(state, what)
    own = model.state_dict()
    state = {n: t for n, t in state.items() if n in own}
    for name, others in _aliases(model).items():
        stored = [n for n in (name, *others) if n in state]
        if name not in state:
            state[name] = state[stored[0]]
        elif not torch.equal(state[name], state[stored[-1]]):
            raise InputError(
                f"{what}: {name} and {stored[-1]} are one tensor in this architecture, but are stored apart"
            )
    packed = [n for n in own if own[n].is_floating_point() and not state[n].is_floating_point()]
    if packed:
        raise InputError(
            f"{what}: {len(packed)} weights are stored as integers, first {packed[0]} ({state[packed[0]].dtype}); "
            "quantised models have no weight arithmetic, so give the floating-point one"
        )
    broken = [n for n in own if not own[n].is_floating_point() and not _is_whole(state[n])]
    if broken:
        raise InputError(
            f"{what}: {broken[0]} counts or points to something, but holds no whole numbers; fetch it again"
        )
    model.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in state.items()})
    return {n: t.dtype for n, t in state.items()}


def _check_plain(state: Mapping[str, Tensor], what: str) -> None:
    for name, t in state.items():
        kind = (
            "quantised" if t.is_quantized
            else "sparse" if t.layout != torch.strided
            else "complex" if t.is_complex()
            else "without numbers (meta)" if t.is_meta
            else ""
        )  # fmt: skip
        if kind:
            raise InputError(f"{what}: tensor {name} is {kind}; save the weights as plain floating-point tensors")


def _is_whole(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    values = tensor.double()
    return bool((torch.isfinite(values) & (values == values.round())).all())


def _aliases(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Names that share one parameter or buffer → the other names of it."""
    names: dict[int, list[str]] = {}
    persistent = set(model.state_dict())
    for name, t in [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]:
        if name in persistent:
            names.setdefault(id(t), []).append(name)
    return {n: tuple(o for o in group if o != n) for group in names.values() if len(group) > 1 for n in group}


def _by_names(missing: Sequence[str], extra: Sequence[str]) -> str:
    """What the names that fit nowhere tell of their origin."""
    if any(n.startswith("visual.") for n in missing) and any(n.startswith("vision_model.") for n in extra):
        return (
            "these are Hugging Face's names: put the weights beside their config.json and give that folder "
            "(`unbackdoor convert` makes an OpenCLIP folder of it)"
        )
    if any(n.startswith("vision_model.") for n in missing) and any(n.startswith("visual.") for n in extra):
        return "these are OpenCLIP's names: give --model ARCHITECTURE --checkpoint FILE"
    for name in missing[:1]:
        prefix = next((n.removesuffix(name) for n in extra if n.endswith(name)), "")
        wrapped = set(extra)
        if prefix and sum(f"{prefix}{n}" in wrapped for n in missing) * 2 > len(missing):
            return f"the names begin with the prefix {prefix!r}, which some wrapper put there; take it off"
    return ""
