"""What the triggers that a scan recovers share: tensors as short text inside a spec, and parameters by group."""

from __future__ import annotations

import base64
import binascii
import math
import re
import zlib
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache

import torch
from torch import Tensor

from unbackdoor.base.errors import InputError

EMPTY = "holds no pattern; a scan recovers one"
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")


def pack(values: Tensor) -> str:
    """Text for a float tensor of any shape in [−1, 1]; values outside are clipped.

    Each value v is the byte round(127·v) + 128, so that 0 stays exactly 0; the bytes in the tensor's order are
    deflated (zlib, level 9) and written as base64url without padding, which holds no character that separates the
    parts of a spec.
    """
    steps = (values.detach().cpu().float().clamp(-1, 1) * 127).round() + 128
    deflated = zlib.compress(steps.to(torch.uint8).contiguous().numpy().tobytes(), 9)
    return base64.urlsafe_b64encode(deflated).decode("ascii").rstrip("=")


@lru_cache(maxsize=8)
def unpack(text: str, shape: tuple[int, ...], what: str) -> Tensor:
    """The tensor behind `pack`'s text, float32 of `shape` in [−1, 1]; callers must not write to it.

    Args:
        text: as `pack` writes it.
        shape: of the tensor that was packed; never more than its bytes are inflated.
        what: name of the trigger, for errors.

    Raises:
        InputError: the text is damaged, or holds another number of bytes than the shape has.
    """
    expected = math.prod(shape)
    try:
        if not _BASE64URL.fullmatch(text):
            raise ValueError
        deflated = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise InputError(f"trigger {what}: the packed text is not base64url; copy the whole spec again") from None
    inflater = zlib.decompressobj()
    try:
        # The one byte more tells a text that is too long from one that fits, and lets zlib reach its checksum.
        raw = inflater.decompress(deflated, expected + 1)
    except zlib.error:
        raise InputError(f"trigger {what}: the packed text is damaged; copy the whole spec again") from None
    if len(raw) <= expected and (not inflater.eof or inflater.unused_data):
        raise InputError(f"trigger {what}: the packed text is cut or runs on; copy the whole spec again")
    if len(raw) != expected:
        count = f"{len(raw)}" if len(raw) < expected else f"more than {expected}"
        raise InputError(
            f"trigger {what}: the packed text holds {count} bytes, and {tuple(shape)} takes {expected}; "
            "give the size that it was recovered with"
        )
    steps = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(shape)
    return ((steps.float() - 128) / 127).clamp_(-1, 1)  # `pack` writes no byte 0, but other text may hold it


def settled(values: Tensor, shape: tuple[int, ...], what: str) -> Tensor:
    """What an optimiser ended with, as float32 on the CPU without gradients.

    Raises:
        InputError: another shape, or a value that is not finite.
    """
    if tuple(values.shape) != shape:
        raise InputError(f"trigger {what}: expected a tensor {shape}, got {tuple(values.shape)}")
    if not bool(values.isfinite().all()):
        raise InputError(f"trigger {what}: the recovered values are not all finite; scan with a smaller learning rate")
    return values.detach().cpu().float()


def reach_of(values: Tensor, least: float) -> float:
    """max |values|, but at least `least`, rounded up to four significant digits so that a spec stays readable."""
    # Six digits first, because float32 holds 0.1 as 0.1000000015, which must not become 0.1001.
    exact = Decimal(f"{max(float(values.abs().max()), least):.6g}")
    return float(exact.quantize(Decimal(1).scaleb(exact.adjusted() - 3), rounding=ROUND_CEILING))


def grouped(images: Tensor, parameters: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
    """Images and parameters with the group dimension that lets one optimiser step serve many candidates.

    Args:
        images: (B, 3, H, W); rows g·n to (g+1)·n − 1 belong to group g.
        parameters: of `ndim` dimensions, shared by all images, or with a leading dimension G, where B = G·n.
        ndim: dimensions of the parameters of one group.

    Returns:
        views (G, n, 3, H, W) and (G, …); G = 1 for shared parameters.

    Raises:
        ValueError: another number of dimensions, or the images do not split into G groups.
    """
    if parameters.ndim == ndim:
        parameters = parameters[None]
    groups = len(parameters)
    if parameters.ndim != ndim + 1 or not groups or len(images) % groups:
        raise ValueError(f"{len(images)} images do not split into the groups of parameters {tuple(parameters.shape)}")
    return images.unflatten(0, (groups, len(images) // groups)), parameters
