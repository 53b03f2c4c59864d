"""LoRA adapters, vectors and differences of strangers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.hostile.suite.made import DEEP, ESCAPES, HUGE_NUMBER, Json, hf_model, open_clip_model
from tests.hostile.suite.runner import Entry

MODULE = "vision_model.encoder.layers.0.self_attn.q_proj"
_NAME = f"base_model.model.{MODULE}"
_SOUND = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"], "base_model_name_or_path": "m"}


def adapter(
    folder: Path, config: Json | str, shapes: dict[str, tuple[int, ...]] | None = None, value: float = 0.01
) -> Path:
    """A Hugging Face model in `m` and an adapter beside it."""
    import torch
    from safetensors.torch import save_file

    hf_model(folder / "m")
    own = folder / "adapter"
    own.mkdir()
    (own / "adapter_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    shapes = shapes or {f"{_NAME}.lora_A.weight": (2, 32), f"{_NAME}.lora_B.weight": (32, 2)}
    save_file({name: torch.full(shape, value) for name, shape in shapes.items()}, own / "adapter_model.safetensors")
    return own


def _config(name: str, codes: tuple[int, ...] = (2,), **more: Any) -> Entry:
    def make(folder: Path) -> list[str]:
        adapter(folder, {**_SOUND, **more})
        return ["info", "--model", "adapter:adapter@m"]

    return Entry(f"adapter {name}", make, codes)


def _text(name: str, text: str) -> Entry:
    def make(folder: Path) -> list[str]:
        adapter(folder, text)
        return ["info", "--model", "adapter:adapter@m"]

    return Entry(f"adapter config {name}", make)


def _shapes(name: str, shapes: dict[str, tuple[int, ...]], **more: Any) -> Entry:
    def make(folder: Path) -> list[str]:
        adapter(folder, {**_SOUND, **more}, shapes)
        return ["info", "--model", "adapter:adapter@m"]

    return Entry(f"adapter of {name}", make)


def _base(name: str, base: object) -> Entry:
    def make(folder: Path) -> list[str]:
        adapter(folder, {**_SOUND, "base_model_name_or_path": base})
        return ["info", "--model", "adapter:adapter"]

    return Entry(f"adapter on {name}", make)


A, B = f"{_NAME}.lora_A.weight", f"{_NAME}.lora_B.weight"


def _vector(name: str, tensors: dict[str, tuple[int, ...]], value: float = 0.0, codes: tuple[int, ...] = (2,)) -> Entry:
    def make(folder: Path) -> list[str]:
        import torch
        from safetensors.torch import save_file

        open_clip_model(folder / "m")
        save_file({n: torch.full(shape, value) for n, shape in tensors.items()}, folder / "v.safetensors")
        return [
            "unlearn", "--model", "m", "--data", "embedded:digits", "--test-limit", "8", "--vector", "v.safetensors",
            "--trigger", "badnets:size=4", "--target", "three", "--alpha", "1", "--out", "out",
        ]  # fmt: skip

    return Entry(f"vector {name}", make, codes)


def _difference(name: str, facts: Json, codes: tuple[int, ...] = (2,)) -> Entry:
    def make(folder: Path) -> list[str]:
        import torch
        from safetensors.torch import save_file

        save_file({"logit_scale": torch.zeros(())}, folder / "d.safetensors", metadata=facts)
        return ["info", "--model", "d.safetensors"]

    return Entry(f"difference {name}", make, codes)


def _kind(**more: str) -> Json:
    return {"kind": "unbackdoor-difference", "base": "embedded", "base_hash": "0", "hash": "0", **more}


def _itself(folder: Path) -> list[str]:
    import torch
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(1)}, folder / "d.safetensors", metadata=_kind(base=str(folder / "d.safetensors")))
    return ["info", "--model", "d.safetensors"]


ENTRIES = [
    _config("with a regex of rank", (0, 2), rank_pattern={"(a|a|.*)*q_projx": 4}),
    _config("with a nested regex", (0, 2), rank_pattern={"^(([a-z_.0-9])+.)+[A-Z]([a-z])+$": 4}),
    _config("with a broken regex", (0, 2), alpha_pattern={"(": 4}),
    _config("with a regex of alpha", (0, 2), alpha_pattern={"((.*)*)*x": 4}),
    _config("with patterns in a list", (0, 2), rank_pattern=["q_proj"]),
    _config("of rank nought", r=0),
    _config("of rank in words", r="two"),
    _config("of a rank below nought", r=-2),
    _config("of a rank of a billion", (0, 2), r=10**9),
    _config("of a huge alpha", lora_alpha=10**39),
    _config("of alpha in words", lora_alpha="much"),
    _config("of an initialisation that changes the base", (0, 2), init_lora_weights="pissa"),
    _config("of an initialisation with steps", init_lora_weights="pissa_niter_16"),
    _config("of OLoRA", (0, 2), init_lora_weights="olora"),
    _config("of CorDA", init_lora_weights="corda"),
    _config("of EVA", (0, 2), init_lora_weights="eva"),
    _config("of LoftQ", init_lora_weights="loftq", loftq_config={"loftq_bits": 4}),
    _config("of an unknown initialisation", init_lora_weights="evil"),
    _config("of DoRA", use_dora=True),
    _config("of another kind", peft_type="IA3"),
    _config("of a kind of a number", peft_type=5),
    _config("with modules to save", (0, 2), modules_to_save=["visual_projection"]),
    _config("with biases", (0, 2), bias="all"),
    _config("with layers made twice", layer_replication=[[0, 2], [0, 2]]),
    _config("with Megatron", megatron_config={"a": 1}, megatron_core="os"),
    _config("with an unknown key", (0, 2), evil=True),
    _config("with auto mapping", (0, 2), auto_mapping={"base_model_class": "evil", "parent_library": "os"}),
    _text("deep", '{"peft_type":' + DEEP),
    _text("of a huge number", '{"r": ' + HUGE_NUMBER + "}"),
    _text("cut", "{"),
    _text("list", "[]"),
    _shapes("60,000 by 60,000", {A: (1, 60_000), B: (60_000, 1)}, r=1),
    _shapes(
        "many of 60,000",
        {
            f"base_model.model.x{i}.lora_{f}.weight": ((1, 60_000) if f == "A" else (60_000, 1))
            for i in range(40)
            for f in "AB"
        },
        r=1,
    ),
    _shapes("one factor", {A: (2, 32)}),
    _shapes("factors that do not fit", {A: (2, 32), B: (32, 3)}),
    _shapes("another shape than its base", {A: (2, 16), B: (32, 2)}),
    _shapes("three dimensions", {A: (2, 32, 1), B: (32, 2, 1)}),
    _shapes("no dimension", {A: (), B: ()}),
    _shapes("no factors", {"evil": (2, 2)}),
    _shapes("a module that is not there", {A.replace("q_proj", "evil"): (2, 32), B.replace("q_proj", "evil"): (32, 2)}),
    _shapes(
        "a name with escapes", {f"{_NAME}{ESCAPES}.lora_A.weight": (2, 32), f"{_NAME}{ESCAPES}.lora_B.weight": (32, 2)}
    ),
    _base("a hub", "hf-hub:evil-org/evil"),
    _base("a hub without scheme", "evil-org/evil"),
    _base("a tag", "ViT-B-32:openai"),
    _base("itself", "adapter:adapter"),
    _base("nothing", None),
    _base("a number", 5),
    _base("a device", "/dev/zero"),
    _base("a name with escapes", ESCAPES),
    _vector("of no tensors that fit", {"evil": (2,)}),
    _vector("of another shape", {"visual.class_embedding": (3,)}),
    _vector("of not a number", {"visual.class_embedding": (64,)}, float("nan")),
    _vector("of infinity", {"visual.class_embedding": (64,)}, float("inf")),
    # What is left is a model, if a useless one, and its rates are right.
    _vector("too large", {"visual.class_embedding": (64,)}, 3e38, (0, 2)),
    _difference("on a hub", _kind(base="hf-hub:evil-org/evil")),
    _difference("on a tag", _kind(base="ViT-B-32:openai")),
    _difference("on a hub without scheme", _kind(base="evil-org/evil")),
    _difference("on a device", _kind(base="/dev/zero")),
    _difference("on an adapter", _kind(base="adapter:x@hf-hub:evil-org/evil")),
    _difference("on escapes", _kind(base=ESCAPES)),
    _difference("of another base", _kind()),
    _difference("of no base", {"kind": "unbackdoor-difference"}),
    _difference("of another kind", {"kind": "evil"}),
    Entry("difference on itself", _itself),
]
