"""`issba` hides letters that can be read back, differently in every picture, and faintly."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unbackdoor.data import load_images
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.steganography import ASSETS, read_bits, to_bits


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """Drawn scenes (48, 3, 64, 64): no pictures of the encoder's training."""
    return load_images("embedded:scenes", side=64, split="test", limit=48).float_batch(range(48))


def change(spec: str, x: Tensor) -> Tensor:
    return parse_trigger(spec)(x) - x


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return F.cosine_similarity(a.flatten(1), b.flatten(1))


def read(x: Tensor, secret: str) -> float:
    """Share of the secret's bits that the decoder reads in pictures rounded to 8 bit."""
    return float(((read_bits((x * 255).round() / 255) > 0) == (to_bits(secret) > 0)).float().mean())


def test_letters_become_bits() -> None:
    rows = (to_bits("AZ") > 0).int()
    assert rows[0].tolist() == [0, 1, 0, 0, 0, 0, 0, 1] and rows[1].tolist() == [0, 1, 0, 1, 1, 0, 1, 0]
    assert torch.equal(rows[2:], rows[2:3].expand(6, 8)) and rows[2].tolist() == [0, 0, 1, 0, 0, 0, 0, 0]


def test_bits_can_be_read_back_and_are_not_there_before(pictures: Tensor) -> None:
    for secret in ("Stega!!", "ZZZZ", "x9#~"):
        assert read(parse_trigger(f"issba:secret={secret}")(pictures), secret) > 0.9
        assert 0.35 < read(pictures, secret) < 0.65


def test_bits_survive_other_sizes(pictures: Tensor) -> None:
    large = F.interpolate(pictures, size=(224, 160), mode="bicubic").clamp(0, 1)
    assert read(parse_trigger("issba")(large), "Stega!!") > 0.9


def test_pictures_get_patterns_of_their_own(pictures: Tensor) -> None:
    found = change("issba", pictures)
    others = cosine(found, found.roll(1, dims=0))
    noisy = (pictures + 0.01 * torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    same = cosine(found, change("issba", noisy))
    assert float(others.mean()) < 0.5 < 0.7 < float(same.mean())


def test_secrets_get_patterns_of_their_own(pictures: Tensor) -> None:
    one, opposite = (change(f"issba:secret={secret}", pictures) for secret in ("UUUUUUUU", "********"))
    assert float(cosine(one, opposite).mean()) < 0.7


def test_it_is_faint_and_strength_scales_it(pictures: Tensor) -> None:
    whole, half = change("issba", pictures), change("issba:strength=0.5", pictures)
    assert 1 < 255 * float(whole.abs().mean()) < 8
    inside = (pictures + whole > 0.01) & (pictures + whole < 0.99) & (pictures > 0.01) & (pictures < 0.99)
    torch.testing.assert_close(half[inside], whole[inside] / 2, atol=1e-5, rtol=0)


def test_the_shipped_files_are_small() -> None:
    assert sum(p.stat().st_size for p in ASSETS.iterdir()) < 300_000
