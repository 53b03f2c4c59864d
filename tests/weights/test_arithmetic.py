"""Sums of state dicts from file to file, against torch on whole tensors."""

from __future__ import annotations

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unbackdoor.base.errors import InputError
from unbackdoor.verbs.weights import apply, combine, diff, inspect
from unbackdoor.weights import stream

State = dict[str, Tensor]


def state(seed: int, dtype: torch.dtype = torch.float32) -> State:
    g = torch.Generator().manual_seed(seed)
    return {
        "visual.blocks.0.w": torch.randn(37, 11, generator=g).to(dtype),
        "visual.blocks.1.w": torch.randn(5000, generator=g).to(dtype),
        "empty": torch.zeros(0, 3, dtype=dtype),
        "scalar": torch.randn((), generator=g).to(dtype),
        "bn.running_var": torch.rand(4, generator=g).to(dtype),
        "bn.num_batches_tracked": torch.tensor(seed),
    }


def saved(path: Path, tensors: State, **metadata: str) -> Path:
    save_file(tensors, path, metadata={"format": "pt", **metadata})
    return path


def sharded(folder: Path, tensors: State) -> Path:
    """Two shards with an index, a configuration, and a file that is none of ours."""
    folder.mkdir()
    names = list(tensors)
    places = {name: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(places.values()):
        save_file({n: tensors[n] for n in names if places[n] == file}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1, "kind": "x"}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"never copied")
    return folder


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PIECE", 97)  # so that every tensor of any size is cut, and not evenly


@pytest.mark.parametrize("model_type", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("vector_type", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("alpha", [0.7, -3.0, 1.0, 0.0, 1e-3])
def test_apply_is_the_plain_reference_to_the_bit(
    tmp_path: Path, model_type: torch.dtype, vector_type: torch.dtype, alpha: float
) -> None:
    model, vector = state(1, model_type), state(2, vector_type)
    out = tmp_path / "o.safetensors"
    a, t = saved(tmp_path / "a.safetensors", model, origin="x"), saved(tmp_path / "t.safetensors", vector)
    told = apply(a, t, alpha=alpha, out=out)
    found = load_file(out)
    wide = torch.float64 if torch.float64 in (model_type, vector_type) else torch.float32
    for name, weight in model.items():
        moved = weight.is_floating_point() and "running" not in name
        expected = (weight.to(wide) - alpha * vector[name].to(wide)).to(model_type) if moved else weight
        assert found[name].dtype == weight.dtype and torch.equal(found[name], expected), name
    assert told["tensors"] == {"moved": 4, "copied": 2}
    from safetensors import safe_open

    with safe_open(out, "pt") as file:
        assert file.metadata() == {"format": "pt", "origin": "x"}
    assert json.loads((tmp_path / "o.safetensors.manifest.json").read_text())["config"]["alpha"] == alpha


def test_a_difference_taken_and_added_again_is_the_other_model(tmp_path: Path) -> None:
    a, b = saved(tmp_path / "a.safetensors", state(1)), saved(tmp_path / "b.safetensors", state(2))
    diff(a, b, out=tmp_path / "t.safetensors")
    vector = load_file(tmp_path / "t.safetensors")
    assert set(vector) == {"visual.blocks.0.w", "visual.blocks.1.w", "empty", "scalar"}
    apply(a, tmp_path / "t.safetensors", alpha=1.0, out=tmp_path / "o.safetensors")
    back = load_file(tmp_path / "o.safetensors")
    for name in vector:
        torch.testing.assert_close(back[name], state(2)[name])
    assert back["bn.num_batches_tracked"] == 1


def test_statistics_are_moved_on_demand(tmp_path: Path) -> None:
    a, b = saved(tmp_path / "a.safetensors", state(1)), saved(tmp_path / "b.safetensors", state(2))
    diff(a, b, out=tmp_path / "t.safetensors", statistics=True)
    found = load_file(tmp_path / "t.safetensors")["bn.running_var"]
    assert torch.equal(found, state(1)["bn.running_var"] - state(2)["bn.running_var"])


def test_a_type_for_the_result(tmp_path: Path) -> None:
    one, two = state(1, torch.bfloat16), state(2, torch.bfloat16)
    a, b = saved(tmp_path / "a.safetensors", one), saved(tmp_path / "b.safetensors", two)
    diff(a, b, out=tmp_path / "t.safetensors", dtype="float32")
    found = load_file(tmp_path / "t.safetensors")["visual.blocks.1.w"]
    assert torch.equal(found, one["visual.blocks.1.w"].float() - two["visual.blocks.1.w"].float())


def test_combine(tmp_path: Path) -> None:
    files = [saved(tmp_path / f"{i}.safetensors", state(i)) for i in range(3)]
    combine(files, scales=[0.5, -1, 2], out=tmp_path / "o.safetensors")
    found, name = load_file(tmp_path / "o.safetensors"), "visual.blocks.0.w"
    assert torch.equal(found[name], 0.5 * state(0)[name] - state(1)[name] + 2 * state(2)[name])


def test_a_sharded_model_stays_sharded(tmp_path: Path) -> None:
    model, out = sharded(tmp_path / "m", state(1)), tmp_path / "o"
    vector = saved(tmp_path / "t.safetensors", {"visual.blocks.0.w": state(2)["visual.blocks.0.w"]})
    apply(model, vector, alpha=2.0, out=out)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    old = json.loads((model / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == old["weight_map"]
    assert index["metadata"] == {
        "total_size": sum(t.numel() * t.element_size() for t in state(1).values()),
        "kind": "x",
    }
    assert not (out / "pytorch_model.bin").exists() and (out / "config.json").read_text() == "{}"
    found = {k: v for file in out.glob("*.safetensors") for k, v in load_file(file).items()}
    name = "visual.blocks.0.w"
    for key, weight in state(1).items():
        assert torch.equal(found[key], weight - 2.0 * state(2)[name] if key == name else weight)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("private")
    model, vector = sharded(tmp_path / "m", state(1)), saved(tmp_path / "t.safetensors", state(2))
    (model / "tokenizer.json").symlink_to(tmp_path / "secret.json")
    apply(model, vector, alpha=1.0, out=tmp_path / "o")
    assert (tmp_path / "o" / "config.json").exists() and not (tmp_path / "o" / "tokenizer.json").exists()


def test_a_folder_comes_whole_or_not_at_all(tmp_path: Path) -> None:
    model, broken = sharded(tmp_path / "m", state(1)), state(2)
    broken["visual.blocks.1.w"][-1] = float("inf")
    vector = saved(tmp_path / "t.safetensors", broken)
    with pytest.raises(InputError, match=r"visual\.blocks\.1\.w comes out with NaN or infinite"):
        apply(model, vector, alpha=2.0, out=tmp_path / "o")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "t.safetensors"]
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "kept").write_text("")
    with pytest.raises(InputError, match="is there already"):
        apply(model, saved(tmp_path / "t.safetensors", state(2)), alpha=2.0, out=tmp_path / "o")


def test_a_sharded_model_does_not_become_a_file(tmp_path: Path) -> None:
    model, vector = sharded(tmp_path / "m", state(1)), saved(tmp_path / "t.safetensors", state(2))
    with pytest.raises(InputError, match="give the name of a folder"):
        apply(model, vector, alpha=1.0, out=tmp_path / "o.safetensors")


def test_hashes_are_those_of_the_files(tmp_path: Path) -> None:
    a, t = saved(tmp_path / "a.safetensors", state(0)), saved(tmp_path / "t.safetensors", state(1))
    before = {"model": sha256(a.read_bytes()).hexdigest(), "vector": sha256(t.read_bytes()).hexdigest()}
    apply(a, t, alpha=0.5, out=a, hashes=True)  # onto itself: what was read is hashed before it is gone
    found = json.loads((tmp_path / "a.safetensors.manifest.json").read_text())["hashes"]
    assert found == {**before, "out": sha256(a.read_bytes()).hexdigest()}
    parts = sharded(tmp_path / "m", state(0))
    combine([parts, parts], out=tmp_path / "sum", hashes=True)
    found = json.loads((tmp_path / "sum" / "manifest.json").read_text())["hashes"]
    joined = b"".join(path.read_bytes() for path in sorted(parts.glob("*.safetensors")))
    assert found["vector 0"] == found["vector 1"] == sha256(joined).hexdigest() != found["out"]
    diff(t, t, out=tmp_path / "d.safetensors")
    assert json.loads((tmp_path / "d.safetensors.manifest.json").read_text())["hashes"] == {}


def test_in_place(tmp_path: Path) -> None:
    a, t = saved(tmp_path / "a.safetensors", state(1)), saved(tmp_path / "t.safetensors", state(2))
    apply(a, t, alpha=1.0, out=a)
    name = "visual.blocks.1.w"
    assert torch.equal(load_file(a)[name], state(1)[name] - state(2)[name])


def test_prefixes(tmp_path: Path) -> None:
    a = saved(tmp_path / "a.safetensors", state(1))
    t = saved(tmp_path / "t.safetensors", {f"module.model.{name}": v for name, v in state(2).items()})
    with pytest.raises(InputError, match="--ignore-prefix"):
        apply(a, t, alpha=1.0, out=tmp_path / "o.safetensors")
    apply(a, t, alpha=1.0, out=tmp_path / "o.safetensors", ignore_prefix=True)
    name = "visual.blocks.1.w"
    assert torch.equal(load_file(tmp_path / "o.safetensors")[name], state(1)[name] - state(2)[name])


def test_tied_tensors_stay_tied(tmp_path: Path) -> None:
    tied = saved(tmp_path / "a.safetensors", state(1), **{"head.w": "visual.blocks.0.w"})
    both = saved(tmp_path / "t.safetensors", {**state(2), "head.w": state(2)["visual.blocks.0.w"].clone()})
    apply(tied, both, alpha=1.0, out=tmp_path / "o.safetensors")
    from unbackdoor.weights.stored import open_stored

    assert open_stored(tmp_path / "o.safetensors").tied == {"head.w": "visual.blocks.0.w"}
    name = "visual.blocks.0.w"
    assert torch.equal(load_file(tmp_path / "o.safetensors")[name], state(1)[name] - state(2)[name])
    # The other way round both copies are moved by the one that is stored.
    untied = saved(tmp_path / "u.safetensors", {**state(3), "head.w": state(3)[name].clone()})
    apply(
        untied,
        saved(tmp_path / "v.safetensors", state(2), **{"head.w": name}),
        alpha=1.0,
        out=tmp_path / "p.safetensors",
    )
    found = load_file(tmp_path / "p.safetensors")
    assert torch.equal(found["head.w"], found[name])


def without(name: str, tensors: State) -> State:
    return {key: value for key, value in tensors.items() if key != name}


def test_missing_and_extra_tensors(tmp_path: Path) -> None:
    whole = saved(tmp_path / "a.safetensors", state(1))
    part = saved(tmp_path / "b.safetensors", without("scalar", state(2)))
    out = tmp_path / "o.safetensors"
    for call in (
        lambda **k: diff(whole, part, out=out, **k),
        lambda **k: diff(part, whole, out=out, **k),
        lambda **k: combine([whole, part], out=out, **k),
        lambda **k: apply(part, whole, alpha=1.0, out=out, **k),
    ):
        with pytest.raises(InputError, match=r"lacks scalar of .*; with --partial"):
            call()
        call(partial=True)
        assert out.exists()
        out.unlink()
    with pytest.raises(InputError, match="name the vector that holds all of them first"):
        combine([part, whole], out=out, partial=True)


@pytest.mark.parametrize(
    ("vector", "told"),
    [
        ({"scalar": torch.ones(3)}, "different architectures"),
        ({"scalar": torch.tensor(3)}, "type I64"),
        ({"scalar": torch.tensor(float("nan"))}, "NaN"),
        ({"scalar": torch.tensor(3e38)}, "NaN or infinite"),
        ({"bn.num_batches_tracked": torch.tensor(1)}, "nothing that could be added"),
    ],
)
def test_vectors_that_do_not_fit(tmp_path: Path, vector: State, told: str) -> None:
    a, t = saved(tmp_path / "a.safetensors", state(1)), saved(tmp_path / "t.safetensors", vector)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=told):
        apply(a, t, alpha=-5.0, out=tmp_path / "o.safetensors")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_result_too_large_for_its_type(tmp_path: Path, dtype: torch.dtype) -> None:
    a = saved(tmp_path / "a.safetensors", {"w": torch.tensor([1.0], dtype=dtype)})
    t = saved(tmp_path / "t.safetensors", {"w": torch.tensor([torch.finfo(dtype).max], dtype=dtype)})
    with pytest.raises(InputError, match="too large"):
        apply(a, t, alpha=-1.002, out=tmp_path / "o.safetensors")


def test_halves_are_rounded_as_torch_rounds_them(tmp_path: Path) -> None:
    values = torch.randn(20_000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-40, 30, 20_000)
    for dtype in (torch.bfloat16, torch.float16):
        kept = values[values.abs() < torch.finfo(dtype).max]
        t = saved(tmp_path / "t.safetensors", {"w": kept})
        combine([t], out=tmp_path / "o.safetensors", dtype=str(dtype).removeprefix("torch."))
        assert torch.equal(load_file(tmp_path / "o.safetensors")["w"], kept.to(dtype))


def test_inspect(tmp_path: Path) -> None:
    one, two = state(1), state(2)
    one["visual.blocks.1.w"][3] = float("nan")
    found = inspect(saved(tmp_path / "a.safetensors", one), saved(tmp_path / "b.safetensors", two))
    rows = {row["group"]: row for row in found["groups"]}
    a, b = one["visual.blocks.0.w"].double().flatten(), two["visual.blocks.0.w"].double().flatten()
    row = rows["visual.blocks.0"]
    assert row["norm"] == pytest.approx(float(a.norm())) and row["other_norm"] == pytest.approx(float(b.norm()))
    assert row["cosine"] == pytest.approx(float(a @ b / a.norm() / b.norm()))
    assert row["apart"] == pytest.approx(float((a - b).norm() / b.norm()))
    assert rows["visual.blocks.1"]["broken"] == 1 and found["left_out"] == ["bn.num_batches_tracked"]
    assert inspect(tmp_path / "b.safetensors")["whole"]["norm"] == pytest.approx(
        float(torch.cat([t.double().flatten() for t in two.values() if t.is_floating_point()]).norm())
    )


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    a, t = saved(tmp_path / "a.safetensors", state(1)), saved(tmp_path / "t.safetensors", state(2))
    probe = (
        "import sys; from unbackdoor.cli.main import run; "
        f"code = run(['weights', 'apply', {str(a)!r}, {str(t)!r}, '--alpha', '1', '--out', {str(tmp_path / 'o')!r}]); "
        "sys.exit(code or sorted({'torch', 'safetensors'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o" / "a.safetensors").exists() and "computed" in done.stdout
