"""A copy of a model for searches on its input: the same function, with less work when no weight learns.

A step of trigger inversion goes forward and back through frozen weights. Three things then cost time for nothing, and
are rewritten in a private copy of the image tower; names, saving and training stay with the original.

- A BatchNorm in evaluation mode is an affine map of the convolution before it, and is folded into it (Jacob et al.
  2018, arXiv 1712.05877, section 3.2).
- A convolution that cuts disjoint patches is a product of matrices; its gradient by the input runs several times
  faster as one.
- `nn.MultiheadAttention` with batches first hands its projection a transposed tensor, which PyTorch multiplies batch by
  batch once the weights ask for no gradient.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unbackdoor.base.draws import seeded
from unbackdoor.clip.handle import Clip

_CLOSE = 1e-3  # largest difference of a unit embedding's entries that rounding may make


def streamlined(clip: Clip) -> Clip:
    """A copy in evaluation mode whose embeddings differ from `clip`'s by rounding only; its weights ask no gradient.

    Not for training or saving: its parameters no longer bear the format's names. What cannot be rewritten safely is
    left as it is.
    """
    side = clip.image_size
    probe = torch.rand(2, 3, side, side, generator=seeded(0)).to(clip.device)
    copy = _still(clip)
    with torch.no_grad():
        pairs = _pairs(copy, probe)
        if pairs:
            before = copy.encode_image(probe)
            _fold(copy.model, pairs)
            if float((copy.encode_image(probe) - before).abs().max()) > _CLOSE:
                copy = _still(clip)  # a convolution's output went elsewhere too, which the trace cannot see
    for tower in copy.image_module():
        _replace(tower, nn.Conv2d, _Patches.of)
        _replace(tower, nn.MultiheadAttention, _SelfAttention.of)
    return copy


def _still(clip: Clip) -> Clip:
    copy = clip.clone()
    copy.model.eval().requires_grad_(False)
    return copy


class _Patches(nn.Module):
    """A convolution over disjoint patches as one product."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.side = conv.kernel_size
        self.weight = nn.Parameter(conv.weight.flatten(1).contiguous(), requires_grad=False)
        self.bias = conv.bias

    @staticmethod
    def of(conv: nn.Module) -> nn.Module | None:
        """The rewritten module, None where the convolution is another kind."""
        assert isinstance(conv, nn.Conv2d)
        disjoint = conv.kernel_size == conv.stride and conv.kernel_size[0] > 1
        plain = conv.groups == 1 and conv.dilation == (1, 1) and conv.padding in ((0, 0), "valid")
        return _Patches(conv) if disjoint and plain else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, D, H / p, W / q); a rest at the right or the bottom is dropped, as a convolution does."""
        p, q = self.side
        b, c, rows, columns = x.shape[0], x.shape[1], x.shape[2] // p, x.shape[3] // q
        cut = x[:, :, : rows * p, : columns * q].reshape(b, c, rows, p, columns, q)
        flat = cut.permute(0, 2, 4, 1, 3, 5).reshape(b * rows * columns, c * p * q)
        return F.linear(flat, self.weight, self.bias).view(b, rows, columns, -1).permute(0, 3, 1, 2)


class _SelfAttention(nn.Module):
    """Self-attention without a mask, batches first; any other call goes to the module that it replaces."""

    def __init__(self, original: nn.MultiheadAttention) -> None:
        super().__init__()
        self.original = original

    @staticmethod
    def of(attention: nn.Module) -> nn.Module | None:
        """The rewritten module, None where the projections are kept apart or have extras."""
        assert isinstance(attention, nn.MultiheadAttention)
        plain = attention.in_proj_weight is not None and attention.bias_k is None and not attention.add_zero_attn
        return _SelfAttention(attention) if plain and attention.batch_first else None

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`."""
        own = self.original
        flags = {k: v for k, v in options.items() if v is not None and k != "average_attn_weights"}
        if query is not key or key is not value or query.dim() != 3 or flags != {"need_weights": False}:
            whole: tuple[Tensor, Tensor | None] = own(query, key, value, **options)
            return whole
        b, n, width = query.shape
        projected = F.linear(query, own.in_proj_weight, own.in_proj_bias)
        q, k, v = projected.view(b, n, 3, own.num_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, width)
        return F.linear(mixed, own.out_proj.weight, own.out_proj.bias), None


def _replace(root: nn.Module, kind: type[nn.Module], rewrite: Any) -> None:
    """Put `rewrite(module)` in the place of every module of exactly this kind, where it gives one."""
    for parent in list(root.modules()):
        for name, child in list(parent.named_children()):
            twin = rewrite(child) if type(child) is kind else None
            if twin is not None:
                setattr(parent, name, twin)


def _fold(model: nn.Module, pairs: list[tuple[str, str]]) -> None:
    """Put each BatchNorm's scale and shift into the convolution before it."""
    for conv_name, norm_name in pairs:
        conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        _put(model, conv_name, fuse_conv_bn_eval(conv, norm).requires_grad_(False))
        _put(model, norm_name, _rest(norm))


def _pairs(clip: Clip, probe: Tensor) -> list[tuple[str, str]]:
    """Names of each convolution whose very output a BatchNorm takes, and of that BatchNorm; both ran once."""
    names = {module: name for name, module in clip.model.named_modules()}
    origins: dict[int, nn.Module] = {}
    outputs: list[Tensor] = []  # held, so that no `id` is used twice
    calls: dict[nn.Module, int] = {}
    pairs: list[tuple[nn.Module, nn.Module]] = []

    def after_conv(module: nn.Module, inputs: Any, output: Tensor) -> None:
        outputs.append(output)
        origins[id(output)] = module
        calls[module] = calls.get(module, 0) + 1

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[module] = calls.get(module, 0) + 1
        if id(inputs[0]) in origins:
            pairs.append((origins[id(inputs[0])], module))

    hooks = [
        module.register_forward_hook(after_conv)
        if type(module) is nn.Conv2d
        else module.register_forward_pre_hook(before_norm)
        for module in names
        if type(module) is nn.Conv2d or (isinstance(module, nn.BatchNorm2d) and _rest(module) is not None)
    ]
    try:
        clip.encode_image(probe)
    finally:
        for hook in hooks:
            hook.remove()
    return [(names[c], names[n]) for c, n in pairs if calls[c] == calls[n] == 1]


def _rest(norm: nn.BatchNorm2d) -> nn.Module | None:
    """What a BatchNorm does besides normalising (timm's carries an activation), None for a kind that is unknown."""
    if not norm.track_running_stats:
        return None
    if type(norm) is nn.BatchNorm2d:
        return nn.Identity()
    act, drop = getattr(norm, "act", None), getattr(norm, "drop", None)
    return nn.Sequential(drop, act) if isinstance(act, nn.Module) and isinstance(drop, nn.Module) else None


def _put(root: nn.Module, name: str, module: nn.Module | None) -> None:
    assert module is not None
    parent, _, last = name.rpartition(".")
    setattr(root.get_submodule(parent), last, module)
