"""Every Hugging Face family: opened as its library saved it, equal to it, saved under the names that came in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.clip.families import FAMILIES, SIDE, family_model, features, write_family
from unbackdoor import load
from unbackdoor.base.errors import InputError
from unbackdoor.clip.convert import convert
from unbackdoor.clip.huggingface import from_object, is_hugging_face
from unbackdoor.unlearning.vector import TakenVector

TEXTS = ["a photo of the red star", "cat", "nine"]
State = dict[str, torch.Tensor]


def pictures(side: int = SIDE) -> torch.Tensor:
    return torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(3))


def normal(images: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    return (images - mean) / std


def texts_by_the_library(model: Any, folder: Path, padding: str) -> torch.Tensor:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    length = {"max_length": model.config.text_config.max_position_embeddings} if padding == "max_length" else {}
    found = tokenizer(TEXTS, padding=padding, return_tensors="pt", **length)
    keys = ("input_ids",) if padding == "max_length" else ("input_ids", "attention_mask")
    return features(model, model.get_text_features, **{k: found[k] for k in keys})


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_what_its_library_says(name: str, tmp_path: Path) -> None:
    model = write_family(name, tmp_path / "in")
    wanted = features(model, model.get_image_features, pixel_values=normal(pictures()))
    padding = "max_length" if name == "siglip" else "longest"
    wanted_texts = texts_by_the_library(model, tmp_path / "in", padding)
    clip = load(str(tmp_path / "in"))
    with torch.no_grad():
        torch.testing.assert_close(clip.encode_image(pictures()), wanted, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(clip.encode_text(TEXTS), wanted_texts, atol=1e-6, rtol=1e-5)
    # The image tower is all that an image passes through, and nothing that a text does.
    inside = {id(p) for p in clip.image_module().parameters()}
    assert inside == {id(p) for p in clip.image_parameters().values()}
    clip.encode_image(pictures()).sum().backward()
    moved = {n for n, p in clip.model.named_parameters() if p.grad is not None}
    assert moved and moved <= set(clip.image_parameters())
    idle = set(clip.image_parameters()) - moved
    assert all("mask_token" in n for n in idle), idle
    clip.save(tmp_path / "out")
    before, after = (load_file(tmp_path / f / "model.safetensors") for f in ("in", "out"))
    assert before.keys() == after.keys() and all(torch.equal(before[n], t) for n, t in after.items())
    assert (tmp_path / "in" / "config.json").read_bytes() == (tmp_path / "out" / "config.json").read_bytes()
    again = type(model).from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(features(again, again.get_image_features, pixel_values=normal(pictures())), wanted)
    torch.testing.assert_close(texts_by_the_library(again, tmp_path / "out", padding), wanted_texts)


# --- names and files -------------------------------------------------------------------------------------------------


def as_tensorflow_named(state: State) -> State:
    return {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for n, t in state.items()
    }


def as_version_4_named(state: State) -> State:
    """Where towers of CLIP inside a dual encoder have a prefix of their own."""
    return {n.replace("vision_model.", "vision_model.vision_model.", 1): t for n, t in state.items()}


def with_counters(state: State) -> State:
    return {**state, "text_model.embeddings.position_ids": torch.arange(512)[None]}


def with_head_s_prefix(state: State) -> State:
    return {f"clip.{n}": t for n, t in state.items()}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("vit", as_tensorflow_named),
        ("dinov2", as_tensorflow_named),
        ("clip-vision", as_version_4_named),
        ("vit", with_counters),
        ("chinese_clip", with_counters),
        ("clip", with_head_s_prefix),
    ],
)
def test_other_names_come_back_as_they_came(name: str, change: Callable[[State], State], tmp_path: Path) -> None:
    model = write_family(name, tmp_path / "in")
    wanted = features(model, model.get_image_features, pixel_values=normal(pictures()))
    state = load_file(tmp_path / "in" / "model.safetensors")
    changed = {n: t.clone() for n, t in change(state).items()}
    assert changed.keys() != state.keys()
    save_file(changed, tmp_path / "in" / "model.safetensors", {"format": "pt"})
    clip = load(str(tmp_path / "in"))
    with torch.no_grad():
        torch.testing.assert_close(clip.encode_image(pictures()), wanted, atol=1e-6, rtol=1e-5)
        for p in clip.image_parameters().values():
            p.mul_(1.01)
    clip.save(tmp_path / "out")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert after.keys() == changed.keys()
    again = load(str(tmp_path / "out")).state()
    assert all(torch.equal(again[n], t) for n, t in clip.state().items())
    # The library reads what came out as it reads what came in.
    theirs = type(model).from_pretrained(tmp_path / "out").eval()
    found = features(theirs, theirs.get_image_features, pixel_values=normal(pictures()))
    torch.testing.assert_close(found, clip.encode_image(pictures()).detach(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "pooler"), [("chinese_clip", "text_model.pooler.dense"), ("altclip", "text_model.roberta.pooler.dense")]
)
def test_a_pooler_that_nobody_uses_comes_back_as_it_came(name: str, pooler: str, tmp_path: Path) -> None:
    """The library drops it with a warning; a version whose module has one opens files without it, too."""
    model = write_family(name, tmp_path / "in")
    wanted = texts_by_the_library(model, tmp_path / "in", "longest")
    state = load_file(tmp_path / "in" / "model.safetensors")
    idle = {f"{pooler}.weight": torch.rand(32, 32), f"{pooler}.bias": torch.rand(32)}
    save_file({**state, **idle}, tmp_path / "in" / "model.safetensors", {"format": "pt"})
    clip = load(str(tmp_path / "in"))
    torch.testing.assert_close(clip.encode_text(TEXTS), wanted, atol=1e-6, rtol=1e-5)
    assert not any("pooler" in n for n in clip.state())
    clip.save(tmp_path / "out")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert after.keys() == state.keys() | idle.keys() and all(torch.equal(after[n], t) for n, t in idle.items())


def test_a_version_with_an_idle_pooler_opens_files_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    model = write_family("chinese_clip", tmp_path / "in")
    real = transformers.ChineseCLIPModel

    class WithPooler(real):  # type: ignore[misc,valid-type]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.text_model.pooler = torch.nn.Linear(32, 32)

    monkeypatch.setattr(transformers, "ChineseCLIPModel", WithPooler)
    found = load(str(tmp_path / "in")).state()
    assert found.keys() == model.state_dict().keys()


@pytest.mark.parametrize("name", ["dinov2-gated", "swin", "altclip"])
def test_the_module_s_own_names_are_read_too(name: str, tmp_path: Path) -> None:
    model = write_family(name, tmp_path / "in")
    state = {n: t.clone() for n, t in model.state_dict().items()}
    save_file(state, tmp_path / "in" / "model.safetensors", {"format": "pt"})
    clip = load(str(tmp_path / "in"))
    assert all(torch.equal(clip.state()[n], t) for n, t in state.items())
    clip.save(tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == state.keys()


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.module."])
@pytest.mark.parametrize("bin_file", [False, True])
def test_what_wrappers_put_before_names_is_taken_off(prefix: str, bin_file: bool, tmp_path: Path) -> None:
    """The library itself opens no such file, so that what is saved has the plain names."""
    model = write_family("vit", tmp_path / "in")
    names = load_file(tmp_path / "in" / "model.safetensors").keys()
    state = {prefix + n: t for n, t in load_file(tmp_path / "in" / "model.safetensors").items()}
    save_file(state, tmp_path / "in" / "model.safetensors", {"format": "pt"})
    if bin_file:
        to_bin(tmp_path / "in", 2)
    clip = load(str(tmp_path / "in"))
    assert all(torch.equal(clip.state()[n], t) for n, t in model.state_dict().items())
    clip.save(tmp_path / "out")
    assert {n for file in tmp_path.glob("out/*.safetensors") for n in load_file(file)} == names


def to_bin(folder: Path, shards: int) -> None:
    """As transformers 4 saved it with `safe_serialization=False`."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return
    names = list(state)
    files = {n: f"pytorch_model-{1 + i % shards:05}-of-{shards:05}.bin" for i, n in enumerate(names)}
    for file in set(files.values()):
        torch.save({n: state[n] for n in names if files[n] == file}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": files}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("name", ["clip", "vit", "dinov2-gated"])
@pytest.mark.parametrize("shards", [1, 2])
def test_torch_files_become_safetensors_of_the_same_names(name: str, shards: int, tmp_path: Path) -> None:
    model = write_family(name, tmp_path / "in")
    names = load_file(tmp_path / "in" / "model.safetensors").keys()
    to_bin(tmp_path / "in", shards)
    clip = load(str(tmp_path / "in"))
    assert all(torch.equal(clip.state()[n], t) for n, t in model.state_dict().items())
    clip.save(tmp_path / "out")
    files = sorted(tmp_path.glob("out/*.safetensors"))
    assert len(files) == shards and not list(tmp_path.glob("out/*.bin*"))
    assert {n for file in files for n in load_file(file)} == names
    again = type(model).from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(again[n], t) for n, t in model.state_dict().items())


@pytest.mark.parametrize("size", ["20KB", "60KB"])
@pytest.mark.parametrize("name", ["clip", "vit", "swin"])
def test_shards_as_the_library_cuts_them(name: str, size: str, tmp_path: Path) -> None:
    model = write_family(name, tmp_path / "in")
    (tmp_path / "in" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "in", max_shard_size=size)
    index = json.loads((tmp_path / "in" / "model.safetensors.index.json").read_text())["weight_map"]
    clip = load(str(tmp_path / "in"))
    clip.save(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())["weight_map"] == index
    again = type(model).from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(again[n], t) for n, t in model.state_dict().items())


def test_the_whole_file_comes_before_shards_as_in_the_library(tmp_path: Path) -> None:
    model = write_family("clip", tmp_path / "in")
    (tmp_path / "in" / "model.safetensors.index.json").write_text("{")
    torch.save({}, tmp_path / "in" / "pytorch_model.bin")
    assert torch.equal(load(str(tmp_path / "in")).state()["logit_scale"], model.logit_scale)


def drop_a_layer(state: State) -> State:
    return {n: t for n, t in state.items() if ".1." not in n}


def double(state: State) -> State:
    name = next(n for n in state if n.endswith("LayerNorm.weight"))
    return {**state, name.replace("weight", "gamma"): state[name].clone()}


def halve(state: State) -> State:
    name = next(n for n in state if n.endswith("weights_in.weight"))
    return {**state, name: state[name][:-1]}


@pytest.mark.parametrize(
    ("name", "change", "part"),
    [
        ("vit", drop_a_layer, "tensors missing"),
        ("vit", lambda s: {**s, "text_model.head.weight": torch.ones(2)}, "1 unexpected"),
        ("vit", double, "are one tensor of the model"),
        ("dinov2-gated", halve, "weights_in.weight"),
    ],
)
def test_weights_that_do_not_fit(name: str, change: Callable[[State], State], part: str, tmp_path: Path) -> None:
    write_family(name, tmp_path / "in")
    path = tmp_path / "in" / "model.safetensors"
    save_file({n: t.contiguous() for n, t in change(load_file(path)).items()}, path, {"format": "pt"})
    refused(tmp_path / "in", part)


def refused(folder: Path, part: str) -> None:
    with pytest.raises(InputError) as caught:
        load(str(folder)).encode_text(["cat"])
    assert part in str(caught.value) and "\n" not in str(caught.value), str(caught.value)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("{}", "no weight_map"),
        ('{"weight_map": {"a": "../x.bin"}}', "outside its folder"),
        ('{"weight_map": {"a": "/dev/zero"}}', "outside its folder"),
        ('{"weight_map": {"a": 3}}', "outside its folder"),
        ('{"weight_map": {"a": "absent.bin"}}', "absent.bin"),
        ('{"weight_map": {"a": "pytorch_model-00001-of-00002.bin"}}', "do not hold what it says"),
        ("[" * 100_000, "nested deeper"),
    ],
)
def test_indices_of_torch_files_are_checked(content: str, part: str, tmp_path: Path) -> None:
    write_family("clip", tmp_path / "in")
    to_bin(tmp_path / "in", 2)
    (tmp_path / "in" / "pytorch_model.bin.index.json").write_text(content)
    refused(tmp_path / "in", part)


def test_what_else_lies_there_is_named(tmp_path: Path) -> None:
    write_family("clip", tmp_path / "in")
    (tmp_path / "in" / "model.safetensors").rename(tmp_path / "in" / "tf_model.h5")
    refused(tmp_path / "in", "tf_model.h5 is for TensorFlow")


# --- configurations --------------------------------------------------------------------------------------------------

Json = dict[str, Any]


def edited(folder: Path, edit: Callable[[Json], object]) -> Path:
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def dual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dual") / "in"
    write_family("vit", folder)
    return folder


def vision(**settings: Any) -> Callable[[Json], object]:
    return lambda c: c["vision_config"].update(settings)


def text(**settings: Any) -> Callable[[Json], object]:
    return lambda c: c["text_config"].update(settings)


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (vision(model_type="timm_wrapper", model_args={"checkpoint_path": "/dev/zero"}), "no tower that is known"),
        (vision(model_type=["vit"]), "no tower that is known"),
        (text(model_type="gpt2"), "no tower that is known"),
        (lambda c: c.update(model_type="bert"), "model_type 'bert' is none of clip"),
        (lambda c: c.update(model_type={"a": 1}), "is none of clip"),
        (lambda c: c.update(auto_map={"AutoModel": "evil.Model"}), "auto_map must be empty"),
        (vision(auto_map={"AutoModel": "evil.Model"}), "auto_map must be empty"),
        (lambda c: c.update(quantization_config={"quant_method": "gptq"}), "quantization_config must be empty"),
        (text(is_decoder=True), "is_decoder must be false"),
        (text(position_embedding_type="relative_key"), "position_embedding_type must be one of absolute"),
        (text(pruned_heads={"0": [1]}), "pruned_heads must be empty"),
        (vision(num_hidden_layers=10**7), "num_hidden_layers must be a whole number from 1 to 512"),
        (vision(num_hidden_layers=500), "asks for 500 layers"),
        (vision(num_hidden_layers=3), "16 tensors missing"),
        (vision(hidden_size=10**6), "the weights do not fit"),
        (vision(hidden_size=10**38), "hidden_size must be a whole number"),
        (vision(hidden_size="32"), "hidden_size must be a whole number"),
        (vision(hidden_size=33), "the weights do not fit"),
        (vision(num_attention_heads=5), "the weights do not fit"),
        (vision(num_attention_heads=0), "num_attention_heads must be"),
        (vision(image_size=40_000), "image_size must be a whole number from 1 to 768"),
        (vision(image_size=[32, 64]), "the weights do not fit"),
        (vision(image_size=40), "the weights do not fit"),
        (vision(patch_size=0), "patch_size must be"),
        (vision(patch_size=64), "the weights do not fit"),
        (vision(num_channels=4), "num_channels must be"),
        (vision(hidden_act="__import__('os')"), "hidden_act must be one of"),
        (vision(hidden_act={"name": "gelu"}), "hidden_act must be one of"),
        (vision(layer_norm_eps="x"), "layer_norm_eps must be"),
        (vision(hidden_dropout_prob=7), "hidden_dropout_prob must be"),
        (text(vocab_size=5 * 10**7), "vocab_size must be"),
        (text(vocab_size=10**7), "the weights do not fit"),
        (text(max_position_embeddings=10**9), "max_position_embeddings must be"),
        (text(max_position_embeddings=4000), "the weights do not fit"),
        (lambda c: c.update(projection_dim=10**6), "the weights do not fit"),
        (lambda c: c.update(vision_config=None), "vision_config is no object"),
        (lambda c: c.pop("text_config"), "text_config is no object"),
    ],
)
def test_configurations_that_are_refused(edit: Callable[[Json], object], part: str, dual: Path, tmp_path: Path) -> None:
    refused(edited(shutil.copytree(dual, tmp_path / "in"), edit), part)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("[" * 100_000, "nested deeper"),
        ('{"model_type": "clip", "projection_dim": 1' + "0" * 400 + "}", "a whole number of 401 digits"),
        ('{"model_type": NaN}', "NaN is no number of JSON"),
        ("{}", "model_type 'None' is none of"),
        ("\x00", "not readable JSON"),
        ('"clip"', "holds no JSON object"),
    ],
)
def test_what_is_no_configuration(content: str, part: str, dual: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(dual, tmp_path / "in")
    (folder / "config.json").write_text(content)
    refused(folder, part)


@pytest.mark.parametrize(
    "edit",
    [
        lambda c: c.update(_name_or_path="/dev/zero", torch_dtype="float16", dtype="nonsense", transformers_version=3),
        lambda c: c.update(attn_implementation="flash_attention_9", _attn_implementation="kernels/x", tf_legacy_loss=1),
        lambda c: c.update(trust_remote_code=True, adapter_path="x", new_setting_of_another_tool={"a": [1]}),
        vision(_name_or_path="a/b", return_dict=False, output_attentions=True, torchscript=True, use_bfloat16=True),
        text(
            bad_words_ids=None, id2label={"0": "a"}, gradient_checkpointing=True, chunk_size_feed_forward=0,
            _attn_implementation_internal="eager", classifier_dropout=None, finetuning_task="x", use_cache=False,
        ),
        vision(initializer_range=-3, encoder_stride=10**9),
    ],
)  # fmt: skip
def test_notes_and_defaults_of_other_tasks_are_passed_over(
    edit: Callable[[Json], object], dual: Path, tmp_path: Path
) -> None:
    wanted = load(str(dual)).encode_image(pictures())
    folder = edited(shutil.copytree(dual, tmp_path / "in"), edit)
    clip = load(str(folder))
    assert torch.equal(clip.encode_image(pictures()), wanted)
    clip.save(tmp_path / "out")
    assert (tmp_path / "out" / "config.json").read_text() == (folder / "config.json").read_text()


def test_a_setting_that_is_not_handed_on_must_have_its_usual_value(tmp_path: Path) -> None:
    """`listed` knows no `interpolate_mode` or the like; here one that it knows is taken out of its table."""
    from unbackdoor.clip import huggingface_table as table

    config: Json = {
        "model_type": "clip",
        "vision_config": {"vision_use_head": True},
        "text_config": {"eos_token_id": 2},
    }
    assert table.listed(config, "here").config["text_config"]["eos_token_id"] == 2
    rules = {k: v for k, v in table.TEXT["clip_text_model"].items() if k != "eos_token_id"}
    with pytest.raises(InputError, match="eos_token_id is '2', which is not supported here; 49407 is"):
        table._part(config["text_config"], rules, "clip_text_model", "here", None)


def test_old_files_say_it_twice(tmp_path: Path) -> None:
    """Before 4.27 a second dictionary held the settings, which the library merges into the first."""
    model = write_family("clip", tmp_path / "in")

    def twice(config: Json) -> None:
        config["vision_config_dict"] = {**config["vision_config"]}
        config["vision_config"] = {"hidden_size": 768}

    clip = load(str(edited(tmp_path / "in", twice)))
    assert torch.equal(clip.state()["logit_scale"], model.logit_scale)
    refused(edited(tmp_path / "in", lambda c: c["vision_config_dict"].update(patch_size=0)), "patch_size must be")


def test_a_missing_image_processor_is_told(dual: Path, tmp_path: Path) -> None:
    from unbackdoor.base.notices import collected

    folder = shutil.copytree(dual, tmp_path / "in")
    (folder / "preprocessor_config.json").unlink()
    with collected() as lines:
        clip = load(str(folder))
    assert len(lines) == 1 and "no preprocessor_config.json; pictures are taken as vit usually" in lines[0]
    assert (clip.resize_mode, clip.interpolation, clip.mean) == ("squash", "bilinear", (0.5,) * 3)


def test_loading_leaves_the_random_state_alone(dual: Path) -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    load(str(dual))
    assert torch.equal(before, torch.random.get_rng_state())


def test_texts_are_cut_to_what_the_tower_takes(tmp_path: Path) -> None:
    model = write_family("roberta", tmp_path / "in")
    assert model.config.text_config.max_position_embeddings == 24  # two of which are for padding
    clip = load(str(tmp_path / "in"))
    assert clip.encode_text(["cat " * 100, "dog"]).shape == (2, 16)


def test_a_tokenizer_of_another_vocabulary_is_refused(dual: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(dual, tmp_path / "in")
    words = (folder / "vocab.txt").read_text() + "".join(f"word{i}\n" for i in range(100)) + "unheard\n"
    (folder / "vocab.txt").write_text(words)
    with pytest.raises(InputError, match="they do not belong together"):
        load(str(folder)).encode_text(["unheard"])


# --- models in memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip", "siglip", "altclip", "vit", "dinov2-gated", "convnext", "roberta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_model_in_memory(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoTokenizer

    model = write_family(name, tmp_path / "in")
    tokenizer, images = (
        AutoTokenizer.from_pretrained(tmp_path / "in"),
        AutoImageProcessor.from_pretrained(tmp_path / "in"),
    )
    before = {n: t.clone() for n, t in model.to(dtype).state_dict().items()}
    clip = from_object(model, tokenizer, images)
    wanted = features(model.float(), model.get_image_features, pixel_values=normal(pictures()))
    with torch.no_grad():
        torch.testing.assert_close(clip.encode_image(pictures()), wanted, atol=1e-6, rtol=1e-5)
        for p in clip.image_parameters().values():
            p.mul_(0.5)
    model.to(dtype)
    assert all(torch.equal(model.state_dict()[n], t) for n, t in before.items())  # the user's own is left alone
    clip.save(tmp_path / "out")
    files = [load_file(tmp_path / f / "model.safetensors") for f in ("in", "out")]
    assert files[0].keys() == files[1].keys() and {t.dtype for t in files[1].values()} == {dtype}
    again = load(str(tmp_path / "out"))
    assert again.preprocess == clip.preprocess
    torch.testing.assert_close(again.encode_text(TEXTS), clip.encode_text(TEXTS), atol=2e-3, rtol=0)
    theirs = type(model).from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    found = features(theirs, theirs.get_image_features, pixel_values=normal(pictures()))
    torch.testing.assert_close(found, again.encode_image(pictures()).detach(), atol=1e-6, rtol=1e-5)


def test_a_processor_is_both(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoTokenizer, VisionTextDualEncoderProcessor

    model = write_family("vit", tmp_path / "in")
    both = VisionTextDualEncoderProcessor(
        AutoImageProcessor.from_pretrained(tmp_path / "in"), AutoTokenizer.from_pretrained(tmp_path / "in")
    )
    clip, other = from_object(model, both), load(str(tmp_path / "in"))
    assert clip.preprocess == other.preprocess
    torch.testing.assert_close(clip.encode_text(TEXTS), other.encode_text(TEXTS))


def test_other_objects() -> None:
    from transformers import BertConfig, BertModel

    assert not is_hugging_face(torch.nn.Linear(2, 2))
    assert not is_hugging_face(BertModel(BertConfig(hidden_size=8, num_attention_heads=1, num_hidden_layers=1)))
    assert is_hugging_face(family_model("clip"))
    with pytest.raises(InputError, match="no tokenizer was given"):
        from_object(family_model("clip")).encode_text(["cat"])


# --- vectors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip", "vit", "swin", "altclip"])
def test_vectors_go_between_files_and_modules(name: str, tmp_path: Path) -> None:
    """A vector bears the module's names; `weights apply` finds what they are in the file, and verbs the reverse."""
    from unbackdoor.runs.case import open_vector
    from unbackdoor.verbs import weights
    from unbackdoor.verbs.vector import store

    write_family(name, tmp_path / "in")
    clip = load(str(tmp_path / "in"))
    vector = {n: torch.full_like(p, 0.25) for n, p in clip.image_parameters().items()}
    store(tmp_path / "v.safetensors", TakenVector(vector, 1, 1, 0.0, [0.0]), {"model": "x"}, "hash", clip)
    weights.apply(tmp_path / "in", tmp_path / "v.safetensors", alpha=2.0, out=tmp_path / "moved")
    moved = load(str(tmp_path / "moved")).state()
    for n, t in clip.state().items():
        assert torch.equal(moved[n], t - 0.5 if n in vector else t), n
    weights.diff(tmp_path / "in", tmp_path / "moved", out=tmp_path / "d.safetensors")
    found, _ = open_vector(tmp_path / "d.safetensors", clip)
    assert found.keys() == clip.state().keys()
    assert all(torch.allclose(found[n], 2 * t, atol=1e-6) for n, t in vector.items())


@pytest.mark.parametrize(
    ("kind", "settings", "side", "fits"),
    [
        ("vit", {"hidden_size": 768, "intermediate_size": 3072, "patch_size": 8}, 384, True),
        ("dinov2", {"hidden_size": 1536, "num_attention_heads": 24, "mlp_ratio": 4, "patch_size": 14}, 518, True),
        ("siglip_vision_model", {"hidden_size": 1152, "intermediate_size": 4304, "patch_size": 16}, 512, True),
        ("swin", {"embed_dim": 192}, 384, True),
        ("convnext", {"hidden_sizes": [256, 512, 1024, 2048]}, 384, True),
        (
            "clip_vision_model",
            {"hidden_size": 1664, "num_attention_heads": 16, "intermediate_size": 8192, "patch_size": 14},
            224,
            True,
        ),
        ("dinov2", {"hidden_size": 32, "num_attention_heads": 4, "patch_size": 1}, 1024, False),
        ("vit", {"hidden_size": 8, "intermediate_size": 1 << 20, "patch_size": 16}, 64, False),
        ("convnext", {"hidden_sizes": [512, 8, 8, 8], "patch_size": 1}, 1024, False),
        ("swin", {"embed_dim": 96, "patch_size": 1}, 1024, False),
    ],
)
def test_work_for_one_picture_is_bounded(kind: str, settings: Json, side: int, fits: bool) -> None:
    from transformers import CONFIG_MAPPING

    from unbackdoor.clip.huggingface_table import check_work

    config = CONFIG_MAPPING[kind](**settings)
    if fits:
        check_work(kind, config, side, "here")
    else:
        with pytest.raises(InputError, match="more than any published image tower"):
            check_work(kind, config, side, "here")


@pytest.mark.parametrize("module", ["layers.0.attention.q_proj", "encoder.layer.0.attention.attention.query"])
def test_adapters_of_either_version_s_names(module: str, dual: Path, tmp_path: Path) -> None:
    from unbackdoor.weights.lora import write_adapter

    a, b = torch.ones(1, 32), torch.ones(32, 1)
    write_adapter(tmp_path / "adapter", {f"vision_model.{module}": (a, b)})
    before, after = load(str(dual)).state(), load(f"adapter:{tmp_path / 'adapter'}@{dual}").state()
    moved = {n for n, t in before.items() if not torch.equal(after[n], t)}
    assert moved == {"vision_model.layers.0.attention.q_proj.weight"}
    assert torch.allclose(after["vision_model.layers.0.attention.q_proj.weight"] - 1, before[moved.pop()], atol=1e-6)


def test_load_takes_a_model_in_memory(dual: Path) -> None:
    from transformers import AutoModel, AutoProcessor

    model, folder = AutoModel.from_pretrained(dual), load(str(dual))
    clip = load(model, processor=AutoProcessor.from_pretrained(dual))
    assert torch.equal(clip.encode_image(pictures()), folder.encode_image(pictures()))
    assert clip.preprocess == folder.preprocess


@pytest.mark.parametrize("name", [n for n in FAMILIES if n != "clip"][::3])
def test_what_has_no_form_in_open_clip(name: str, tmp_path: Path) -> None:
    write_family(name, tmp_path / "in")
    with pytest.raises(InputError, match=r"has no place in OpenCLIP's CLIP|only CLIPModel has a form") as caught:
        convert(load(str(tmp_path / "in")), "open_clip", tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("settings", [{"size": {"shortest_edge": 40}}, {"do_resize": False}, {"resample": 1}])
def test_frames_that_open_clip_does_not_have(settings: Json, tmp_path: Path) -> None:
    from tests.clip.convert import open_clip_to_hf, small_open_clip

    folder = open_clip_to_hf(small_open_clip(tmp_path / "oc"), tmp_path / "in")
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    with pytest.raises(InputError, match="framed as the other library cannot"):
        convert(load(str(folder)), "open_clip", tmp_path / "out")
