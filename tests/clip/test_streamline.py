"""Streamlined copies: same embeddings and input gradients, no weight asks for a gradient, the original untouched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.clip.convert import open_clip_to_hf
from tests.conftest import CONFIGS, write_open_clip
from unbackdoor import load
from unbackdoor.clip.handle import Clip, Format
from unbackdoor.clip.preprocess import Frame, Preprocess
from unbackdoor.clip.streamline import _Patches, _SelfAttention, streamlined
from unbackdoor.weights.files import state_hash


def count(clip: Clip, kind: type[nn.Module]) -> int:
    return sum(isinstance(m, kind) for m in clip.image_module().modules())


def seen(clip: Clip, images: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings and the gradient of their first entries by the pictures."""
    images = images.clone().requires_grad_(True)
    found = clip.encode_image(images)
    (grad,) = torch.autograd.grad(found[:, :3].sum(), images)
    return found.detach(), grad


# kind → patches and attentions rewritten, and whether BatchNorms are there to fold
KINDS = {"vit": (1, 2, False), "resnet": (0, 0, True), "timm": (None, 0, None), "embedded": (0, 0, True)}


@pytest.mark.parametrize("kind", KINDS)
def test_same_function_less_work(kind: str, tmp_path: Path) -> None:
    clip = load("embedded" if kind == "embedded" else str(write_open_clip(tmp_path, CONFIGS[kind]())))
    clip.model.eval()
    generator = torch.Generator().manual_seed(0)
    for module in clip.model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    hashed = state_hash(clip.state())
    fast = streamlined(clip)
    images = torch.rand(3, 3, clip.image_size, clip.image_size, generator=generator)
    for was, now in zip(seen(clip, images), seen(fast, images), strict=True):
        torch.testing.assert_close(now, was, atol=2e-6, rtol=1e-3)
    assert state_hash(clip.state()) == hashed and all(p.requires_grad for p in clip.image_parameters().values())
    assert not any(p.requires_grad for p in fast.model.parameters())
    patches, attentions, norms = KINDS[kind]
    assert patches is None or (count(fast, _Patches), count(fast, _SelfAttention)) == (patches, attentions)
    if norms:
        assert count(clip, nn.BatchNorm2d) > 0 == count(fast, nn.BatchNorm2d)


def test_hugging_face_models_too(tmp_path: Path) -> None:
    source = write_open_clip(tmp_path / "vit", CONFIGS["vit"]())
    clip = load(str(open_clip_to_hf(source, tmp_path / "hf")))
    fast = streamlined(clip)
    images = torch.rand(2, 3, clip.image_size, clip.image_size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fast.encode_image(images), clip.encode_image(images), atol=1e-6, rtol=1e-4)
    assert count(fast, _Patches) == 1


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 5, 4, stride=4),
        nn.Conv2d(3, 5, (4, 2), stride=(4, 2), bias=False),
        nn.Conv2d(3, 5, 4, stride=2),
        nn.Conv2d(3, 3, 4, stride=4, groups=3),
        nn.Conv2d(3, 5, 4, stride=4, padding=2),
        nn.Conv2d(3, 5, 1),
    ],
    ids=["square", "oblong", "overlapping", "grouped", "padded", "one pixel"],
)
def test_only_convolutions_over_disjoint_patches_become_products(conv: nn.Conv2d) -> None:
    found = _Patches.of(conv)
    disjoint = conv.kernel_size == conv.stride and conv.groups == 1 and conv.padding == (0, 0)
    assert (found is not None) == (disjoint and conv.kernel_size != (1, 1))
    if found is not None:
        x = torch.rand(2, 3, 13, 9)
        torch.testing.assert_close(found(x), conv(x))


def test_attention_with_a_mask_or_other_keys_goes_to_the_original() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    found = _SelfAttention.of(attention)
    assert found is not None
    x, y, mask = torch.rand(2, 5, 8), torch.rand(2, 5, 8), torch.zeros(5, 5).masked_fill_(torch.eye(5) > 0, -1e9)
    for q, k, options in ((x, x, {}), (x, y, {}), (x, x, {"attn_mask": mask})):
        was, now = (m(q, k, k, need_weights=False, **options)[0] for m in (attention, found))
        torch.testing.assert_close(now, was)
    assert found(x, x, x, need_weights=True)[1].shape == (2, 5, 5)
    assert _SelfAttention.of(nn.MultiheadAttention(8, 2)) is None


class _Forked(nn.Module):
    """A convolution whose output is used beside its BatchNorm: folding would change the function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        nn.init.constant_(self.norm.weight, 3.0)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.conv(x)
        return torch.cat([self.norm(made), made], dim=1).mean(dim=(2, 3))


def test_a_fold_that_changes_the_answers_is_undone() -> None:
    torch.manual_seed(0)
    model = nn.Module()
    model.visual = _Forked()
    kind = Format("toy", ("visual.",), lambda m, x: m.visual(x), lambda m, t: x_none(), lambda s, f: None, "toy")
    clip = Clip(model.eval(), "toy", Preprocess(Frame(8), (0.0,) * 3, (1.0,) * 3), kind)
    fast, images = streamlined(clip), torch.rand(2, 3, 8, 8)
    assert count(fast, nn.BatchNorm2d) == 1
    torch.testing.assert_close(fast.encode_image(images), clip.encode_image(images))


def x_none() -> Tensor:
    raise AssertionError("no text here")
