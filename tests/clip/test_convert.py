"""Conversion between the libraries: equal embeddings, the stored types kept, and back to the same bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.clip.convert import max_difference, small_open_clip
from tests.conftest import resnet_config, timm_config, vit_config, write_open_clip
from unbackdoor import InputError, load
from unbackdoor.cli.main import run
from unbackdoor.clip import convert as module
from unbackdoor.clip.convert import EQUAL, convert, to_hf, to_open_clip


@pytest.mark.parametrize("quick_gelu", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_there_and_back(tmp_path: Path, quick_gelu: bool, dtype: torch.dtype) -> None:
    config = vit_config()
    config["model_cfg"]["quick_gelu"] = quick_gelu
    source = write_open_clip(tmp_path / "oc", config, dtype)
    found = convert(load(str(source)), "hf", tmp_path / "hf")
    assert max(found.values()) <= EQUAL
    convert(load(str(tmp_path / "hf")), "open_clip", tmp_path / "back")
    before = load_file(source / "open_clip_model.safetensors")
    after = load_file(tmp_path / "back" / "open_clip_model.safetensors")
    before.pop("attn_mask", None)
    assert {n: t.dtype for n, t in before.items()} == {n: t.dtype for n, t in after.items()}
    assert max_difference(before, after) == 0


def test_transformers_opens_it_by_itself(tmp_path: Path) -> None:
    from transformers import AutoModel, AutoProcessor

    clip = load(str(small_open_clip(tmp_path / "oc")))
    convert(clip, "hf", tmp_path / "hf")
    model, processor = (kind.from_pretrained(str(tmp_path / "hf")).eval() if kind is AutoModel else
                        kind.from_pretrained(str(tmp_path / "hf")) for kind in (AutoModel, AutoProcessor))  # fmt: skip
    texts = ["a photo of a dog.", "something longer, so that one of them is padded"]
    picture = torch.randint(0, 256, (clip.image_size, clip.image_size, 3), dtype=torch.uint8)
    with torch.no_grad():
        given = processor(text=texts, images=[picture.numpy()], return_tensors="pt", padding=True)
        found = model(**given)
        images = clip.encode_image(picture.permute(2, 0, 1)[None].float() / 255)
    assert float((found.text_embeds - clip.encode_text(texts)).abs().max()) < 1e-5
    assert float((found.image_embeds - images).abs().max()) < 1e-5


def test_open_clip_opens_it_by_itself(tmp_path: Path) -> None:
    import open_clip

    clip = load(str(small_open_clip(tmp_path / "oc")))
    convert(clip, "hf", tmp_path / "hf")
    convert(load(str(tmp_path / "hf")), "open_clip", tmp_path / "back")
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'back'}")
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'back'}")(["a photo of a dog."])
    with torch.no_grad():
        found = torch.nn.functional.normalize(model.eval().encode_text(tokens), dim=-1)
    assert float((found - clip.encode_text(["a photo of a dog."])).abs().max()) < 1e-5
    assert tuple(preprocess.transforms[-1].mean) == clip.mean


def test_a_vector_goes_through_the_same_names(tmp_path: Path) -> None:
    clip = load(str(small_open_clip(tmp_path / "oc")))
    part = {n: p.detach() for n, p in clip.image_parameters().items()}
    convert(clip, "hf", tmp_path / "hf")
    assert set(to_hf(part)) == set(load(str(tmp_path / "hf")).image_parameters())
    assert max_difference(to_open_clip(to_hf(part)), part) == 0


@pytest.mark.parametrize(
    ("config", "told"),
    [(resnet_config, "has no place in Hugging Face"), (timm_config, "has no place in Hugging Face")],
)
def test_what_has_no_such_form(tmp_path: Path, config: object, told: str) -> None:
    source = write_open_clip(tmp_path / "oc", config())  # type: ignore[operator]
    with pytest.raises(InputError, match=told):
        convert(load(str(source)), "hf", tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_what_lacks_a_part_that_the_other_form_has(tmp_path: Path) -> None:
    config = vit_config()
    config["model_cfg"]["vision_cfg"] |= {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}
    with pytest.raises(InputError, match=r"has no tensor for vision_model\.pre_layrnorm\.weight.* no such form"):
        convert(load(str(write_open_clip(tmp_path / "oc", config))), "hf", tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_another_vocabulary_has_no_form_in_open_clip(tmp_path: Path) -> None:
    from tests.clip.families import write_family

    write_family("clip", tmp_path / "in")
    with pytest.raises(InputError, match="its text tower has 24 tokens, but OpenCLIP brings along OpenAI's 49408"):
        convert(load(str(tmp_path / "in")), "open_clip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_difference_of_embeddings_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = load(str(small_open_clip(tmp_path / "oc")))
    monkeypatch.setattr(module, "_activation", lambda m: "gelu")  # the wrong one
    with pytest.raises(InputError, match="embeddings differ by up to"):
        convert(clip, "hf", tmp_path / "hf")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["oc"]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = small_open_clip(tmp_path / "oc"), tmp_path / "hf"
    call = ["convert", "--model", str(source), "--to", "hf", "--out", str(out)]
    assert run([*call, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["differences"]["images"] <= EQUAL
    assert (out / "manifest.json").exists() and (out / "vocab.json").exists()
    assert run(call) == 2 and "is there already" in capsys.readouterr().err
    assert run([*call[:-1], str(tmp_path / "again"), "--to", "open_clip"]) == 2
    assert "of the form open_clip already" in capsys.readouterr().err
