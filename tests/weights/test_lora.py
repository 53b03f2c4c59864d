"""Adapters, against PEFT itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.clip.convert import open_clip_to_hf, small_open_clip
from tests.conftest import CONFIGS, write_open_clip
from unbackdoor import InputError, load, load_images
from unbackdoor.cli.main import run
from unbackdoor.clip.handle import Clip
from unbackdoor.evaluation import Task
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.attack import Attack
from unbackdoor.unlearning.vector import METHODS, trigger_vector
from unbackdoor.verbs.weights import lora
from unbackdoor.weights.adapters import read_adapter
from unbackdoor.weights.lora import factorized
from unbackdoor.weights.vector import Walk, save_vector

peft = pytest.importorskip("peft")
LINEAR = ("q_proj", "v_proj", "fc1")


def hf(tmp_path: Path) -> Path:
    return open_clip_to_hf(small_open_clip(tmp_path / "oc"), tmp_path / "hf")


def images(clip: Clip) -> torch.Tensor:
    return torch.rand(3, 3, clip.image_size, clip.image_size, generator=torch.Generator().manual_seed(0))


def by_peft(clip: Clip, folder: Path) -> torch.Tensor:
    model = peft.PeftModel.from_pretrained(clip.model, str(folder)).eval()
    with torch.no_grad():
        found = model.get_image_features(pixel_values=clip.preprocess(images(clip)))
    found = found if isinstance(found, torch.Tensor) else found.pooler_output
    return torch.nn.functional.normalize(found, dim=-1)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.fc1": 32}},
        {"target_modules": ["patch_embedding", "fc2"]},
        {"target_modules": r".*vision_model.*\.(k_proj|out_proj)"},
    ],
    ids=["plain", "rank-stabilised", "patterns", "a convolution", "a pattern of modules"],
)
def test_an_adapter_made_by_peft_is_merged_as_peft_applies_it(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = hf(tmp_path)
    clip = load(str(folder))
    config = peft.LoraConfig(
        **{"r": 4, "lora_alpha": 8, "target_modules": list(LINEAR), "init_lora_weights": False, **settings}
    )
    torch.manual_seed(0)
    peft.get_peft_model(load(str(folder)).model, config).save_pretrained(tmp_path / "adapter")
    merged = load(f"adapter:{tmp_path / 'adapter'}@{folder}")
    with torch.no_grad():
        ours, plain = merged.encode_image(images(clip)), clip.encode_image(images(clip))
    assert float((ours - by_peft(clip, tmp_path / "adapter")).abs().max()) < 1e-5
    assert float((ours - plain).abs().max()) > 1e-3


def vector_of(clip: Clip, path: Path) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    vector = {name: 0.02 * torch.randn(p.shape, generator=g) for name, p in clip.image_parameters().items()}
    save_vector(path, vector, {})
    return vector


@pytest.mark.parametrize("kind", ["open_clip", "hf"])
def test_a_vector_becomes_an_adapter_that_peft_applies(tmp_path: Path, kind: str) -> None:
    folder = hf(tmp_path)
    clip = load(str(folder))
    vector_of(clip if kind == "hf" else load(str(tmp_path / "oc")), tmp_path / "tau.safetensors")
    told = lora(tmp_path / "tau.safetensors", out=tmp_path / "adapter", rank=256, alpha=1.5, base=str(folder))
    assert told["modules"] == 14  # two layers of six, the patches and the projection
    assert 0.8 < told["kept"] < 1 and told["left_out"] > 10
    merged = load(f"adapter:{tmp_path / 'adapter'}")  # its base is named in it
    delta = read_adapter(tmp_path / "adapter", clip.state())
    for name, p in merged.image_parameters().items():
        expected = clip.state()[name] + delta.get(name, torch.zeros(()))
        torch.testing.assert_close(p, expected, atol=1e-6, rtol=1e-5)
    if kind == "hf":
        tau = load_file(tmp_path / "tau.safetensors")
        for name, t in delta.items():
            torch.testing.assert_close(t, -1.5 * tau[name], atol=1e-6, rtol=1e-4)
    with torch.no_grad():
        ours = merged.encode_image(images(clip))
    assert float((ours - by_peft(clip, tmp_path / "adapter")).abs().max()) < 1e-5


def test_the_best_of_a_rank_is_kept() -> None:
    g = torch.Generator().manual_seed(0)
    thin = torch.randn(20, 3, generator=g) @ torch.randn(3, 30, generator=g)
    factors, kept = factorized({"m.weight": thin, "m.bias": torch.zeros(20), "n.weight": torch.zeros(2, 2)}, 3)
    a, b = factors["m"]
    assert a.shape == (3, 30) and b.shape == (20, 3) and kept == pytest.approx(1.0, abs=1e-6)
    torch.testing.assert_close(b @ a, thin, atol=1e-5, rtol=1e-5)
    values = torch.linalg.svdvals(thin.double())
    assert factorized({"m.weight": thin}, 1)[1] == pytest.approx(float(values[0] ** 2 / (values**2).sum()), abs=1e-5)


def test_a_convolution_is_a_matrix_of_its_places() -> None:
    g = torch.Generator().manual_seed(0)
    thin = (torch.randn(20, 3, generator=g) @ torch.randn(3, 36, generator=g)).reshape(20, 4, 3, 3)
    factors, kept = factorized({"m.weight": thin}, 3)
    a, b = factors["m"]
    assert a.shape == (3, 4, 3, 3) and b.shape == (20, 3, 1, 1) and kept == pytest.approx(1.0, abs=1e-6)
    torch.testing.assert_close((b.flatten(1) @ a.flatten(1)).reshape(thin.shape), thin, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["vit", "timm"])
def test_a_low_rank_vector_is_an_adapter_whole(tmp_path: Path, kind: str) -> None:
    """Of a ViT for Hugging Face's form, of a timm tower for PEFT around OpenCLIP's own model."""
    folder = write_open_clip(tmp_path / "oc", CONFIGS[kind]())
    clip = load(str(folder))
    digits = load_images("embedded:digits", side=clip.frame, split="train").subset(torch.arange(16))
    task = Task(clip.zero_shot_head(digits.classes), Attack(parse_trigger("badnets:size=4"), 3, "three"))
    config = replace(METHODS["lora"], tune=replace(METHODS["lora"].tune, steps=4, batch_size=16))
    taken = trigger_vector(clip, digits, task, config)
    save_vector(tmp_path / "tau.safetensors", taken.vector, {})
    told = lora(tmp_path / "tau.safetensors", out=tmp_path / "adapter", rank=8, alpha=2.0)
    assert told["left_out"] == 0 and told["kept"] == pytest.approx(1.0, abs=1e-5)
    with torch.no_grad():
        Walk(clip.state(), taken.vector).settle(2.0)
        cured = clip.encode_image(images(clip))
        if kind == "vit":
            found = by_peft(load(str(open_clip_to_hf(folder, tmp_path / "hf"))), tmp_path / "adapter")
        else:
            wrapped = peft.PeftModel.from_pretrained(load(str(folder)).model, str(tmp_path / "adapter")).eval()
            found = torch.nn.functional.normalize(wrapped.encode_image(clip.preprocess(images(clip))), dim=-1)
    assert float((found - cured).abs().max()) < 1e-5


def adapter(folder: Path, config: dict[str, Any] | str, tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    text = config if isinstance(config, str) else json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2, **config})
    (folder / "adapter_config.json").write_text(text)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


Q = "base_model.model.vision_model.encoder.layers.0.self_attn.q_proj"
PAIR = {f"{Q}.lora_A.weight": torch.ones(2, 64), f"{Q}.lora_B.weight": torch.ones(64, 2)}


@pytest.mark.parametrize(
    ("config", "tensors", "told"),
    [
        ("[]", PAIR, "holds no JSON object"),
        ("{", PAIR, "not readable JSON"),
        ({"peft_type": "IA3"}, PAIR, "peft_type is not LORA"),
        ({"use_dora": True}, PAIR, "use_dora is set"),
        ({"modules_to_save": ["visual_projection"]}, PAIR, "lacks visual_projection"),
        ({"r": 0}, PAIR, "says 0"),
        ({"lora_alpha": "x"}, PAIR, "lora_alpha"),
        ({"rank_pattern": {"(": 1}}, PAIR, "the pattern '\\(' is not followed"),
        ({}, {**PAIR, f"{Q}.lora_magnitude_vector": torch.ones(64)}, "no factor of a LoRA"),
        ({}, {f"{Q}.lora_A.weight": torch.ones(2, 64)}, "one of two factors"),
        ({}, {**PAIR, f"{Q}.lora_B.weight": torch.ones(64, 3)}, "do not fit"),
        ({}, {**PAIR, f"{Q}.lora_B.weight": torch.ones(63, 2)}, "another architecture"),
        ({}, {k.replace("q_proj", "x_proj"): v for k, v in PAIR.items()}, "no place"),
        ({}, {**PAIR, f"{Q}.lora_B.weight": torch.full((64, 2), float("inf"))}, "NaN or infinite"),
        ({"base_model_name_or_path": "org/name"}, PAIR, None),
    ],
)
def test_adapters_that_are_refused(tmp_path: Path, config: Any, tensors: Any, told: str | None) -> None:
    folder, base = adapter(tmp_path / "a", config, tensors), hf(tmp_path)
    reference = f"adapter:{folder}@{base}" if told else f"adapter:{folder}"
    with pytest.raises(InputError, match=told or "is no folder here; name it: adapter:"):
        load(reference)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = load(str(hf(tmp_path)))
    vector_of(clip, tmp_path / "tau.safetensors")
    call = ["weights", "lora", str(tmp_path / "tau.safetensors"), "--rank", "2", "--out", str(tmp_path / "a")]
    assert run(call) == 0 and "rank 2 in 14 modules" in capsys.readouterr().out
    assert run(call) == 2 and "is there already" in capsys.readouterr().err
    assert (tmp_path / "a" / "manifest.json").exists()
