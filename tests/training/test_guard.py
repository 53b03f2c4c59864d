"""The guard: steps that clean images do not feel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.conftest import CONFIGS, write_open_clip
from unbackdoor import load, load_images
from unbackdoor.clip.handle import Clip
from unbackdoor.training.guard import Guard, guarded, learn_guard
from unbackdoor.weights.vector import snapshot


@pytest.fixture(scope="module", params=["vit", "resnet"])
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return load(str(write_open_clip(tmp_path_factory.mktemp(request.param), CONFIGS[request.param]())))


@pytest.fixture(scope="module")
def batches(clip: Clip) -> list[Tensor]:
    digits = load_images("embedded:digits", side=clip.frame, split="train")
    return [digits.float_batch(part) for part in torch.arange(256).split(16)]


def felt(clip: Clip, step: dict[str, Tensor], images: Tensor) -> float:
    """How far the step moves the images' embeddings."""
    weights, start = clip.image_parameters(), snapshot(clip.image_parameters())
    with torch.no_grad():
        before = clip.encode_image(images)
        for name, w in weights.items():
            w.add_(step[name])
        moved = float((clip.encode_image(images) - before).norm(dim=1).mean())
        for name, w in weights.items():
            w.copy_(start[name])
    return moved


def random_step(clip: Clip) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {n: 1e-3 * torch.randn(p.shape, generator=generator) for n, p in clip.image_parameters().items()}


def test_clean_images_feel_less_of_a_step_the_stricter_the_guard(clip: Clip, batches: list[Tensor]) -> None:
    """On images that it has not seen, and per unit of the step's length: a shorter step alone would be no merit."""
    digits = load_images("embedded:digits", side=clip.frame, split="test")
    fresh = digits.float_batch(torch.arange(64))
    step = random_step(clip)
    ratio = [felt(clip, step, fresh) / length(step)]
    for strength in (10.0, 1.0, 0.1):
        guard = learn_guard(clip, batches, strength)
        soft = {name: guard.soften(name, change) for name, change in step.items()}
        assert {n: t.shape for n, t in soft.items()} == {n: t.shape for n, t in step.items()}
        ratio.append(felt(clip, soft, fresh) / length(soft))
    assert ratio == sorted(ratio, reverse=True) and ratio[-1] < 0.5 * ratio[0], ratio


def length(step: dict[str, Tensor]) -> float:
    return float(torch.stack([t.norm() for t in step.values()]).norm())


def test_the_factor_is_the_second_moments_own(clip: Clip, batches: list[Tensor]) -> None:
    """(R/λ + I)⁻¹ of one linear layer whose gradient is known: the image projection of y = x·P."""
    weights = clip.image_parameters()
    name = next(n for n, p in weights.items() if p.ndim == 2)
    guard = learn_guard(clip, batches[:2], 0.5, seed=3)
    generator = torch.Generator().manual_seed(3)
    moment = torch.zeros(weights[name].shape[1], weights[name].shape[1])
    for images in batches[:2]:
        weights[name].requires_grad_(True)
        embeddings = clip.encode_image(images)
        sides = torch.randn(embeddings.shape, generator=generator)
        (gradient,) = torch.autograd.grad((embeddings * sides).sum(), [weights[name]])
        moment += gradient.T @ gradient
    expected = torch.linalg.inv(moment / (0.5 * moment.diagonal().mean()) + torch.eye(len(moment)))
    torch.testing.assert_close(guard.factors[name], expected, rtol=1e-3, atol=1e-4)


def test_it_leaves_the_model_as_it_was(clip: Clip, batches: list[Tensor]) -> None:
    weights = clip.image_parameters()
    frozen = next(iter(weights))
    weights[frozen].requires_grad_(False)
    before = snapshot(weights)
    flags = {n: p.requires_grad for n, p in weights.items()}
    learn_guard(clip, batches[:1], 0.1)
    assert {n: p.requires_grad for n, p in weights.items()} == flags
    assert all(p.grad is None and torch.equal(p, before[n]) for n, p in weights.items())


def test_a_step_is_softened_after_it_was_made() -> None:
    weight = torch.tensor([[1.0, 2.0]])
    guard = Guard({"w": torch.diag(torch.tensor([1.0, 0.25]))})
    before, after = guarded(guard, {"w": weight}, steps=2)
    for step, expected in enumerate(([[2.0, 2.25]], [[3.0, 2.5]])):
        before(step)
        weight += 1
        after(step)
        torch.testing.assert_close(weight, torch.tensor(expected))


def test_two_steps_are_softened_as_one_and_the_last_in_any_case() -> None:
    weight = torch.tensor([[1.0, 2.0]])
    before, after = guarded(Guard({"w": torch.diag(torch.tensor([1.0, 0.25]))}), {"w": weight}, steps=3, every=2)
    for step, expected in enumerate(([[2.0, 3.0]], [[3.0, 2.5]], [[4.0, 2.75]])):
        before(step)
        weight += 1
        after(step)
        torch.testing.assert_close(weight, torch.tensor(expected))


@pytest.mark.parametrize("shape", [(4,), (5, 3), (5, 3, 2, 2)])
def test_every_shape_is_softened_over_its_inputs(shape: tuple[int, ...]) -> None:
    step = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if len(shape) == 1:
        factor = torch.rand(shape)
        expected = step * factor
    else:
        factor = torch.rand(shape[1], shape[1])
        expected = torch.stack([torch.stack([sum(step[o, i] * factor[i, j] for i in range(shape[1]))
                                             for j in range(shape[1])]) for o in range(shape[0])])  # fmt: skip
    torch.testing.assert_close(Guard({"w": factor}).soften("w", step), expected)
