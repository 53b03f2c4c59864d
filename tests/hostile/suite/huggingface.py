"""Hugging Face folders whose configurations lie, point elsewhere, or ask for the machine."""

from __future__ import annotations

import json
from pathlib import Path

from tests.hostile.suite.made import DEEP, EVALUATE, HUGE_NUMBER, edited, hf_model, put
from tests.hostile.suite.openclip import evil
from tests.hostile.suite.runner import MARKER, Entry

C = "config.json"


def _edit(name: str, place: str, value: object, codes: tuple[int, ...] = (2,), kind: str = "clip") -> Entry:
    def make(folder: Path) -> list[str]:
        edited(hf_model(folder / "m", kind) / C, lambda config: put(config, place, value))
        return ["evaluate", "--model", "m", *EVALUATE]

    return Entry(f"hf {kind} {name}", make, codes)


def _picture_edit(name: str, place: str, value: object, codes: tuple[int, ...] = (2,)) -> Entry:
    def make(folder: Path) -> list[str]:
        edited(hf_model(folder / "m") / "preprocessor_config.json", lambda config: put(config, place, value))
        return ["evaluate", "--model", "m", *EVALUATE]

    return Entry(f"hf pictures {name}", make, codes)


def _text(name: str, file: str, text: str | bytes) -> Entry:
    def make(folder: Path) -> list[str]:
        (hf_model(folder / "m") / file).write_bytes(text if isinstance(text, bytes) else text.encode())
        return ["info", "--model", "m"]

    return Entry(f"hf {file} {name}", make)


V, T = "vision_config", "text_config"
_SIZES: list[tuple[str, str, object]] = [
    ("ten million layers", f"{V}.num_hidden_layers", 10**7),
    ("ten million text layers", f"{T}.num_hidden_layers", 10**7),
    ("negative layers", f"{V}.num_hidden_layers", -1),
    ("layers in words", f"{V}.num_hidden_layers", "two"),
    ("layers null", f"{T}.num_hidden_layers", None),
    ("width of a billion", f"{V}.hidden_size", 10**9),
    ("width of nothing", f"{T}.hidden_size", 0),
    ("heads of nothing", f"{V}.num_attention_heads", 0),
    ("heads that do not divide", f"{V}.num_attention_heads", 5),
    ("mlp of a billion", f"{V}.intermediate_size", 10**9),
    ("vocabulary of fifty million", f"{T}.vocab_size", 5 * 10**7),
    ("positions of a billion", f"{T}.max_position_embeddings", 10**9),
    ("pictures of 40,000", f"{V}.image_size", 40_000),
    ("pictures of nothing", f"{V}.image_size", 0),
    ("oblong pictures", f"{V}.image_size", [32, 64]),
    ("pictures in words", f"{V}.image_size", "32"),
    ("patches of nothing", f"{V}.patch_size", 0),
    ("patches larger than pictures", f"{V}.patch_size", 64),
    ("channels of a million", f"{V}.num_channels", 10**6),
    ("projection of a billion", "projection_dim", 10**9),
    ("projection in words", "projection_dim", "wide"),
    ("an activation of code", f"{V}.hidden_act", "__import__('os').system('true')"),
    ("norm epsilon in words", f"{V}.layer_norm_eps", "small"),
    ("vision in a list", V, [1]),
    ("text in a word", T, "bert"),
]
_KINDS: list[tuple[str, object]] = [
    ("unknown", "evil"),
    ("a number", 5),
    ("null", None),
    ("a list", ["clip"]),
    ("a language model", "llama"),
    ("a path", "../../x"),
    ("clipseg", "clipseg"),
    ("timm", "timm_wrapper"),
]
_DUAL: list[tuple[str, str, object]] = [
    (
        "vision of timm",
        V,
        {"model_type": "timm_wrapper", "architecture": "resnet10t", "model_args": {"checkpoint_path": "../canary"}},
    ),
    ("vision of a backbone", f"{V}.model_type", "timm_backbone"),
    ("vision unknown", f"{V}.model_type", "evil"),
    ("vision of a language model", f"{V}.model_type", "llama"),
    ("text unknown", f"{T}.model_type", "evil"),
    ("text of a picture model", f"{T}.model_type", "vit"),
    ("text of a giant", f"{T}.model_type", "llama"),
    ("vision without type", f"{V}.model_type", None),
    ("ten million layers", f"{V}.num_hidden_layers", 10**7),
    ("vocabulary of fifty million", f"{T}.vocab_size", 5 * 10**7),
    ("positions of a billion", f"{T}.max_position_embeddings", 10**9),
    ("projection of a billion", "projection_dim", 10**9),
    ("pictures of 40,000", f"{V}.image_size", 40_000),
]
# What changes no number is passed over; what is honoured and cannot be is refused.
_EXTRAS: list[tuple[str, str, object]] = [
    ("remote code", "auto_map", {"AutoModel": "evil.M", "AutoConfig": "evil.C"}),
    ("trust", "trust_remote_code", True),
    ("another name", "_name_or_path", "evil-org/evil"),
    ("architecture", "architectures", ["../../evil"]),
    ("type of numbers", "torch_dtype", "evil"),
    ("dtype", "dtype", "__import__('os')"),
    ("attention", "_attn_implementation", "evil-org/kernel"),
    ("attention of a hub", "attn_implementation", "evil-org/kernel:evil"),
    ("quantisation", "quantization_config", {"quant_method": "evil", "load_in_4bit": True}),
    ("an unknown key", "evil", {"a": [1]}),
    ("escapes", "evil", "\x1b[31m"),
    ("pruned heads", "pruned_heads", {"0": list(range(10**5))}),
    ("labels", "id2label", {str(i): "x" for i in range(10**4)}),
]
_PICTURES: list[tuple[str, str, object]] = [
    ("mean of a huge number", "image_mean", [10**39] * 3),
    ("mean of two", "image_mean", [0.5, 0.5]),
    ("mean of words", "image_mean", ["a"] * 3),
    ("deviation of nought", "image_std", [0, 0.5, 0.5]),
    ("size of a billion", "size", {"shortest_edge": 10**9}),
    ("size of nothing", "size", {"shortest_edge": 0}),
    ("size in words", "size", "large"),
    ("size of another key", "size", {"evil": 3}),
    ("size nested", "size", {"shortest_edge": {"shortest_edge": 3}}),
    ("crop of a billion", "crop_size", {"height": 10**9, "width": 10**9}),
    ("crop oblong", "crop_size", {"height": 32, "width": 16}),
    ("resampling unknown", "resample", 99),
    ("resampling in words", "resample", "evil"),
    ("rescaling in words", "rescale_factor", "small"),
    ("rescaling of a huge number", "rescale_factor", 10**39),
    ("resizing in words", "do_resize", "perhaps"),
]


def _timm(folder: Path) -> list[str]:
    # A pickle that a library would open, were the path of the configuration followed.
    import torch

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return eval, (f"__import__('pathlib').Path({str(folder / MARKER)!r}).write_text('ran')",)

    hf_model(folder / "m", "dual")
    torch.save({"w": torch.zeros(2), "x": Bomb()}, folder / "evil.pth")
    tower = {
        "model_type": "timm_wrapper",
        "architecture": "resnet10t",
        "model_args": {"checkpoint_path": str(folder / "evil.pth")},
    }
    edited(folder / "m" / C, lambda config: put(config, V, tower))
    return ["info", "--model", "m"]


def _remote(folder: Path) -> list[str]:
    model = hf_model(folder / "m")
    config = json.loads((model / C).read_text())
    evil(model, folder / MARKER)
    config["auto_map"] = {"AutoModel": "evil.M", "AutoConfig": "evil.C", "AutoTokenizer": ["evil.T", None]}
    (model / C).write_text(json.dumps(config))
    return ["evaluate", "--model", "m", *EVALUATE]


def _processor_code(folder: Path) -> list[str]:
    model = hf_model(folder / "m")
    evil_file = f"import pathlib; pathlib.Path({str(folder / MARKER)!r}).write_text('ran')\nclass P: pass\n"
    (model / "evil.py").write_text(evil_file)
    edited(
        model / "preprocessor_config.json",
        lambda c: c.update(auto_map={"AutoImageProcessor": "evil.P"}, image_processor_type="P"),
    )
    return ["evaluate", "--model", "m", *EVALUATE]


def _index(name: str, index: object, codes: tuple[int, ...] = (2,)) -> Entry:
    def make(folder: Path) -> list[str]:
        model = hf_model(folder / "m")
        (model / "model.safetensors").rename(model / "one.safetensors")
        text = index if isinstance(index, str) else json.dumps(index)
        (model / "model.safetensors.index.json").write_text(text)
        return ["info", "--model", "m"]

    return Entry(f"hf index {name}", make, codes)


def _bin_index(folder: Path) -> list[str]:
    import torch

    model = hf_model(folder / "m")
    (model / "model.safetensors").unlink()

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return eval, (f"__import__('pathlib').Path({str(folder / MARKER)!r}).write_text('ran')",)

    torch.save({"logit_scale": torch.zeros(()), "x": Bomb()}, model / "one.bin")
    (model / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"logit_scale": "one.bin"}}))
    return ["info", "--model", "m"]


ENTRIES = [
    *(_edit(name, place, value) for name, place, value in _SIZES),
    *(_edit(f"kind is {name}", "model_type", value) for name, value in _KINDS),
    *(_edit(name, place, value, kind="dual") for name, place, value in _DUAL),
    *(_edit(f"carries {name}", place, value, (0, 2)) for name, place, value in _EXTRAS),
    *(_picture_edit(name, place, value) for name, place, value in _PICTURES),
    *(
        _text(name, file, text)
        for file in (C, "preprocessor_config.json")
        for name, text in (
            ("deep", '{"a":' + DEEP),
            ("of a huge number", '{"a": ' + HUGE_NUMBER + "}"),
            ("cut", "{"),
            ("list", "[]"),
            ("of zeros", bytes(100)),
            ("of 100 MB", b"{" + b" " * (100 << 20) + b"}"),
        )
    ),
    Entry("hf remote code", _remote, (0, 2)),
    Entry("hf processor's code", _processor_code, (0, 2)),
    Entry("hf timm pickle", _timm),
    Entry("hf bin index with a pickle", _bin_index),
    _index("outside its folder", {"weight_map": {"logit_scale": "../canary"}}),
    _index("by absolute path", {"weight_map": {"logit_scale": "/etc/passwd"}}),
    _index("to a device", {"weight_map": {"logit_scale": "/dev/zero"}}),
    _index("to nothing", {"weight_map": {"logit_scale": "none.safetensors"}}),
    _index("of numbers", {"weight_map": {"logit_scale": 5}}),
    _index("in a list", {"weight_map": ["one.safetensors"]}),
    _index("empty", {"weight_map": {}}),
    _index("of a tensor that is not there", {"weight_map": {"evil": "one.safetensors"}}),
    _index("deep", '{"weight_map":' + DEEP),
]
