from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.clip.convert import open_clip_to_hf, small_open_clip, to_hf, to_open_clip
from tests.conftest import CONFIGS, vit_config, write_open_clip
from unbackdoor import load
from unbackdoor.base.errors import InputError
from unbackdoor.clip.preprocess import Frame, Preprocess
from unbackdoor.weights.files import read_tensors, write_tensors

TEXTS = ["a photo of a cat.", "dog", "a rather longer sentence about a striped red star"]


def images(side: int = 32, n: int = 3) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_agrees_with_the_library_itself(open_clip_folder: Path) -> None:
    import open_clip

    clip = load(f"local-dir:{open_clip_folder}")
    model = open_clip.create_model(f"local-dir:{open_clip_folder}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{open_clip_folder}")(TEXTS)
    x = images(clip.image_size)
    with torch.no_grad():
        torch.testing.assert_close(clip.encode_image(x), model.encode_image(clip.preprocess(x), normalize=True))
        torch.testing.assert_close(
            clip.encode_text(TEXTS), model.encode_text(tokens, normalize=True), atol=1e-6, rtol=1e-5
        )
    assert clip.logit_scale == pytest.approx(float(model.logit_scale.detach().exp()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kind", list(CONFIGS))
def test_saved_models_load_back_bit_equal(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    import open_clip

    folder = write_open_clip(tmp_path / "in", CONFIGS[kind](), dtype)
    clip = load(str(folder))
    clip.save(tmp_path / "out")
    before, after = (read_tensors(f / "open_clip_model.safetensors")[0] for f in (folder, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) and before[n].dtype == after[n].dtype for n in before)
    theirs, ours = open_clip.create_model(f"local-dir:{tmp_path / 'out'}").state_dict(), clip.state()
    assert all(torch.equal(theirs[n].float(), ours[n].float()) for n in ours)


def test_image_parameters_are_the_image_tower(open_clip_folder: Path) -> None:
    clip = load(str(open_clip_folder))
    names = set(clip.image_parameters())
    assert names and all(n.startswith("visual.") for n in names)
    before = clip.encode_text(TEXTS)
    with torch.no_grad():
        for p in clip.image_parameters().values():
            p.add_(0.5)
    assert torch.equal(before, clip.encode_text(TEXTS))


def test_half_precision_products_stay_close_and_come_back_whole(vit_folder: Path) -> None:
    clip = load(str(vit_folder))
    whole, half = clip.encode_image(images()), clip.encode_image(images(), compute=torch.bfloat16)
    assert half.dtype == torch.float32 and not torch.equal(whole, half)
    assert float((whole * half).sum(-1).min().detach()) > 0.999
    assert all(p.dtype == torch.float32 for p in clip.image_parameters().values())


def test_clone_is_independent(vit_folder: Path) -> None:
    clip = load(str(vit_folder))
    other = clip.clone()
    with torch.no_grad():
        next(iter(other.image_parameters().values())).zero_()
    assert not torch.equal(clip.encode_image(images()), other.encode_image(images()))


def test_head_is_the_mean_of_templates_and_is_cached(vit_folder: Path) -> None:
    clip = load(str(vit_folder))
    templates = ("a photo of a {}.", "{}")
    head = clip.zero_shot_head(["cat", "dog"], templates)
    rows = clip.encode_text(["a photo of a dog.", "dog"]).mean(dim=0)
    torch.testing.assert_close(head[1], rows / rows.norm())
    assert clip.zero_shot_head(["cat", "dog"], templates) is head
    with torch.no_grad():
        clip.state()["ln_final.bias"].add_(1.0)
    assert not torch.allclose(clip.zero_shot_head(["cat", "dog"], templates), head)


@pytest.mark.parametrize("squash", [True, False])
def test_preprocess(squash: bool) -> None:
    step = Preprocess(Frame(16, fit="squash" if squash else "shortest"), (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    x = images(16)
    torch.testing.assert_close(step(x) * 0.2 + torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1), x)
    wide = torch.rand(2, 3, 20, 40, requires_grad=True)
    out = step(wide)
    assert out.shape == (2, 3, 16, 16)
    out.sum().backward()
    assert wide.grad is not None and bool((wide.grad[..., :2] != 0).any()) == squash  # the crop cuts the sides off


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_hugging_face_agrees_with_open_clip(quick_gelu: bool, tmp_path: Path) -> None:
    folder = small_open_clip(tmp_path / "oc", quick_gelu=quick_gelu)
    ours, theirs = load(str(folder)), load(str(open_clip_to_hf(folder, tmp_path / "hf")))
    assert theirs.kind == "hf" and theirs.image_size == 32
    with torch.no_grad():
        torch.testing.assert_close(ours.encode_image(images()), theirs.encode_image(images()), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.encode_text(TEXTS), theirs.encode_text(TEXTS), atol=1e-5, rtol=1e-4)
    assert set(to_hf(ours.image_parameters())) == set(theirs.image_parameters())  # type: ignore[arg-type]
    back = to_open_clip(theirs.state())
    assert back.keys() == ours.state().keys()
    assert all(torch.equal(back[n], t) for n, t in ours.state().items())


def test_hugging_face_saves_what_transformers_loads(vit_folder: Path, tmp_path: Path) -> None:
    from transformers import CLIPModel

    clip = load(str(open_clip_to_hf(vit_folder, tmp_path / "hf")))
    clip.save(tmp_path / "out")
    again = CLIPModel.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(again[n], t) for n, t in clip.state().items())


def test_sharded_hugging_face_folder(vit_folder: Path, tmp_path: Path) -> None:
    folder = open_clip_to_hf(vit_folder, tmp_path / "hf")
    state, _ = read_tensors(folder / "model.safetensors")
    names = sorted(state)
    places = {n: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, n in enumerate(names)}
    for file in set(places.values()):
        write_tensors(folder / file, {n: state[n] for n in names if places[n] == file}, {"format": "pt"})
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    clip = load(str(folder))
    clip.save(tmp_path / "out")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == places
    again = load(str(tmp_path / "out")).state()
    assert all(torch.equal(again[n], t) for n, t in clip.state().items())


@pytest.mark.parametrize("kind", ["siglip", "dual"])
def test_other_hugging_face_models(kind: str, tmp_path: Path) -> None:
    import transformers as t

    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**small, "image_size": 32, "patch_size": 8}
    if kind == "siglip":
        text = {**small, "vocab_size": 100, "max_position_embeddings": 8}
        model = t.SiglipModel(t.SiglipConfig(text_config=text, vision_config=vision))
    else:
        text_config = t.BertConfig(**small, vocab_size=100, max_position_embeddings=16)
        model = t.VisionTextDualEncoderModel(
            t.VisionTextDualEncoderConfig.from_vision_text_configs(
                t.CLIPVisionConfig(**vision), text_config, projection_dim=16
            )
        )
    model.eval().save_pretrained(tmp_path / "in")
    clip = load(str(tmp_path / "in"))
    with torch.no_grad():
        found = model.get_image_features(pixel_values=clip.preprocess(images()))
        found = found if isinstance(found, torch.Tensor) else found.pooler_output
        torch.testing.assert_close(clip.encode_image(images()), torch.nn.functional.normalize(found, dim=-1))
    clip.save(tmp_path / "out")
    again = type(model).from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(again[n], v) for n, v in clip.state().items())
    with pytest.raises(InputError, match="no tokenizer"):
        clip.encode_text(["cat"])


def damage(folder: Path, how: str) -> None:
    weights, config = folder / "open_clip_model.safetensors", folder / "open_clip_config.json"
    if how == "corrupt":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif how == "missing weights":
        weights.unlink()
    elif how == "broken json":
        config.write_text("{")
    elif how == "no config":
        config.unlink()
    elif how == "nonsense config":
        config.write_text(json.dumps({"model_cfg": {"embed_dim": 8, "vision_cfg": 3, "text_cfg": {}}}))
    elif how == "other architecture":
        changed = vit_config()
        changed["model_cfg"]["vision_cfg"]["layers"] = 3
        config.write_text(json.dumps(changed))
    elif how == "nan":
        state, metadata = read_tensors(weights)
        state["visual.proj"][0, 0] = float("nan")
        write_tensors(weights, state, metadata)


@pytest.mark.parametrize(
    ("how", "part"),
    [
        ("corrupt", "not a sound safetensors"),
        ("missing weights", "open_clip_model.safetensors is missing"),
        ("broken json", "not readable JSON"),
        ("no config", "neither open_clip_config.json nor config.json"),
        ("nonsense config", "model_cfg.vision_cfg must be an object"),
        ("other architecture", "12 tensors missing"),
        ("nan", "visual.proj holds NaN"),
    ],
)
def test_damaged_folders_are_refused_in_one_line(vit_folder: Path, how: str, part: str) -> None:
    damage(vit_folder, how)
    with pytest.raises(InputError) as caught:
        load(str(vit_folder))
    assert part in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("reference", "part"),
    [
        ("ViT-B-33", "did you mean ViT-B-32"),
        ("ViT-B-32", "--checkpoint FILE"),
        ("./no/such/folder", "no such model folder"),
        ("weights.safetensors", "no such model folder"),
        ("local-dir:/no/such", "no such folder"),
    ],
)
def test_bad_references(reference: str, part: str) -> None:
    with pytest.raises(InputError, match=part):
        load(reference)


def test_a_shard_index_cannot_point_elsewhere(vit_folder: Path, tmp_path: Path) -> None:
    folder = open_clip_to_hf(vit_folder, tmp_path / "hf")
    shutil.move(folder / "model.safetensors", tmp_path / "secret.safetensors")
    names = read_tensors(tmp_path / "secret.safetensors")[0]
    index = {"weight_map": dict.fromkeys(names, "../secret.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="not a file beside it"):
        load(str(folder))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-32", "RN50", "convnext_base", "ViT-B-16-SigLIP"])
def test_full_size_architectures(name: str, tmp_path: Path) -> None:
    clip = load(f"random:{name}")
    x = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        z = clip.encode_image(x)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(2))
    clip.save(tmp_path / "m")
    again = load(str(tmp_path / "m"))
    assert all(torch.equal(again.state()[n], t) for n, t in clip.state().items())
    assert again.preprocess == clip.preprocess
    if "SigLIP" in name:  # its tokeniser lies on the hub, which loading must not reach for
        with pytest.raises(InputError, match="tokenizer cannot be loaded"):
            again.encode_text(TEXTS)
    else:
        torch.testing.assert_close(clip.encode_text(TEXTS), again.encode_text(TEXTS))
