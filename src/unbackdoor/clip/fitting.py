"""Putting a state dict into a module, with one clear line when it does not fit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unbackdoor.errors import InputError


def fit_state(model: nn.Module, state: Mapping[str, Tensor], what: str) -> dict[str, torch.dtype]:
    """Load `state` (any floating type) into the float32 `model`; returns the stored types.

    Raises:
        InputError: missing, unexpected or mis-shaped tensors (the line counts them and names the first), or integers
            where weights belong, as in quantised files.
    """
    own = model.state_dict()
    missing = [n for n in own if n not in state]
    extra = [n for n in state if n not in own]
    shaped = [n for n in own if n in state and own[n].shape != state[n].shape]
    if missing or extra or shaped:
        first = (shaped or missing or extra)[0]
        detail = f" (stored {tuple(state[first].shape)}, expected {tuple(own[first].shape)})" if shaped else ""
        raise InputError(
            f"{what}: the weights do not fit the architecture: {len(missing)} tensors missing, {len(extra)} "
            f"unexpected, {len(shaped)} of another shape; first {first}{detail}"
        )
    packed = [n for n in own if own[n].is_floating_point() and not state[n].is_floating_point()]
    if packed:
        raise InputError(
            f"{what}: {len(packed)} weights are stored as integers, first {packed[0]} ({state[packed[0]].dtype}); "
            "quantised models have no weight arithmetic, so give the floating-point one"
        )
    model.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in state.items()})
    return {n: t.dtype for n, t in state.items()}
