"""Convolutional towers compute with the channels last; nobody outside can tell."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tests.conftest import CONFIGS, write_open_clip
from unbackdoor import load


@pytest.mark.parametrize(("kind", "last"), [("vit", False), ("resnet", True), ("timm", True)])
def test_layout_changes_nothing_but_speed(kind: str, last: bool, tmp_path: Path) -> None:
    folder = write_open_clip(tmp_path / "in", CONFIGS[kind]())
    clip = load(str(folder))
    kernels = [p for p in clip.image_parameters().values() if p.ndim == 4 and min(p.shape[1:3]) > 1]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels) is last
    images = torch.rand(3, 3, clip.image_size, clip.image_size, generator=torch.Generator().manual_seed(0))
    found = clip.encode_image(images)
    clip.model.to(memory_format=torch.contiguous_format)
    torch.testing.assert_close(found, clip.encode_image(images), atol=1e-6, rtol=1e-5)
    saved = load(str(folder)).save(tmp_path / "out")
    name = "open_clip_model.safetensors"
    with safe_open(folder / name, "pt") as before, safe_open(saved / name, "pt") as after:
        assert set(before.keys()) == set(after.keys())
        assert all(torch.equal(before.get_tensor(n), after.get_tensor(n)) for n in before.keys())  # noqa: SIM118


def test_a_convolution_that_torch_cannot_differentiate_so_keeps_its_layout(vit_folder: Path) -> None:
    """With the channels last, torch 2.15 ends the process in a segmentation fault at `backward`."""
    from dataclasses import replace

    clip = load(str(vit_folder))
    for channels, last in ((3, False), (8, True)):
        model = torch.nn.Sequential(torch.nn.Conv2d(channels, 16, 1, stride=2), torch.nn.Conv2d(16, 16, 3))
        layout = replace(clip, model=model, layout=torch.contiguous_format).layout
        assert (layout == torch.channels_last) is last
