"""OpenCLIP's doors: what its configurations may say and ask for, names and tags, models in memory, shared state."""

from __future__ import annotations

import json
import logging
import random
import shutil
import time
import warnings
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch

from tests.clip.convert import open_clip_to_hf
from tests.clip.test_boundaries import change, refused
from tests.clip.test_tokenizers import library_tokenizer
from tests.conftest import CONFIGS, resnet_config, timm_config, vit_config, write_open_clip
from unbackdoor import load
from unbackdoor.base.notices import collected
from unbackdoor.clip import published
from unbackdoor.clip.load import offline
from unbackdoor.clip.openclip import CONFIG, WEIGHTS, check_towers, create
from unbackdoor.clip.openclip_table import check_config
from unbackdoor.clip.skeleton import outline
from unbackdoor.clip.text_towers import text_config
from unbackdoor.weights.files import read_tensors, write_tensors

Json = dict[str, Any]
TEXTS = ["a photo of a cat.", "dog"]


def images(side: int = 32) -> torch.Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))


# --- configurations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", open_clip.list_models())
def test_every_configuration_of_the_library_is_allowed(name: str) -> None:
    model_cfg = open_clip.get_model_config(name)
    facts = list(published.tags(name).values()) or [{}]
    for tag in facts:
        keys = ("mean", "std", "interpolation", "resize_mode")
        check_config({"model_cfg": model_cfg, "preprocess_cfg": {k: tag[k] for k in keys if k in tag}}, name)


# One of each family; that all 144 build, and take their own inputs, costs a minute (slow).
FAMILIES = [
    "ViT-B-32", "RN50", "convnext_tiny", "EVA02-B-16", "ViT-B-16-SigLIP", "coca_ViT-B-32", "MobileCLIP2-S0",
    "ViTamin-S", "PE-Core-T-16-384", "swin_base_patch4_window7_224", "ViT-L-14-CLIPA", "roberta-ViT-B-32",
    "mt5-base-ViT-B-32", "nllb-clip-base", "vit_relpos_medium_patch16_cls_224",
]  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_built_without_memory(name: str) -> None:
    began = time.monotonic()
    model_cfg = open_clip.get_model_config(name)
    skeleton = outline(lambda: create(model_cfg, name), name)
    assert all(t.is_meta for t in skeleton.state_dict().values())
    check_towers(skeleton, model_cfg, name)
    assert time.monotonic() - began < 20


@pytest.mark.slow
@pytest.mark.parametrize("name", open_clip.list_models())
def test_every_model_is_built_without_memory(name: str) -> None:
    test_families_are_built_without_memory(name)


def test_text_towers_by_name_are_in_the_library() -> None:
    configs = [open_clip.get_model_config(n)["text_cfg"] for n in open_clip.list_models()]
    for name in {c["hf_model_name"] for c in configs if "hf_model_name" in c}:
        assert text_config(name, "here")["model_type"] in ("bert", "roberta", "xlm-roberta", "mt5", "m2m_100")
    assert text_config("FacebookAI/roberta-base", "here") == text_config("roberta-base", "here")
    refused(lambda: text_config("some/bert", "here"), "looked up nowhere")


V, T, M = "vision_cfg", "text_cfg", "multimodal_cfg"


def put(part: str, **values: Any) -> Callable[[Json], object]:
    return lambda c: (c["model_cfg"].setdefault(part, {}) if part else c["model_cfg"]).update(values)


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (put(T, layers=10**7), "text_cfg.layers must be a whole number from 1 to 512"),
        (put(T, layers=300), "asks for 300 layers"),
        (put(V, layers=[100] * 4), "asks for 400 layers"),
        (put(T, context_length=30_000), "context_length must be"),
        (put(T, context_length=1000), "of another shape"),
        (put(T, vocab_size=5 * 10**7), "vocab_size must be"),
        (put(T, vocab_size=10**6), "vocab_size asks for 1000000"),
        (put(V, image_size=40_000), "image_size must be"),
        (put(V, image_size=768, patch_size=1), "needs 589824 positions"),
        (put(V, image_size=768, patch_size=1, pos_embed_type="sin_cos_2d"), "needs 589824 positions"),
        (put(V, image_size=[32, 64]), "of another shape"),
        (put(V, patch_size=0), "patch_size must be"),
        (put(V, mlp_ratio=1e9), "mlp_ratio must be"),
        (put(V, head_width=1000), "cannot build"),
        (put(T, heads=3), "cannot build"),
        (put("", embed_dim=10**8), "embed_dim must be"),
        (put(V, attentional_pool=True, attn_pooler_queries=10**4), "do not fit the architecture"),
        (put(V, timm_model_name="eva_giant_patch14_560"), "do not fit the architecture"),
        (put(V, timm_model_name="hf-hub:timm/resnet18"), "timm_model_name must be"),
        (put(V, timm_model_name="local-dir:/etc"), "timm_model_name must be"),
        (put(V, timm_model_name="/etc/passwd"), "timm_model_name must be"),
        (put(V, timm_model_name="no_such_model"), "is no architecture of timm"),
        (put(V, timm_model_pretrained="x"), "timm_model_pretrained must be"),
        (put(V, output_tokens=True), "output_tokens must be false"),
        (put(V, pool_type="none"), "no image of 32×32 fits"),
        (put(T, pool_type="none"), "no text of 24 tokens fits"),
        (put(M, layers=2), "output_tokens must be true"),
        (put(T, hf_model_name="/etc"), "hf_model_name must be"),
        (put(T, hf_model_name="evil/bert"), "known by name alone"),
        (put(T, tokenizer_kwargs={"trust_remote_code": True}), "trust_remote_code' is no setting"),
        (put(T, tokenizer_kwargs={"bpe_path": "/dev/zero"}), "bpe_path' is no setting"),
        (put(T, tokenizer_kwargs={"additional_special_tokens": ["(a|o| )*"]}), "additional_special_tokens' is no"),
        (put(T, tokenizer_kwargs={"reduction_mask": "syntax"}), "reduction_mask' is no setting"),
        (put(T, tokenizer_kwargs={"vocab_file": "/etc/passwd"}), "vocab_file' is no setting"),
        (put(T, norm_kwargs={"device": "cpu"}), "norm_kwargs.device' is no setting"),
        (put("", cast_dtype="float16"), "'model_cfg.cast_dtype' is no setting"),
        (lambda c: c.update(auto_map={}), "'auto_map' is no setting"),
        (lambda c: c["preprocess_cfg"].update(resize_to=5), "'preprocess_cfg.resize_to' is no setting"),
        (lambda c: c["model_cfg"].pop("text_cfg"), "model_cfg.text_cfg is missing"),
        (lambda c: c.pop("model_cfg"), "model_cfg.embed_dim is missing"),
    ],
)
def test_what_a_folder_may_not_say_is_named(edit: Callable[[Json], object], part: str, vit_folder: Path) -> None:
    began = time.monotonic()
    refused(lambda: load(change(vit_folder, edit)), part)
    assert time.monotonic() - began < 20


def test_image_sizes_that_a_trunk_does_not_take(tmp_path: Path) -> None:
    """timm's towers are built for their own size, whatever the configuration says."""
    config = timm_config()
    config["model_cfg"]["vision_cfg"] |= {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "avg"}
    config["model_cfg"]["vision_cfg"] |= {"timm_proj": "linear", "image_size": 96}
    refused(lambda: load(str(write_open_clip(tmp_path / "m", config))), "no image of 96×96 fits")


def test_tokens_beyond_the_vocabulary(tmp_path: Path) -> None:
    config = vit_config()
    config["model_cfg"]["text_cfg"]["vocab_size"] = 1000
    clip = load(str(write_open_clip(tmp_path / "m", config)))
    refused(lambda: clip.encode_text(["a cat"]), "but the model has 1000 tokens")


def test_weights_under_another_name_are_found_if_they_are_alone(vit_folder: Path) -> None:
    (vit_folder / WEIGHTS).rename(vit_folder / "epoch_3.safetensors")
    expected = load(str(vit_folder)).state()
    assert len(expected) > 10
    shutil.copy(vit_folder / "epoch_3.safetensors", vit_folder / "epoch_4.safetensors")
    refused(lambda: load(str(vit_folder)), "several files of weights (epoch_3.safetensors, epoch_4.safetensors)")


# --- Hugging Face's weights beside an OpenCLIP configuration ---------------------------------------------------------


def test_a_folder_of_both_libraries_opens_with_the_weights_that_are_there(vit_folder: Path, tmp_path: Path) -> None:
    folder = open_clip_to_hf(vit_folder, tmp_path / "hf")
    shutil.copy(vit_folder / CONFIG, folder)
    ours, theirs = load(str(vit_folder)), load(str(folder))
    assert theirs.kind == "hf"
    torch.testing.assert_close(theirs.encode_image(images()), ours.encode_image(images()), atol=1e-5, rtol=1e-4)
    shutil.copy(vit_folder / WEIGHTS, folder)
    assert load(str(folder)).kind == "open_clip"


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_hugging_faces_weights_are_named(file: str, vit_folder: Path, tmp_path: Path) -> None:
    folder = open_clip_to_hf(vit_folder, tmp_path / "hf")
    state, _ = read_tensors(folder / "model.safetensors")
    shutil.copy(vit_folder / CONFIG, folder)
    (folder / "config.json").unlink()
    if file.endswith(".bin"):
        torch.save(state, folder / file)
        (folder / "model.safetensors").unlink()
    refused(lambda: load(str(folder)), "Hugging Face")
    refused(lambda: load("ViT-B-32", checkpoint=folder / file), "Hugging Face")


# --- names and tags --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("ViT-B-32", ("ViT-B-32", "")),
        ("ViT-B/32", ("ViT-B-32", "")),
        ("ViT-L/14@336px", ("ViT-L-14-336", "")),
        ("RN50x4:openai", ("RN50x4", "openai")),
        ("ViT-B-32:laion2b_s34b_b79k", ("ViT-B-32", "laion2b_s34b_b79k")),
        ("openai/clip-vit-base-patch32", None),
        ("ViT-B-33", None),
        ("local-dir:x", None),
    ],
)
def test_names_are_read_as_their_libraries_write_them(reference: str, found: tuple[str, str] | None) -> None:
    assert published.parse(reference) == found


@pytest.mark.parametrize(
    ("reference", "part"),
    [
        ("openai/clip-vit-base-patch32", "write hf-hub:openai/clip-vit-base-patch32"),
        ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "write hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
        ("ViT-B/32", "fetch published ones with ViT-B-32:openai or"),
        ("ViT-B/33", "write hf-hub:"),
        ("ViT-B-32:no_such_tag", "no published weights have the tag 'no_such_tag'; choose one of openai"),
        ("ViT-M-16:openai", "none are published"),
        ("ViT-B-33:openai", "did you mean ViT-B-32"),
        ("weights.pt", "name its architecture"),
        ("runs/weights.pt", "name its architecture"),
        ("x\0y", "neither a folder nor"),
        ("a" * 5000, "neither a folder nor"),
    ],
)
def test_what_is_meant_is_said(reference: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(lambda: load(reference), part)


def register(monkeypatch: pytest.MonkeyPatch, name: str, **tags: Json) -> None:
    """A tiny architecture and its published weights."""
    plain = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic", "resize_mode": "shortest", "url": ""}
    model_cfg = vit_config()["model_cfg"] | {"quick_gelu": False}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, model_cfg)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, {t: {**plain, **facts} for t, facts in tags.items()})


def weights_file(path: Path, prefix: str = "", **more: torch.Tensor) -> Path:
    state, _ = read_tensors(write_open_clip(path.parent / "source", vit_config()) / WEIGHTS)
    torch.save({f"{prefix}{name}": t for name, t in {**state, **more}.items()}, path)
    return path


def activation(clip: Any) -> str:
    return type(clip.model.visual.transformer.resblocks[0].mlp.gelu).__name__


def test_a_tag_decides_on_activation_and_preprocessing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "tiny", one={"quick_gelu": True}, two={"mean": (0.1, 0.2, 0.3), "resize_mode": "squash"})
    file = weights_file(tmp_path / "w.pt")
    with collected() as lines:
        first, second = (load(f"tiny:{tag}", checkpoint=file) for tag in ("one", "TWO"))
    assert lines == []
    assert (activation(first), first.mean, first.resize_mode) == ("QuickGELU", (0.5,) * 3, "shortest")
    assert (activation(second), second.mean, second.resize_mode) == ("GELU", (0.1, 0.2, 0.3), "squash")
    first.save(tmp_path / "out")
    again, theirs = load(str(tmp_path / "out")), open_clip.create_model(f"local-dir:{tmp_path / 'out'}").eval()
    assert activation(again) == "QuickGELU" and again.mean == first.mean
    with torch.no_grad():
        expected = theirs.encode_image(first.preprocess(images()), normalize=True)
        torch.testing.assert_close(first.encode_image(images()), expected)


def test_a_tag_without_a_file_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "tiny", one={"quick_gelu": True, "hf_hub": "org/repo/"})
    file = weights_file(tmp_path / "w.pt")
    asked: list[Json] = []
    monkeypatch.setattr("open_clip.pretrained.download_pretrained", lambda facts: asked.append(facts) or str(file))
    assert activation(load("tiny:one")) == "QuickGELU" and asked[0]["hf_hub"] == "org/repo/"
    monkeypatch.setattr("open_clip.pretrained.download_pretrained", lambda facts: 1 / 0)
    refused(lambda: load("tiny:one"), "tiny:one: cannot be fetched (division by zero)")


@pytest.mark.parametrize(
    ("tags", "needs"),
    [
        ({"one": {"quick_gelu": True}, "two": {}}, ["QuickGELU for one"]),
        ({"one": {"quick_gelu": True}}, ["QuickGELU for one"]),
        (
            {"one": {"resize_mode": "squash"}, "two": {}},
            ["resize_mode squash for one", "mean 0.5/0.5/0.5 for one, two"],
        ),
        ({"one": {}, "two": {}}, []),
        ({}, []),
    ],
)
def test_a_file_of_unknown_origin_is_told_of(
    tags: Json, needs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, "tiny", **tags)
    with collected() as lines:
        clip = load("tiny", checkpoint=weights_file(tmp_path / "w.pt"))
    assert activation(clip) == "GELU" and len(lines) == bool(needs)
    for need in needs:
        assert need in lines[0] and "--pretrained TAG" in lines[0]


def test_a_known_file_is_recognised_by_its_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    file = weights_file(tmp_path / "w.pt")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    url = f"https://x/y/w-{digest[:8]}.pt"
    register(monkeypatch, "tiny", one={"quick_gelu": True, "url": url}, two={"url": "https://x/y/w-00000000.pt"})
    for name, found in ((f"w-{digest[:8]}.pt", "QuickGELU"), ("w-00000000.pt", "GELU"), ("w.pt", "GELU")):
        (tmp_path / name).write_bytes(file.read_bytes())
        with collected() as lines:
            assert activation(load("tiny", checkpoint=tmp_path / name)) == found
        assert len(lines) == (found == "GELU")


@pytest.mark.parametrize("prefix", ["", "student.clip."])
def test_openais_marks_are_evidence(prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "tiny", openai={"quick_gelu": True}, other={"mean": (0.1, 0.2, 0.3)})
    marks = {
        "input_resolution": torch.tensor(32),
        "context_length": torch.tensor(24),
        "vocab_size": torch.tensor(49408),
    }
    with collected() as lines:
        clip = load("tiny", checkpoint=weights_file(tmp_path / "w.pt", prefix, **marks))
    assert [f"begins with {prefix!r}" in line for line in lines] == [True] * bool(prefix)
    assert activation(clip) == "QuickGELU" and clip.mean == (0.5,) * 3


def test_openais_weights_in_a_folder_that_does_not_say_so(tmp_path: Path) -> None:
    config = vit_config()
    del config["model_cfg"]["quick_gelu"]
    folder = write_open_clip(tmp_path / "m", config)
    state, _ = read_tensors(folder / WEIGHTS)
    marks = {n: torch.tensor(1) for n in published.MARKS}
    write_tensors(folder / WEIGHTS, {**state, **marks})
    with collected() as lines:
        load(str(folder))
    assert len(lines) == 1 and "QuickGELU" in lines[0] and '"quick_gelu": true' in lines[0]


def test_every_published_tag_is_read_as_it_says() -> None:
    for name in open_clip.list_models():
        for tag, facts in published.tags(name).items():
            found = published.reading(name, tag, (), None, open_clip.get_model_config(name))
            assert found.preprocess == {k: facts[k] for k in found.preprocess} and len(found.preprocess) == 4
            assert found.quick_gelu or not facts.get("quick_gelu")


@pytest.mark.parametrize("name", ["ViT-L-14", "ViT-H-14", "ViT-H-14-quickgelu", "ViT-B-32", "RN50"])
def test_architectures_whose_published_weights_differ_are_told_of(name: str, tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"x")
    found = published.reading(name, "", (), tmp_path / "w.pt", open_clip.get_model_config(name))
    assert name in found.doubt and "--pretrained TAG" in found.doubt


def test_the_right_architecture_is_suggested(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = {
            n: tuple(t.shape) for n, t in open_clip.CLIP(**open_clip.get_model_config("ViT-B-16")).state_dict().items()
        }
    assert "ViT-B-16" in published.similar(shapes) and "ViT-B-32" not in published.similar(shapes)
    assert published.similar({"a": (1,)}) == ""
    file = weights_file(tmp_path / "w.pt")
    refused(lambda: load("ViT-B-32", checkpoint=file), "name the architecture")


# --- the hub ---------------------------------------------------------------------------------------------------------


class Hub:
    """Repositories in folders, in place of the network."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place, self.fetched, self.online = place, set(), True
        monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda _, repository: self.files(repository))
        monkeypatch.setattr("huggingface_hub.snapshot_download", self.snapshot)

    def files(self, repository: str) -> list[str]:
        if not self.online:
            raise OSError("no network")
        folder = self.place / repository
        return [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]

    def snapshot(self, repository: str, allow_patterns: list[str], local_files_only: bool = False) -> str:
        target = self.place / "cache" / repository
        target.mkdir(parents=True, exist_ok=True)
        if self.online and not local_files_only:
            for name in self.files(repository):
                if any(fnmatch(name, pattern) for pattern in allow_patterns):
                    (target / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(self.place / repository / name, target / name)
                    self.fetched.add(name)
        elif not any(target.iterdir()):
            raise OSError("not in the cache")
        return str(target)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    return Hub(tmp_path / "hub", monkeypatch)


EXTRA = ("README.md", "evil.py", "pytorch_model.bin", "onnx/model.onnx", "onnx/config.json", "flax_model.msgpack")


def litter(folder: Path) -> Path:
    for name in EXTRA:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def test_the_hubs_open_clip_models(hub: Hub, vit_folder: Path) -> None:
    shutil.copytree(vit_folder, hub.place / "org" / "name")
    litter(hub.place / "org" / "name")
    assert load("hf-hub:org/name").kind == "open_clip"
    assert hub.fetched == {CONFIG, WEIGHTS}
    hub.online = False  # what was fetched before is still there
    assert load("hf-hub:org/name").reference == "hf-hub:org/name"


def test_the_hubs_hugging_face_models(hub: Hub, vit_folder: Path, tmp_path: Path) -> None:
    folder = open_clip_to_hf(vit_folder, hub.place / "org" / "name")
    texts = {p.name for p in folder.iterdir() if p.suffix in (".json", ".txt")}
    litter(folder)
    assert load("hf-hub:org/name").kind == "hf"
    assert hub.fetched == {"model.safetensors", *texts}


@pytest.mark.parametrize("kind", ["shards", "bin"])
def test_the_hubs_other_forms_of_weights(kind: str, hub: Hub, vit_folder: Path) -> None:
    folder = open_clip_to_hf(vit_folder, hub.place / "org" / "name")
    state, _ = read_tensors(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if kind == "bin":
        torch.save(state, folder / "pytorch_model.bin")
    else:
        places = {n: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, n in enumerate(sorted(state))}
        for file in set(places.values()):
            write_tensors(folder / file, {n: t for n, t in state.items() if places[n] == file})
        index = {"metadata": {}, "weight_map": {**places, "evil": "../../secret.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        refused(lambda: load("hf-hub:org/name"), "not a file beside it")
        assert not any("secret" in name for name in hub.fetched)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert load("hf-hub:org/name").kind == "hf"


def test_a_repository_without_a_model(hub: Hub) -> None:
    (hub.place / "org" / "name").mkdir(parents=True)
    litter(hub.place / "org" / "name")
    refused(lambda: load("hf-hub:org/name"), "holds neither open_clip_config.json nor config.json")


def test_a_tokenizer_by_name_is_fetched_for_a_tag_and_never_for_a_file(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, "tiny", one={})
    config = open_clip.factory._MODEL_CONFIGS["tiny"]
    config["text_cfg"] |= {"vocab_size": 80, "hf_tokenizer_name": "org/words", "pool_type": "last"}
    file = write_open_clip(tmp_path / "m", {"model_cfg": config}) / WEIGHTS
    library_tokenizer("bert").save_pretrained(str(hub.place / "org" / "words"))
    (hub.place / "org" / "words" / "config.json").write_text('{"model_type": "bert"}')
    monkeypatch.setattr("open_clip.pretrained.download_pretrained", lambda facts: str(file))
    refused(lambda: load("tiny:one", checkpoint=file).encode_text(TEXTS), "cannot be fetched")
    assert hub.fetched == set()
    fetched = load("tiny:one").encode_text(TEXTS)
    assert "tokenizer.json" in hub.fetched
    torch.testing.assert_close(load("tiny:one", checkpoint=file).encode_text(TEXTS), fetched)  # out of the cache


# --- Hugging Face text towers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", "roberta", "mt5", "m2m_100"])
def test_a_text_tower_of_hugging_face(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved, reloaded and compared with what the library makes of the same configuration."""
    from unbackdoor.clip import text_towers

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower = {
        "bert": lambda: text_towers._bert(80, **small),
        "roberta": lambda: text_towers._roberta("roberta", 80, **small),
        "mt5": lambda: {**text_towers._mt5(32, 64, 2, 2), "vocab_size": 80, "d_kv": 16},
        "m2m_100": lambda: {
            **text_towers._nllb(2, 64), "vocab_size": 80, "d_model": 32, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
        },
    }[kind]()  # fmt: skip
    monkeypatch.setitem(text_towers._KNOWN, "some/tower", tower)
    config = vit_config()
    pooler = "cls_pooler" if kind == "bert" else "mean_pooler"
    config["model_cfg"]["text_cfg"] = {
        "hf_model_name": "some/tower", "hf_tokenizer_name": "some/tower", "hf_pooler_type": pooler,
        "context_length": 16,
    }  # fmt: skip
    torch.manual_seed(0)
    model: Any = create(config["model_cfg"], "here").eval()
    folder = tmp_path / "in"
    library_tokenizer("bert").save_pretrained(str(folder))
    (folder / CONFIG).write_text(json.dumps(config))
    (folder / "config.json").write_text('{"model_type": "bert"}')
    write_tensors(folder / WEIGHTS, model.state_dict())
    clip = load(folder)
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    with torch.no_grad():
        torch.testing.assert_close(clip.encode_text(TEXTS), model.encode_text(tokens, normalize=True))
    clip.save(tmp_path / "out")
    torch.testing.assert_close(load(tmp_path / "out").encode_text(TEXTS), clip.encode_text(TEXTS))
    long = 1024 if kind == "m2m_100" else 600
    change(folder, put(T, context_length=long + (kind == "m2m_100")))
    refused(lambda: load(folder), "context_length")


# --- references ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reference",
    [
        "", "hf-hub:a/b", "ViT-B-32:openai", "//host/share", "\\\\host\\share", "random:RN50", "RN50",
        "local-dir:hf-hub:a/b", "adapter:x@hf-hub:a/b", "adapter:x@ViT-B-32:openai", "adapter:hf-hub:a/b", "adapter:x@",
        "adapter:x@adapter:x@RN50",
    ],
)  # fmt: skip
@pytest.mark.parametrize("there", [False, True])
def test_what_stands_in_a_file_reaches_nothing(
    reference: str, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x").mkdir()
    if there:  # whoever sent the file may have put things of such names beside it
        Path("hf-hub:a/b").mkdir(parents=True)
        for name in ("ViT-B-32:openai", "RN50", "random:RN50"):
            Path(name).touch()
    refused(lambda: offline(reference, "here"), "here names the model")


def test_what_stands_in_a_file_may_name_a_folder(vit_folder: Path) -> None:
    for reference in ("embedded", str(vit_folder), f"local-dir:{vit_folder}", f"adapter:{vit_folder}@embedded"):
        assert offline(reference, "here") == reference


def test_paths_and_strings_are_the_same(vit_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(vit_folder).reference == load(str(vit_folder)).reference
    register(monkeypatch, "tiny")
    file = weights_file(tmp_path / "w.pt")
    ours, theirs = (load("tiny", checkpoint=f).state() for f in (file, str(file)))
    assert all(torch.equal(ours[n], theirs[n]) for n in ours)


# --- models in memory ------------------------------------------------------------------------------------------------


def coca_config() -> Json:
    config = vit_config()
    tower = {"width": 32, "heads": 2, "layers": 2, "mlp_ratio": 4.0}
    config["model_cfg"] |= {
        "custom_text": True,
        "multimodal_cfg": {**tower, "context_length": 24},
        "vision_cfg": {
            **config["model_cfg"]["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 4,
            "output_tokens": True, "attn_pooler_queries": 8,
        },
        "text_cfg": {**tower, "context_length": 24, "vocab_size": 49408, "embed_cls": True, "output_tokens": True},
    }  # fmt: skip
    return config


def siglip_like() -> Json:
    config = vit_config()
    config["model_cfg"] |= {
        "custom_text": True, "init_logit_bias": -10, "quick_gelu": False, "nonscalar_logit_scale": True,
        "text_cfg": {
            **config["model_cfg"]["text_cfg"], "no_causal_mask": True, "pool_type": "last", "proj_bias": True,
            "norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"}, "mlp_ratio": 3.7362,
            "tokenizer_kwargs": {"clean": "canonicalize"},
        },
        "vision_cfg": {
            **config["model_cfg"]["vision_cfg"], "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True,
            "pos_embed_type": "sin_cos_2d", "ls_init_value": 0.1, "patch_dropout": 0.3,
        },
    }  # fmt: skip
    return config


MEMORY = {**CONFIGS, "coca": coca_config, "siglip": siglip_like, "resnet": resnet_config}


@pytest.mark.parametrize("kind", list(MEMORY))
def test_a_model_in_memory_is_a_clip_that_its_library_loads_again(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    config = MEMORY[kind]()
    (folder / CONFIG).write_text(json.dumps(config))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    for parameter in model.parameters():  # the library leaves some of CoCa's as memory happens to be
        parameter.data.nan_to_num_(0.0, 0.0, 0.0).clamp_(-1, 1)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    before = {n: t.clone() for n, t in model.state_dict().items()}
    clip = load(model, tokenizer=tokenizer)
    x = images(clip.image_size)
    with torch.no_grad():
        expected = model.eval().encode_image(clip.preprocess(x), normalize=True)
        torch.testing.assert_close(clip.encode_image(x), expected)
        words = model.encode_text(tokenizer(TEXTS), normalize=True)
    torch.testing.assert_close(clip.encode_text(TEXTS), words, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        next(iter(clip.image_parameters().values())).add_(1.0)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())  # the user's own stays as it was
    clip.save(tmp_path / "out")
    theirs = open_clip.create_model(f"local-dir:{tmp_path / 'out'}").eval()
    with torch.no_grad():
        torch.testing.assert_close(clip.encode_image(x), theirs.encode_image(clip.preprocess(x), normalize=True))
    again = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")
    assert torch.equal(again(["A Photo, of_a cat!"]), tokenizer(["A Photo, of_a cat!"]))
    assert load(tmp_path / "out").mean == clip.mean == tuple(config["preprocess_cfg"]["mean"])


def test_a_model_in_memory_with_a_tokenizer_of_hugging_face(tmp_path: Path) -> None:
    config = vit_config()
    config["model_cfg"]["text_cfg"] |= {"vocab_size": 80, "hf_tokenizer_name": "x", "pool_type": "eos", "eos_id": 3}
    config["model_cfg"]["text_cfg"] |= {"tokenizer_kwargs": {"clean": "lower"}}
    folder = write_open_clip(tmp_path / "in", config)
    library_tokenizer("bert").save_pretrained(str(folder))
    (folder / "config.json").write_text('{"model_type": "bert"}')
    model, tokenizer = open_clip.create_model(f"local-dir:{folder}"), open_clip.get_tokenizer(f"local-dir:{folder}")
    ours, plain = load(folder), load(model, tokenizer=tokenizer)
    torch.testing.assert_close(ours.encode_text(TEXTS), plain.encode_text(TEXTS))
    plain.save(tmp_path / "out")
    torch.testing.assert_close(load(tmp_path / "out").encode_text(TEXTS), ours.encode_text(TEXTS))
    refused(lambda: load(model).encode_text(TEXTS), "give its tokenizer as tokenizer=")
    other = load(model, tokenizer=lambda texts: tokenizer(texts))
    torch.testing.assert_close(other.encode_text(TEXTS), ours.encode_text(TEXTS))
    refused(lambda: other.save(tmp_path / "no"), "tokenizer is a function")
    refused(lambda: load(model, tokenizer=5), "is no tokenizer")


def test_half_precision_and_wrappers_in_memory(vit_folder: Path, tmp_path: Path) -> None:
    model = open_clip.create_model(f"local-dir:{vit_folder}")
    expected = load(vit_folder).encode_image(images())
    for wrapped in (torch.nn.DataParallel(model), torch.compile(model)):
        torch.testing.assert_close(load(wrapped).encode_image(images()), expected)
    clip = load(model.half())
    assert set(clip.stored_dtypes.values()) == {torch.float16}
    clip.save(tmp_path / "out")
    assert read_tensors(tmp_path / "out" / WEIGHTS)[0]["visual.proj"].dtype == torch.float16
    refused(lambda: load(torch.nn.Linear(2, 2)), "a Linear is no model")


def test_a_model_of_hugging_face_in_memory(vit_folder: Path, tmp_path: Path) -> None:
    from transformers import CLIPImageProcessor, CLIPModel

    folder = open_clip_to_hf(vit_folder, tmp_path / "hf")
    pictures = CLIPImageProcessor.from_pretrained(folder)
    ours, plain = load(folder), load(CLIPModel.from_pretrained(folder), processor=pictures)
    torch.testing.assert_close(plain.encode_image(images()), ours.encode_image(images()))
    torch.testing.assert_close(plain.encode_text(TEXTS), ours.encode_text(TEXTS))


def test_verbs_take_models_in_memory(vit_folder: Path) -> None:
    import unbackdoor

    model = open_clip.create_model(f"local-dir:{vit_folder}")
    found, expected = (
        unbackdoor.evaluate(model=m, data="embedded:digits", limit=20)["ca"] for m in (model, vit_folder)
    )
    assert found == expected


def test_a_changed_model_in_memory_is_not_guessed(vit_folder: Path) -> None:
    model = open_clip.create_model(f"local-dir:{vit_folder}")
    model.visual.transformer.resblocks[0].mlp.gelu = torch.nn.ReLU()
    refused(lambda: load(model), "cannot be read off it")


# --- what all code shares --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["open_clip", "hf", "embedded", "memory"])
def test_loading_leaves_what_is_shared_alone(kind: str, vit_folder: Path, tmp_path: Path) -> None:
    reference: Any = {
        "open_clip": lambda: vit_folder,
        "hf": lambda: open_clip_to_hf(vit_folder, tmp_path / "hf"),
        "embedded": lambda: "embedded",
        "memory": lambda: open_clip.create_model(f"local-dir:{vit_folder}"),
    }[kind]()

    def shared() -> tuple[Any, ...]:
        return (
            torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist(),  # type: ignore[index]
            torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled(), list(warnings.filters),
            logging.root.level, list(logging.root.handlers), logging.root.manager.disable,
            logging.getLogger("open_clip").level, logging.getLogger("timm").level,
        )  # fmt: skip

    handlers = list(logging.root.handlers)
    logging.root.handlers[:] = []  # as outside a test
    torch.set_default_dtype(torch.float64)
    try:
        before = shared()
        clip = load(reference)
        assert shared() == before
        assert {p.dtype for p in clip.image_parameters().values()} == {torch.float32}
    finally:
        torch.set_default_dtype(torch.float32)
        logging.root.handlers[:] = handlers


def test_random_weights_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "tiny")
    torch.manual_seed(0)
    first, second = load("random:tiny").state(), load("random:tiny").state()
    torch.manual_seed(0)
    again = load("random:tiny").state()
    assert torch.equal(first["visual.proj"], again["visual.proj"])
    assert not torch.equal(first["visual.proj"], second["visual.proj"])
