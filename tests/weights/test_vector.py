from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from unbackdoor.base.disk import atomic
from unbackdoor.base.errors import InputError
from unbackdoor.weights.files import read_checkpoint, read_tensors, state_hash, write_tensors
from unbackdoor.weights.vector import Walk, add_, difference, load_vector, norm, save_vector, snapshot


def weights(seed: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(5, 3, generator=g), "b": torch.randn(7, generator=g)}


def test_difference_and_add_are_inverse() -> None:
    a, b = weights(0), weights(1)
    vector = difference(b, a)
    add_(a, vector, 1.0)
    for name in a:
        torch.testing.assert_close(a[name], b[name])


def test_walk_reaches_any_alpha_and_settles_exactly() -> None:
    theta, tau = weights(0), weights(1)
    start = snapshot(theta)
    walk = Walk(theta, tau)
    for alpha in (0.5, 3.0, 0.25, 1.7):
        walk.to(alpha)
        for name in theta:
            torch.testing.assert_close(theta[name], start[name] - alpha * tau[name], atol=1e-5, rtol=1e-5)
    walk.settle(1.7)
    for name in theta:
        assert torch.equal(theta[name], torch.add(start[name], tau[name], alpha=-1.7))


def test_walk_moves_live_weights_without_replacing_them() -> None:
    theta = weights(0)
    places = {name: t.data_ptr() for name, t in theta.items()}
    Walk(theta, weights(1)).to(0.5)
    assert places == {name: t.data_ptr() for name, t in theta.items()}


def test_norm() -> None:
    assert norm({"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])}) == pytest.approx(5.0)


def test_vector_file_round_trip(tmp_path: Path) -> None:
    save_vector(tmp_path / "v.safetensors", weights(3), {"target": "cat"})
    vector, metadata = load_vector(tmp_path / "v.safetensors")
    assert metadata["target"] == "cat"
    assert all(torch.equal(vector[k], v) for k, v in weights(3).items())


@pytest.mark.parametrize(
    ("vector", "part"),
    [({"c": torch.zeros(2)}, "model lacks"), ({"a": torch.zeros(2)}, "another architecture")],
)
def test_a_vector_of_another_model_is_refused(vector: dict[str, torch.Tensor], part: str) -> None:
    with pytest.raises(InputError, match=part):
        Walk(weights(0), vector)


def test_bad_vector_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_vector(tmp_path / "missing.safetensors")
    (tmp_path / "junk.safetensors").write_bytes(b"not a header at all")
    with pytest.raises(InputError, match="not a sound"):
        load_vector(tmp_path / "junk.safetensors")
    save_vector(tmp_path / "nan.safetensors", {"a": torch.tensor([float("nan")])}, {})
    with pytest.raises(InputError, match="NaN"):
        load_vector(tmp_path / "nan.safetensors")
    save_vector(tmp_path / "empty.safetensors", {}, {})
    with pytest.raises(InputError, match="no tensors"):
        load_vector(tmp_path / "empty.safetensors")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def half(temporary: Path) -> None:
        temporary.write_text("ne")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        atomic(path, half)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x"]


class Bomb:
    def __reduce__(self):  # type: ignore[no-untyped-def]
        return os.mkdir, ("bomb-went-off",)


def test_a_pickle_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.zeros(1), "b": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(InputError, match="cannot be loaded as plain tensors"):
        read_checkpoint(tmp_path / "bomb.pt")
    assert not (tmp_path / "bomb-went-off").exists()


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
def test_training_wrappers_and_prefixes_are_taken_off(tmp_path: Path, wrap) -> None:  # type: ignore[no-untyped-def]
    torch.save(wrap({f"module.{k}": v for k, v in weights(0).items()}), tmp_path / "c.pt")
    found = read_checkpoint(tmp_path / "c.pt")
    assert all(torch.equal(found[k], v) for k, v in weights(0).items())


def test_shared_tensors_can_be_written(tmp_path: Path) -> None:
    t = torch.ones(3)
    write_tensors(tmp_path / "s.safetensors", {"a": t, "b": t})
    assert read_tensors(tmp_path / "s.safetensors")[0].keys() == {"a", "b"}


def test_state_hash_sees_names_types_and_values() -> None:
    base = state_hash(weights(0))
    assert base == state_hash(dict(reversed(weights(0).items())))
    changed = weights(0)
    changed["b"][0] += 1e-3
    renamed = {("c" if k == "b" else k): v for k, v in weights(0).items()}
    typed = {k: v.half() for k, v in weights(0).items()}
    assert len({base, state_hash(changed), state_hash(renamed), state_hash(typed)}) == 4


def test_tensors_under_two_names_move_once() -> None:
    """As state dicts name what two modules share; the parts of one tensor are no such names."""
    shared, whole = torch.ones(2, 3), torch.zeros(4)
    theta = {"a": shared, "b": shared, "c": whole[:2], "d": whole[2:], "e": torch.ones(0), "f": torch.ones(0)}
    tau = {name: torch.ones_like(t) for name, t in theta.items()}
    add_(theta, tau, 2.0)
    assert torch.equal(shared, torch.full((2, 3), 3.0)) and torch.equal(whole, torch.full((4,), 2.0))
    walk = Walk(theta, tau)
    walk.to(1.0)
    assert torch.equal(shared, torch.full((2, 3), 2.0)) and torch.equal(whole, torch.full((4,), 1.0))
    walk.settle(0.5)
    assert torch.equal(shared, torch.full((2, 3), 2.5)) and torch.equal(whole, torch.full((4,), 1.5))
