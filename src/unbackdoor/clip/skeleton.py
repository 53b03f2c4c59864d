"""A model without memory: what a configuration asks for, before anything of that size is built.

On PyTorch's meta device every tensor has a shape and no numbers, so that a model of any width costs nothing. Its names
and shapes are compared with the header of the weights; only a model that the weights fill is then built for real.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from unbackdoor.base.errors import InputError, first_line

# Masks, tables of positions and the like, which no file holds; the most of any published model is below 40 MB.
_UNSTORED_BYTES = 256 << 20


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a state dict."""
    return {name: tuple(t.shape) for name, t in state.items()}


def outline(create: Callable[[], nn.Module], what: str) -> nn.Module:
    """The model on the meta device, in evaluation mode. No random number is drawn.

    Args:
        create: builds it; sees the meta device as the default one.
        what: the configuration, for the error.

    Raises:
        InputError: it cannot be built, or would need large tensors that no weights fill.
    """

    def on_meta() -> nn.Module:
        with torch.device("meta"):
            return create().eval()

    model = built(on_meta, what)
    stored = model.state_dict()
    unstored = sum(_bytes(t) for name, t in model.named_buffers() if name not in stored)
    if unstored > _UNSTORED_BYTES:
        raise InputError(
            f"{what}: asks for {unstored >> 20} MB of masks and tables that no file holds; the most is "
            f"{_UNSTORED_BYTES >> 20} MB"
        )
    return model


def built(create: Callable[[], nn.Module], what: str) -> nn.Module:
    """What `create` returns.

    Raises:
        InputError: it fails, in whatever way.
    """
    try:
        return create()
    except InputError:
        raise
    except Exception as error:  # a stranger's configuration can fail anywhere inside a library
        raise InputError(
            f"{what}: the library cannot build this model ({type(error).__name__}: {first_line(error)})"
        ) from None


class Undrawn(TorchFunctionMode):
    """While this is entered, what would be drawn in place is set to nought: for a model that weights are put into.

    Drawing takes longer than everything else that building does.
    """

    _DRAWS = frozenset(
        (torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.exponential_, torch.Tensor.bernoulli_)
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0].zero_() if func in self._DRAWS else func(*args, **(kwargs or {}))


def probe(call: Callable[[], Any], what: str) -> tuple[int, ...]:
    """Shape of what a tower of an `outline` makes of one input on the meta device, which costs no arithmetic.

    Raises:
        InputError: the tower cannot take that input, or returns something else than rows of numbers.
    """
    try:
        with torch.no_grad(), torch.device("meta"):
            rows = call()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what} ({type(error).__name__}: {first_line(error)})") from None
    if not isinstance(rows, Tensor) or rows.ndim != 2:
        raise InputError(f"{what} (it gives no rows of numbers)")
    return tuple(rows.shape)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
