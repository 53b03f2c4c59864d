from __future__ import annotations

import pytest
import torch

from unbackdoor.base.errors import InputError
from unbackdoor.weights.plane import Plane


def tensors(seed: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(5, 3, generator=g), "b": torch.randn(7, generator=g)}


def test_a_plane_reaches_any_point_and_settles_with_a_single_rounding() -> None:
    theta, first, second = tensors(0), tensors(1), {"b": tensors(2)["b"]}
    start = {name: t.clone() for name, t in theta.items()}
    live = dict(theta)
    plane = Plane(theta, first, second)
    for a, b in ((0.5, 0.0), (0.5, -3.0), (2.0, 1.5), (2.0, 1.5)):
        plane.to(a, b)
        assert plane.place == (a, b)
        torch.testing.assert_close(theta["a"], start["a"] + a * first["a"], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(theta["b"], start["b"] + a * first["b"] + b * second["b"], atol=1e-5, rtol=1e-5)
    plane.settle(0.3, 0.7)
    assert torch.equal(theta["a"], torch.add(start["a"], first["a"], alpha=0.3))
    assert torch.equal(theta["b"], start["b"].add(first["b"], alpha=0.3).add(second["b"], alpha=0.7))
    plane.settle(0.0, 0.0)
    assert all(torch.equal(theta[name], start[name]) and theta[name] is live[name] for name in theta)


@pytest.mark.parametrize("which", [0, 1])
def test_a_vector_of_another_architecture_is_refused(which: int) -> None:
    vectors = [tensors(1), tensors(2)]
    vectors[which] = {"c": torch.zeros(2)}
    with pytest.raises(InputError, match="another architecture"):
        Plane(tensors(0), *vectors)
