"""Views of images."""

from __future__ import annotations

import pytest
import torch

from unbackdoor.data.views import draw_views

IMAGES = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
ROWS = torch.arange(6)


def all_of(number: int) -> torch.Tensor:
    return torch.full((6,), number)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_the_first_is_the_image_and_the_second_its_mirror_image(count: int) -> None:
    views = draw_views(6, count, seed=1)
    assert len(views) == count
    assert torch.equal(views.see(IMAGES, ROWS, all_of(0)), IMAGES)
    if count > 1:
        assert torch.equal(views.see(IMAGES, ROWS, all_of(1)), IMAGES.flip(-1))


def test_the_others_differ_by_image_and_number_and_stay_images() -> None:
    views = draw_views(6, 5, seed=1)
    same = IMAGES[:1].expand(6, -1, -1, -1)
    seen = torch.cat([views.see(same, ROWS, all_of(number)) for number in range(2, 5)])
    assert seen.shape == (18, 3, 16, 16) and seen.min() >= 0 and seen.max() <= 1
    apart = torch.cdist(seen.flatten(1), seen.flatten(1)) + 9 * torch.eye(18)
    assert apart.min() > 0.1


def test_one_seed_gives_the_same_views_alone_and_in_a_batch() -> None:
    views, again, other = draw_views(6, 4, seed=1), draw_views(6, 4, seed=1), draw_views(6, 4, seed=2)
    which = torch.tensor([0, 1, 2, 3, 2, 3])
    whole = views.see(IMAGES, ROWS, which)
    assert torch.equal(whole, again.see(IMAGES, ROWS, which))
    assert not torch.allclose(whole[2:], other.see(IMAGES, ROWS, which)[2:])
    for row in range(6):
        alone = views.see(IMAGES[row : row + 1], ROWS[row : row + 1], which[row : row + 1])
        torch.testing.assert_close(alone, whole[row : row + 1])


def test_a_crop_of_a_flat_image_is_flat_and_as_light_as_drawn() -> None:
    views = draw_views(6, 3, seed=5)
    flat = torch.full((6, 3, 16, 16), 0.5)
    seen = views.see(flat, ROWS, all_of(2))
    torch.testing.assert_close(seen[:, 0, 0, 0], 0.5 * views.brightness[2], rtol=1e-5, atol=1e-6)
    assert float(seen.flatten(1).std(dim=1).max()) < 1e-5
