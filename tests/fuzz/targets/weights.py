"""Files of tensors: safetensors and their indices, what `torch.save` writes, vectors, differences, adapters."""

from __future__ import annotations

import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.fuzz.engine import Reader, Target
from tests.fuzz.mutate import mutate_json, mutate_pickle, mutate_safetensors, mutate_zip

_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool)


def _tensors() -> dict[str, torch.Tensor]:
    found = {f"visual.{i}.weight": torch.ones(2, 3).to(dtype) for i, dtype in enumerate(_TYPES)}
    return {**found, "empty": torch.ones(0, 4), "scale": torch.tensor(1.0)}


def _saved(tensors: dict[str, torch.Tensor], **notes: str) -> bytes:
    from safetensors.torch import save

    return save(tensors, metadata=notes or None)


def _safetensors_seeds() -> list[bytes]:
    wrapped = {f"_orig_mod.module.{name}": t for name, t in _tensors().items()}
    return [_saved(_tensors()), _saved(_tensors(), format="pt", kind="trigger vector"), _saved(wrapped), _saved({})]


def _safetensors(room: Path) -> Reader:
    """A header that is taken, the safetensors library takes too, with the same names, types and shapes."""
    from safetensors import safe_open

    from unbackdoor.weights.files import read_checkpoint, read_shapes
    from unbackdoor.weights.stored import read_header

    path = room / "m.safetensors"

    def read(data: bytes) -> str:
        path.write_bytes(data)
        shard = read_header(path)
        with safe_open(str(path), "np") as file:
            assert set(file.keys()) == {entry.name for entry in shard.entries}
            for entry in shard.entries:
                part = file.get_slice(entry.name)
                assert (part.get_dtype(), tuple(part.get_shape())) == (entry.dtype, entry.shape), entry
        shapes, state = read_shapes(path), read_checkpoint(path)
        assert shapes == {name: tuple(t.shape) for name, t in state.items()}
        return f"{min(len(state), 9)}"

    return read


def _index_seeds() -> list[bytes]:
    places = {"a": "one.safetensors", "b": "two.safetensors"}
    return [json.dumps({"metadata": {"total_size": 2}, "weight_map": places}).encode()]


def _index(room: Path) -> Reader:
    from unbackdoor.weights.stored import open_stored

    (room / "one.safetensors").write_bytes(_saved({"a": torch.ones(1)}))
    (room / "two.safetensors").write_bytes(_saved({"b": torch.ones(1)}))
    path = room / "m.safetensors.index.json"

    def read(data: bytes) -> str:
        path.write_bytes(data)
        found = open_stored(path)
        assert set(found.entries) <= {"a", "b"} and all(shard.path.parent == room for shard in found.shards)
        return str(len(found.shards))

    return read


def _checkpoints() -> list[Any]:
    from collections import OrderedDict

    state = _tensors()
    shared = torch.ones(4, 4)
    return [
        state,
        {
            "state_dict": OrderedDict(state),
            "epoch": 3,
            "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "lr": 0.1},
        },
        {"module": {f"module.{n}": torch.nn.Parameter(t) for n, t in state.items() if t.is_floating_point()}},
        {"model": {"a": shared, "b": shared.T, "c": shared[1:, 2]}, "ema": {"a": shared}},
    ]


def _torch_seeds(zipped: bool) -> list[bytes]:
    found = []
    for content in _checkpoints():
        out = io.BytesIO()
        torch.save(content, out, _use_new_zipfile_serialization=zipped)
        found.append(out.getvalue())
    return found


def _torch_file(room: Path) -> Reader:
    from unbackdoor.weights.files import read_checkpoint, read_shapes

    path = room / "m.pt"

    def read(data: bytes) -> str:
        path.write_bytes(data)
        shapes, state = read_shapes(path), read_checkpoint(path)
        assert shapes == {name: tuple(t.shape) for name, t in state.items()}
        for t in state.values():
            _ = t.double().sum() if t.numel() < 1 << 20 else None
        return f"{min(len(state), 9)}"

    return read


def _vector_seeds() -> list[bytes]:
    tensors = {"visual.a": torch.ones(2, 2), "visual.b": torch.ones(3).half()}
    return [_saved(tensors, kind="trigger vector", method="vector", model="embedded", alpha="1.0")]


def _vector(room: Path) -> Reader:
    from unbackdoor.weights.vector import check_fits, load_vector

    path = room / "v.safetensors"

    def read(data: bytes) -> str:
        path.write_bytes(data)
        vector, told = load_vector(path)
        check_fits({"visual.a": torch.ones(2, 2), "visual.b": torch.ones(3)}, vector)
        return f"{len(vector)} {len(told)}"

    return read


def _difference_seeds() -> list[bytes]:
    from unbackdoor.clip.difference import KIND

    facts = {"kind": KIND, "base": "embedded", "base_hash": "b" * 64, "hash": "c" * 64}
    return [_saved({"logit_scale": torch.tensor(0.5).half()}, **facts)]


def _difference(room: Path) -> Reader:
    from tests.conftest import vit_config, write_open_clip
    from unbackdoor.clip.difference import save_difference
    from unbackdoor.clip.load import load

    base = load(f"local-dir:{write_open_clip(room / 'base', vit_config())}", device="cpu")
    changed = base.clone()
    changed.state()["logit_scale"].add_(0.5)
    path = room / "d.safetensors"
    save_difference(base, changed, path)
    sound = path.read_bytes()
    size = int.from_bytes(sound[:8], "little")
    facts = json.loads(sound[8 : 8 + size])["__metadata__"]

    def read(data: bytes) -> str:
        # The sound hashes stand in the place of the seed's, so that what lies behind them is reached.
        text = data.replace(b"b" * 64, facts["base_hash"].encode()).replace(b"c" * 64, facts["hash"].encode())
        text = text.replace(b'"embedded"', json.dumps(facts["base"]).encode())
        header = int.from_bytes(data[:8], "little") + len(text) - len(data)
        path.write_bytes(header.to_bytes(8, "little", signed=False) + text[8:] if 0 <= header < 1 << 60 else data)
        return type(load(str(path), device="cpu")).__name__

    return read


_MODULE = "base_model.model.vision_model.encoder.layers.{}.self_attn.{}"


def _adapter_configs() -> list[bytes]:
    sound = {
        "peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"], "base_model_name_or_path": "m",
        "bias": "none", "fan_in_fan_out": False, "init_lora_weights": True, "lora_dropout": 0.0,
    }  # fmt: skip
    others = [
        {
            "rank_pattern": {r"^vision_model.*\.0\.self_attn\.(q|v)_proj": 2},
            "alpha_pattern": {"layers.0.self_attn.q_proj": 4},
        },
        {"use_rslora": True, "init_lora_weights": "pissa"},
        {"init_lora_weights": "olora", "modules_to_save": ["visual_projection"], "bias": "lora_only"},
        {"auto_mapping": {"base_model_class": "CLIPVisionModel", "parent_library": "transformers.models.clip"}},
    ]
    return [json.dumps({**sound, **more}).encode() for more in ({}, *others)]


def _adapter_tensors() -> list[bytes]:
    def pair(layer: int, module: str, rank: int = 2, width: int = 32) -> dict[str, torch.Tensor]:
        name = _MODULE.format(layer, module)
        return {f"{name}.lora_A.weight": torch.ones(rank, width), f"{name}.lora_B.weight": torch.ones(width, rank)}

    whole = {"base_model.model.visual_projection.weight": torch.ones(16, 32)}
    bias = {f"{_MODULE.format(0, 'q_proj')}.base_layer.bias": torch.ones(32)}
    convolution = {
        "base_model.model.vision_model.embeddings.patch_embedding.lora_A.weight": torch.ones(2, 3, 8, 8),
        "base_model.model.vision_model.embeddings.patch_embedding.lora_B.weight": torch.ones(32, 2, 1, 1),
        "base_model.model.text_model.embeddings.token_embedding.lora_embedding_A": torch.ones(2, 23),
        "base_model.model.text_model.embeddings.token_embedding.lora_embedding_B": torch.ones(32, 2),
    }
    tensors = (
        {},
        pair(0, "q_proj"),
        {**pair(0, "q_proj"), **pair(1, "v_proj", 4)},
        {**pair(1, "k_proj"), **whole, **bias},
        convolution,
    )
    return [_saved(one) for one in tensors]


def _adapter(file: str, room: Path) -> Reader:
    """An adapter on a tiny CLIP, one of its two files changed."""
    from tests.clip.families import write_family
    from unbackdoor.clip.load import load
    from unbackdoor.weights.adapters import read_adapter

    write_family("clip", room / "m")
    clip = load(str(room / "m"), device="cpu")
    names = clip.format.names
    both = clip.state() | {name: clip.state()[place] for name, place in names.aliases.items()}
    (room / "adapter_config.json").write_bytes(_adapter_configs()[0])
    (room / "adapter_model.safetensors").write_bytes(_adapter_tensors()[1])

    def read(data: bytes) -> str:
        (room / file).write_bytes(data)
        delta = read_adapter(room, both)
        assert all(delta[name].shape == both[name].shape for name in delta)
        names.translated(delta)
        return f"{min(len(delta), 9)}"

    return read


def _names_seeds() -> list[bytes]:
    names = ["visual.a", "visual.b", "text.c"]
    return [json.dumps(names).encode()] + [
        json.dumps([f"{prefix}{name}" for name in names]).encode()
        for prefix in ("module.", "_orig_mod.", "model.clip.", "student.")
    ]


def _names(room: Path) -> Reader:
    """Names of a checkpoint, against those of a model."""
    from unbackdoor.weights.names import bare, block_of, fitted

    own = {"visual.a", "visual.b", "text.c"}

    def read(data: bytes) -> str:
        try:
            names = json.loads(data)
        except (ValueError, RecursionError):
            names = []
        names = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
        for name in names:
            block_of(name), bare(name)
        found = fitted(dict.fromkeys(names, 0), own, "x")
        assert len(found) == len(set(names)), "names fell together"
        return str(len(own & set(found)))

    return read


TARGETS = (
    Target("safetensors", mutate_safetensors, _safetensors_seeds, _safetensors),
    Target("safetensors-index", mutate_json, _index_seeds, _index),
    Target("torch-zip", mutate_zip, partial(_torch_seeds, True), _torch_file),
    Target("torch-legacy", mutate_pickle, partial(_torch_seeds, False), _torch_file),
    Target("vector", mutate_safetensors, _vector_seeds, _vector),
    Target("difference", mutate_safetensors, _difference_seeds, _difference),
    Target("adapter-config", mutate_json, _adapter_configs, partial(_adapter, "adapter_config.json")),
    Target("adapter-tensors", mutate_safetensors, _adapter_tensors, partial(_adapter, "adapter_model.safetensors")),
    Target("names", mutate_json, _names_seeds, _names),
)
