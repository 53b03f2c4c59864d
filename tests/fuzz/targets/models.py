"""Model folders: sound weights of tiny models beside a configuration that is changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from tests.clip.families import write_family
from tests.conftest import resnet_config, vit_config
from tests.fuzz.engine import Reader, Target, on_file
from tests.fuzz.mutate import mutate_json
from unbackdoor.clip.load import load

Json = dict[str, Any]
_SIDES = 512  # a sound model of one block takes larger pictures too, which costs time alone


def coca_config() -> Json:
    """A tiny CoCa, which has a class of its own and a third tower."""
    config = vit_config()
    config["model_cfg"].update(
        custom_text=True,
        multimodal_cfg={"width": 32, "context_length": 24, "heads": 2, "layers": 1},
    )
    config["model_cfg"]["text_cfg"].update(embed_cls=True, output_tokens=True)
    config["model_cfg"]["vision_cfg"].update(attentional_pool=True, attn_pooler_heads=2, output_tokens=True)
    return config


def timm_config() -> Json:
    """A tower of timm."""
    config = vit_config()
    config["model_cfg"]["vision_cfg"] = {
        "image_size": 32, "timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear",
    }  # fmt: skip
    return config


OPEN_CLIP: dict[str, Callable[[], Json]] = {
    "vit": vit_config, "resnet": resnet_config, "coca": coca_config, "timm": timm_config,
}  # fmt: skip


def _open(reference: str) -> str:
    """Open it, and ask it once."""
    clip = load(reference, device="cpu")
    if clip.image_size <= _SIDES:
        clip.encode_image(torch.zeros(1, 3, clip.image_size, clip.image_size))
    clip.encode_text(["a photo of a cat"])
    return f"{clip.image_size} {clip.interpolation} {clip.resize_mode}"


def _into(path: Path, reference: str) -> Reader:
    return on_file(path, lambda: _open(reference))


def _open_clip_folder(name: str, room: Path) -> Reader:
    from safetensors.torch import save_file

    from unbackdoor.clip.openclip import CONFIG, WEIGHTS, create

    config, folder = OPEN_CLIP[name](), room / "m"
    folder.mkdir()
    torch.manual_seed(0)
    state = create(config["model_cfg"], name).state_dict()
    # The library leaves some of CoCa's tensors as memory happens to be, and what is no number is refused.
    sound = {n: t.nan_to_num(0.0, 0.0, 0.0).clamp(-1, 1) if t.is_floating_point() else t for n, t in state.items()}
    save_file({n: t.contiguous().clone() for n, t in sound.items()}, folder / WEIGHTS)
    return _into(folder / CONFIG, f"local-dir:{folder}")


def _open_clip_seeds(name: str) -> list[bytes]:
    return [json.dumps(OPEN_CLIP[name]()).encode()]


def _family_folder(name: str, file: str, room: Path) -> Reader:
    write_family(name, room / "m")
    return _into(room / "m" / file, str(room / "m"))


@cache
def _files(name: str) -> dict[str, bytes]:
    """The small files that a family's folder holds."""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        write_family(name, Path(place))
        return {path.name: path.read_bytes() for path in Path(place).glob("*.json")}


def _family_seeds(name: str, file: str) -> list[bytes]:
    return [_files(name)[file]]


def _processors(name: str) -> list[bytes]:
    sound = json.loads(_files(name)["preprocessor_config.json"])
    others: list[Json] = [
        sound,
        {
            **sound,
            "size": 32,
            "crop_size": 32,
            "feature_extractor_type": "CLIPFeatureExtractor",
            "image_processor_type": None,
        },
        {**sound, "image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}},
        {
            **sound,
            "image_processor_type": "BitImageProcessor",
            "do_center_crop": False,
            "size": {"height": 32, "width": 32},
        },
        {**sound, "image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 32}, "crop_pct": 0.875},
        {"image_processor": sound},
    ]
    return [json.dumps(one).encode() for one in others]


def _bin_index(room: Path) -> Reader:
    """An index of `pytorch_model-….bin`, of which two lie there."""
    from safetensors.torch import load_file

    folder = room / "m"
    write_family("clip", folder)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for part, chosen in enumerate(_halves(state), 1):
        torch.save(chosen, folder / f"pytorch_model-0000{part}-of-00002.bin")
    return _into(folder / "pytorch_model.bin.index.json", str(folder))


def _halves(state: Json) -> tuple[Json, Json]:
    names = sorted(state)
    cut = len(names) // 2
    return {n: state[n] for n in names[:cut]}, {n: state[n] for n in names[cut:]}


def _bin_index_seeds() -> list[bytes]:
    from tests.clip.families import family_model

    halves = _halves(family_model("clip").state_dict())
    places = {n: f"pytorch_model-0000{part}-of-00002.bin" for part, half in enumerate(halves, 1) for n in half}
    return [json.dumps({"metadata": {"total_size": 1}, "weight_map": places}).encode()]


_FAMILIES = ("clip", "siglip", "chinese_clip", "dinov2", "swinv2", "roberta")
TARGETS = (
    *(
        Target(f"openclip-{n}", mutate_json, partial(_open_clip_seeds, n), partial(_open_clip_folder, n))
        for n in OPEN_CLIP
    ),
    *(
        Target(
            f"hf-{n}", mutate_json, partial(_family_seeds, n, "config.json"), partial(_family_folder, n, "config.json")
        )
        for n in _FAMILIES
    ),
    Target(
        "hf-preprocessor",
        mutate_json,
        partial(_processors, "clip"),
        partial(_family_folder, "clip", "preprocessor_config.json"),
    ),
    Target("hf-bin-index", mutate_json, _bin_index_seeds, _bin_index),
)
