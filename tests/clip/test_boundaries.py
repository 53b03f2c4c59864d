"""Where a Clip meets files, libraries and the network: what is refused, what is left alone, what agrees."""

from __future__ import annotations

import io
import json
import logging
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.clip.convert import open_clip_to_hf
from tests.conftest import vit_config, write_open_clip
from unbackdoor import load
from unbackdoor.base.disk import copy_companions
from unbackdoor.base.errors import InputError
from unbackdoor.clip import published
from unbackdoor.clip.library import guarded
from unbackdoor.clip.preprocess import Frame, Preprocess
from unbackdoor.data.decode import decode
from unbackdoor.weights.files import read_tensors, write_tensors

WEIGHTS = "open_clip_model.safetensors"
Json = dict[str, Any]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every host that anything asks for."""
    asked: list[str] = []

    def refuse(host: str, *_: object, **__: object) -> None:
        asked.append(str(host))
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return asked


def change(folder: Path, edit: Callable[[Json], object], file: str = "open_clip_config.json") -> str:
    config = json.loads((folder / file).read_text())
    edit(config)
    (folder / file).write_text(json.dumps(config))
    return str(folder)


def refused(call: Callable[[], object], part: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert part in str(caught.value) and "\n" not in str(caught.value)


# --- references and configurations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", ["embedded", "random:ViT-B-32", "local-dir:{}", "{}", "hf-hub:a/b"])
def test_a_checkpoint_is_never_ignored(reference: str, vit_folder: Path) -> None:
    refused(lambda: load(reference.format(vit_folder), checkpoint=Path("w.pt")), "leave --checkpoint w.pt out")


def test_no_reference() -> None:
    refused(lambda: load(""), "no model named")


def test_the_embedded_model_loads_and_keeps_its_types(tmp_path: Path) -> None:
    clip = load("embedded")
    assert clip.image_size == 64 and {p.dtype for p in clip.image_parameters().values()} == {torch.float32}
    clip.save(tmp_path / "m")
    before, after = (read_tensors(f / WEIGHTS)[0] for f in (openclip_folder(), tmp_path / "m"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) and before[n].dtype == after[n].dtype for n in before)


def openclip_folder() -> Path:
    from unbackdoor.clip.load import EMBEDDED

    return EMBEDDED


def test_an_output_folder_means_its_model(vit_folder: Path, tmp_path: Path) -> None:
    load(str(vit_folder)).save(tmp_path / "run" / "model")
    assert load(str(tmp_path / "run")).image_size == 32


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (lambda c: c.update(preprocess_cfg=[1]), "preprocess_cfg must be an object"),
        (lambda c: c.update(model_cfg=[]), "model_cfg must be an object"),
        (lambda c: c["preprocess_cfg"].update(mean="abc"), "preprocess_cfg.mean must be a list of 3"),
        (lambda c: c["preprocess_cfg"].update(mean=[0.5]), "preprocess_cfg.mean must be a list of 3"),
        (lambda c: c["preprocess_cfg"].update(std=[0, 1, 1]), "preprocess_cfg.std must be a list of 3"),
        (lambda c: c["preprocess_cfg"].update(resize_mode="longest", fill_color=9), "fill_color 9 is not supported"),
    ],
)
def test_bad_open_clip_configurations(edit: Callable[[Json], object], part: str, vit_folder: Path) -> None:
    refused(lambda: load(change(vit_folder, edit)), part)


@pytest.mark.parametrize(
    ("file", "content", "part"),
    [
        ("config.json", "{", "not readable JSON"),
        ("config.json", "[]", "holds no JSON object"),
        ("config.json", '{"model_type": "siglip2"}', "model_type 'siglip2' is none of"),
        ("config.json", '{"model_type": "clip", "vision_config": 3}', "vision_config is no object"),
        ("preprocessor_config.json", '{"image_mean": "x"}', "image mean must be three numbers"),
        ("model.safetensors.index.json", '{"weight_map": [1]}', "no weight_map"),
        ("model.safetensors", "nonsense", "not a sound safetensors"),
    ],
)
def test_bad_hugging_face_folders(file: str, content: str, part: str, vit_folder: Path, tmp_path: Path) -> None:
    folder = open_clip_to_hf(vit_folder, tmp_path / "hf")
    if file.endswith("index.json"):  # which comes after the whole file, as in the library
        (folder / "model.safetensors").unlink()
    (folder / file).write_text(content)
    refused(lambda: load(str(folder)), part)


def test_a_damaged_tokeniser_is_refused_when_text_is_encoded(vit_folder: Path, tmp_path: Path) -> None:
    folder = open_clip_to_hf(vit_folder, tmp_path / "hf")
    (folder / "tokenizer.json").write_text("{")
    clip = load(str(folder))
    refused(lambda: clip.encode_text(["a cat"]), "not a readable tokenizer")


def test_texts_must_be_a_sequence_of_some(vit_folder: Path) -> None:
    clip = load(str(vit_folder))
    refused(lambda: clip.encode_text([]), "no texts")
    with pytest.raises(TypeError, match="letter by letter"):
        clip.encode_text("cat")


def test_many_texts_are_the_same_as_few(vit_folder: Path) -> None:
    clip = load(str(vit_folder))
    texts = [f"number {i}" + " again" * (i % 7) for i in range(300)]
    found = clip.encode_text(texts)
    assert found.shape == (300, 32)
    torch.testing.assert_close(found[[0, 255, 256, 299]], clip.encode_text([texts[i] for i in (0, 255, 256, 299)]))


# --- the network and strangers' code ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edit",
    [
        lambda c: c["model_cfg"].update(
            text_cfg={"hf_model_name": "roberta-base", "hf_tokenizer_name": "roberta-base"}
        ),
        lambda c: c["model_cfg"]["vision_cfg"].update(timm_model_name="hf-hub:timm/resnet18.a1_in1k", timm_proj=""),
        lambda c: c["model_cfg"]["text_cfg"].update(hf_tokenizer_name="roberta-base"),
    ],
    ids=["text tower", "trunk", "tokeniser"],
)
def test_a_folder_cannot_reach_the_network(
    edit: Callable[[Json], object], vit_folder: Path, no_network: list[str]
) -> None:
    change(vit_folder, edit)
    with pytest.raises(InputError):
        load(str(vit_folder)).encode_text(["a cat"])
    assert no_network == []


def test_the_hub_is_asked_for_hub_models(
    no_network: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client waits between its attempts
    refused(lambda: load("hf-hub:no-such-org/no-such-model"), "cannot be fetched")
    assert "huggingface.co" in no_network


def test_hub_models_take_one_weight_file_and_their_linked_tokeniser(
    vit_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's cache: a snapshot of links into blobs/. An old repository has only the old file name."""
    blobs, snapshot = tmp_path / "repo" / "blobs", tmp_path / "repo" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    asked: list[list[str]] = []
    texts = ["open_clip_config.json", "tokenizer_config.json"]
    files = [*texts, "open_clip_pytorch_model.bin", "pytorch_model.bin", "README.md", "onnx/config.json"]

    def fetch(name: str, allow_patterns: list[str]) -> str:
        asked.append(sorted(allow_patterns))
        state, _ = read_tensors(vit_folder / WEIGHTS)
        (blobs / "1").write_text((vit_folder / "open_clip_config.json").read_text())
        (blobs / "2").write_text("{}")
        links = {"open_clip_config.json": "1", "tokenizer_config.json": "2"}
        if "open_clip_pytorch_model.bin" in allow_patterns:
            torch.save(state, blobs / "3")
            links["open_clip_pytorch_model.bin"] = "3"
        for file, blob in links.items():
            if not (snapshot / file).exists():
                (snapshot / file).symlink_to(blobs / blob)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda self, repository: files)
    clip = load("hf-hub:org/name")
    assert asked == [texts, sorted([*texts, "open_clip_pytorch_model.bin"])]
    clip.save(tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer_config.json").read_text() == "{}"
    expected, _ = read_tensors(vit_folder / WEIGHTS)
    saved, _ = read_tensors(tmp_path / "out" / WEIGHTS)
    assert all(torch.equal(saved[n], t) for n, t in expected.items())


def test_tokeniser_code_of_a_folder_is_not_run(vit_folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (vit_folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n")
    settings = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (vit_folder / "tokenizer_config.json").write_text(json.dumps(settings))
    change(vit_folder, lambda c: c["model_cfg"]["text_cfg"].update(hf_tokenizer_name="x"))
    clip = load(str(vit_folder))
    with pytest.raises(InputError, match="tokenizer_class must be"):
        clip.encode_text(["a cat"])
    assert not mark.exists()


def test_the_guard_puts_everything_back() -> None:
    import huggingface_hub.constants as hub
    import transformers.dynamic_module_utils as dynamic

    before = (hub.HF_HUB_OFFLINE, dynamic.TIME_OUT_REMOTE_CODE, logging.root.manager.disable)
    with pytest.raises(RuntimeError), guarded():
        assert hub.HF_HUB_OFFLINE and dynamic.TIME_OUT_REMOTE_CODE == 0
        raise RuntimeError
    assert before == (hub.HF_HUB_OFFLINE, dynamic.TIME_OUT_REMOTE_CODE, logging.root.manager.disable)


def test_loading_says_nothing(vit_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for folder in (vit_folder, open_clip_to_hf(vit_folder, tmp_path / "hf")):
        capfd.readouterr()
        clip = load(str(folder))
        clip.encode_text(["a cat"])
        clip.save(tmp_path / folder.name / "out")
        assert capfd.readouterr() == ("", "")


def test_importing_the_package_is_light() -> None:
    code = "import sys, unbackdoor.clip; print([m for m in ('torch', 'open_clip', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- preprocessing ---------------------------------------------------------------------------------------------------


def picture(height: int, width: int) -> tuple[Image.Image, torch.Tensor]:
    """Smooth but lopsided, so that a shift by one pixel shows and rounding to bytes does not."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    planes = [np.sin(x / 3 + c) * np.cos(y / 4) * 0.4 + 0.5 for c in range(3)]
    pixels = (np.stack(planes, axis=2) * 255).astype(np.uint8)
    return Image.fromarray(pixels), torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255


def decoded(image: Image.Image, frame: Frame) -> torch.Tensor:
    """What verbs read of a file that holds this picture, in [0, 1]."""
    file = io.BytesIO()
    image.save(file, "PNG")
    found = decode(file.getvalue(), frame)
    assert found is not None
    return torch.tensor(found)[None] / 255


@pytest.mark.parametrize("shape", [(1, 900), (900, 1), (3, 7000)])
def test_a_long_strip_is_framed_without_its_ends(shape: tuple[int, int]) -> None:
    """Its short side alone would ask for a picture a hundred times as large as the strip."""
    strip = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    found = decode(strip, Frame(32, fit="shortest"))
    assert found is not None and found.shape == (3, 32, 32)
    height, width = (32 * side // min(shape) for side in shape)
    whole = Image.fromarray(strip).resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - 32) // 2, (height - 32) // 2
    wanted = np.asarray(whole.crop((left, top, left + 32, top + 32))).transpose(2, 0, 1).astype(int)
    assert np.abs(found - wanted).max() <= 1


@pytest.mark.parametrize("size", [(47, 61), (61, 47), (32, 32), (20, 45), (45, 33), (100, 101)])
@pytest.mark.parametrize("mode", ["squash", "shortest", "longest"])
def test_preprocessing_is_open_clips(size: tuple[int, int], mode: str) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    theirs = image_transform_v2(PreprocessCfg(size=32, mean=mean, std=std, resize_mode=mode), is_train=False)
    image, pixels = picture(*size)
    step = Preprocess(Frame(32, fit=mode), mean, std)
    # Two bytes' worth; a shifted crop differs by 0.5.
    assert float((theirs(image) - step(pixels)[0]).abs().max()) < 0.04
    assert float((theirs(image) - step(decoded(image, step.frame))[0]).abs().max()) < 1e-6


@pytest.mark.parametrize("size", [(47, 61), (61, 47), (32, 32), (45, 33), (100, 101)])
@pytest.mark.parametrize("place", ["preprocessor_config.json", "processor_config.json"])
def test_preprocessing_is_hugging_faces(size: tuple[int, int], place: str, vit_folder: Path, tmp_path: Path) -> None:
    from transformers import CLIPImageProcessor

    folder = open_clip_to_hf(vit_folder, tmp_path / "hf")
    settings = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 3}
    settings |= {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True}
    (folder / "preprocessor_config.json").unlink()
    whole = settings if place.startswith("pre") else {"image_processor": settings}
    (folder / place).write_text(json.dumps(whole))
    image, pixels = picture(*size)
    theirs = CLIPImageProcessor(**settings)(image, return_tensors="pt")["pixel_values"]
    step = load(str(folder)).preprocess
    assert float((theirs - step(pixels)).abs().max()) < 0.02
    assert (
        float((theirs - step(decoded(image, step.frame))).abs().max()) < 0.0099
    )  # one byte's worth: it rounds elsewhere


@pytest.mark.parametrize(
    ("name", "mean", "mode"),
    [("ViT-B-16-SigLIP", 0.5, "squash"), ("ViT-B-32", 0.48145466, "shortest"), ("ViT-L-14", None, None)],
)
def test_preprocessing_of_bare_checkpoints(name: str, mean: float | None, mode: str | None) -> None:
    found = published.common_preprocess(name)
    assert found.get("mean", (None,))[0] == mean and found.get("resize_mode") == mode


# --- weights ---------------------------------------------------------------------------------------------------------


def openai_extras(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**state, "context_length": torch.tensor(77), "input_resolution": torch.tensor(224)}


def flat_scale(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**state, "logit_scale": state["logit_scale"].reshape(1)}


@pytest.mark.parametrize("other", [openai_extras, flat_scale])
def test_what_open_clip_forgives_is_forgiven(
    other: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], vit_folder: Path, tmp_path: Path
) -> None:
    expected = load(str(vit_folder)).state()
    state, _ = read_tensors(vit_folder / WEIGHTS)
    write_tensors(vit_folder / WEIGHTS, other(state))
    found = load(str(vit_folder)).state()
    assert expected.keys() == found.keys() and all(torch.equal(found[n], t) for n, t in expected.items())


def test_old_names_of_the_text_tower(vit_folder: Path) -> None:
    before = load(str(vit_folder)).encode_text(["a cat", "two dogs run"])
    clip = load(change(vit_folder, lambda c: c["model_cfg"].update(custom_text=True)))
    assert "text.token_embedding.weight" in clip.state()
    torch.testing.assert_close(clip.encode_text(["a cat", "two dogs run"]), before)


def test_quantised_weights_are_refused(vit_folder: Path) -> None:
    state, _ = read_tensors(vit_folder / WEIGHTS)
    write_tensors(vit_folder / WEIGHTS, {**state, "visual.proj": torch.ones_like(state["visual.proj"]).to(torch.int8)})
    refused(lambda: load(str(vit_folder)), "first visual.proj (torch.int8)")


@pytest.mark.parametrize(("value", "part"), [(1e6, "float16"), (float("nan"), "float16")])
def test_what_cannot_be_stored_is_not_saved(value: float, part: str, tmp_path: Path) -> None:
    clip = load(str(write_open_clip(tmp_path / "in", vit_config(), torch.float16)))
    with torch.no_grad():
        clip.state()["visual.proj"].fill_(value)
    refused(lambda: clip.save(tmp_path / "out"), part)
    assert not (tmp_path / "out").exists()


def test_a_bare_checkpoint_becomes_a_whole_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    folder = write_open_clip(tmp_path / "in", vit_config())
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-vit", vit_config()["model_cfg"])
    state, _ = read_tensors(folder / WEIGHTS)
    torch.save({"state_dict": {f"module.{n}": t for n, t in state.items()}, "epoch": 3}, tmp_path / "w.pt")
    clip = load("tiny-vit", checkpoint=tmp_path / "w.pt")
    clip.save(tmp_path / "out")
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'out'}")
    theirs = model.state_dict()
    assert all(torch.equal(theirs[n], t) for n, t in state.items())
    refused(lambda: load("tiny-vit", checkpoint=tmp_path / "no.pt"), "no such checkpoint file")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_hugging_face_files_keep_names_and_types(dtype: torch.dtype, vit_folder: Path, tmp_path: Path) -> None:
    folder = open_clip_to_hf(vit_folder, tmp_path / "hf")
    state = {n: t.to(dtype) for n, t in read_tensors(folder / "model.safetensors")[0].items()}
    state["vision_model.embeddings.position_ids"] = torch.arange(17)[None]  # as in OpenAI's own files
    write_tensors(folder / "model.safetensors", state)
    load(str(folder)).save(tmp_path / "out")
    after, _ = read_tensors(tmp_path / "out" / "model.safetensors")
    assert after.keys() == state.keys()
    assert all(torch.equal(after[n], t) and after[n].dtype == t.dtype for n, t in state.items())


@pytest.mark.parametrize("kind", ["open_clip", "hf"])
def test_saving_onto_itself(kind: str, vit_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = vit_folder if kind == "open_clip" else open_clip_to_hf(vit_folder, tmp_path / "hf")
    monkeypatch.chdir(folder)
    clip = load(".")
    first = next(iter(clip.image_parameters()))
    with torch.no_grad():
        clip.state()[first].add_(1.0)
    clip.save(folder)
    assert torch.equal(load(str(folder)).state()[first], clip.state()[first])
    assert not [p for p in folder.iterdir() if p.suffix == ".tmp"]


def test_links_out_of_the_folder_are_not_copied(tmp_path: Path) -> None:
    source, target = tmp_path / "a" / "b" / "source", tmp_path / "target"
    source.mkdir(parents=True)
    target.mkdir()
    (tmp_path / "secret.json").write_text("secret")
    (source / "vocab.json").symlink_to(tmp_path / "secret.json")
    (source / "merges.txt").write_text("x")
    (source / "alias.txt").symlink_to(source / "merges.txt")
    (source / "model.safetensors.index.json").write_text("{}")
    copy_companions(source, target)
    assert sorted(p.name for p in target.iterdir()) == ["alias.txt", "merges.txt"]


# --- the handle ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["open_clip", "hf"])
def test_the_image_module_is_the_image_tower(kind: str, vit_folder: Path, tmp_path: Path) -> None:
    clip = load(str(vit_folder if kind == "open_clip" else open_clip_to_hf(vit_folder, tmp_path / "hf")))
    inside = {id(p) for p in clip.image_module().parameters()}
    assert inside == {id(p) for p in clip.image_parameters().values()}


def test_info_is_json(vit_folder: Path) -> None:
    clip = load(str(vit_folder))
    found = json.loads(json.dumps(clip.info()))
    total = sum(p.numel() for p in clip.model.parameters())
    assert found["parameters"]["total"] == found["parameters"]["image"] + found["parameters"]["text"] == total
    assert (found["kind"], found["dtype"], found["embed_dim"]) == ("open_clip", "float32", 32)
    assert found["reference"] == str(vit_folder) and found["norm_layers"] == ["LayerNorm"]
    assert (clip.mean, clip.std) == ((0.5,) * 3, (0.25,) * 3)
    assert (clip.interpolation, clip.resize_mode) == ("bicubic", "shortest")
    with torch.no_grad():
        clip.state()["visual.proj"].mul_(2)
    assert clip.info()["weights_hash"] != found["weights_hash"]
