"""The units of an image tower, found from its module graph: what the pruning defenses rank, scale and silence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from unbackdoor.base.errors import InputError
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.evaluation.answers import embed

_NORMS = (nn.modules.batchnorm._BatchNorm,)


@dataclass(frozen=True)
class Hidden:
    """Units that one layer makes and a single other layer reads, so that they can be cut without touching the rest.

    Args:
        name: of the layer that makes them.
        maker, reader: both convolutions or both linear; unit i is output i of one and input i of the other.
    """

    name: str
    maker: nn.Module
    reader: nn.Module

    @property
    def outgoing(self) -> Tensor:
        """The reader's live weights (outputs, units, …)."""
        weight = self.reader.weight
        assert isinstance(weight, Tensor)
        return weight.detach()


def image_modules(clip: Clip) -> Iterator[tuple[str, nn.Module]]:
    """Every module of the image tower, in order."""
    return ((n, m) for n, m in clip.model.named_modules() if f"{n}.".startswith(clip.format.image_prefixes))


@torch.no_grad()
def working_modules(clip: Clip) -> set[nn.Module]:
    """The modules that take part when a picture is embedded."""
    ran: set[nn.Module] = set()
    handles = [m.register_forward_hook(lambda module, *_: ran.add(module)) for m in clip.model.modules()]
    try:
        clip.encode_image(torch.zeros(1, 3, clip.image_size, clip.image_size, device=clip.device))
    finally:
        for handle in handles:
            handle.remove()
    return ran


def hidden_units(clip: Clip) -> list[Hidden]:
    """The hidden units of every block that takes part, in order.

    A block is a module with convolutions among its children, each reading as many channels as the one before it makes
    (ResNets of any kind, stems too), or with exactly two linear children that fit (the MLP of a transformer or of
    ConvNeXt). What a block adds to its residual stream has many readers and counts as hidden nowhere.
    """
    units, working = [], working_modules(clip)
    for name, module in image_modules(clip):
        children = [(n, m) for n, m in module.named_children() if m in working]
        convolutions = [(n, m) for n, m in children if isinstance(m, nn.Conv2d)]
        linear = [(n, m) for n, m in children if isinstance(m, nn.Linear)]
        for (n, maker), (_, reader) in pairwise(convolutions):
            if reader.groups == 1 and maker.out_channels == reader.in_channels:
                units.append(Hidden(f"{name}.{n}", maker, reader))
        if len(linear) == 2 and linear[0][1].out_features == linear[1][1].in_features:
            units.append(Hidden(f"{name}.{linear[0][0]}", linear[0][1], linear[1][1]))
    if not units:
        raise InputError("the image tower has no block with hidden units of its own, so there is nothing to prune")
    return units


def scaled_layers(clip: Clip) -> list[tuple[str, nn.Module]]:
    """Layers that take part and have a weight per unit: the BatchNorms, or the makers of hidden units where none is."""
    working = working_modules(clip)
    norms: list[tuple[str, nn.Module]] = [
        (n, m) for n, m in image_modules(clip) if isinstance(m, _NORMS) and m.weight is not None and m in working
    ]
    return norms or [(hidden.name, hidden.maker) for hidden in hidden_units(clip)]


def unit_count(layer: nn.Module) -> int:
    """Units of a scaled layer."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return len(weight)


def mean_activation(clip: Clip, images: ImageSet, hidden: Hidden) -> Tensor:
    """Mean (units,) of what the reader is given, over images and places: after activation, and pooling if any."""
    width = hidden.outgoing.shape[1]
    total, count = torch.zeros(width, device=clip.device), 0

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal count
        given = inputs[0].detach().float()
        # Channels come second after a convolution and last in a transformer.
        rows = given.movedim(1, -1) if isinstance(module, nn.Conv2d) else given
        total.add_(rows.reshape(-1, width).sum(dim=0))
        count += rows.numel() // width

    handle = hidden.reader.register_forward_pre_hook(look)
    try:
        embed(clip, images)
    finally:
        handle.remove()
    return total / max(1, count)


Scales = Callable[[int], tuple[Tensor, Tensor]]  # number of the layer → factors (units,) on its weights and its bias


@contextmanager
def scaled(layers: list[nn.Module], scales: Scales) -> Iterator[None]:
    """Multiply each unit's weights and bias by `scales` while the context lasts; the layers' own stay as they are.

    out = w·x + b becomes m·w·x + c·b = m·(out − b) + c·b, which needs no copy of the weights and is differentiable in m
    and c. Layers without a bias have b = 0.
    """

    def hook(number: int) -> Callable[[nn.Module, object, Tensor], Tensor]:
        def change(module: nn.Module, _: object, out: Tensor) -> Tensor:
            m, c = scales(number)
            convolutional = not isinstance(module, nn.Linear)
            shape = (1, -1) + (1,) * (out.ndim - 2) if convolutional else (-1,)
            m = m.view(shape).to(out.dtype)
            if module.bias is None:
                return m * out
            b = module.bias.detach().view(shape).to(out.dtype)  # type: ignore[operator]
            return m * (out - b) + c.view(shape).to(out.dtype) * b

        return change

    handles = [layer.register_forward_hook(hook(i)) for i, layer in enumerate(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def most_allowed(most: int, accuracy: Callable[[int], float], floor: float) -> int:
    """The largest number up to `most` whose accuracy is at least `floor`, by bisection: accuracy is taken to fall."""
    if accuracy(most) >= floor:
        return most
    low, high = 0, most
    while high - low > max(1, most // 128):
        middle = (low + high) // 2
        low, high = (middle, high) if accuracy(middle) >= floor else (low, middle)
    return low
