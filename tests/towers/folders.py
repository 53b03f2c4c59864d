"""Model folders as their own library writes them: random weights, a tokenizer of a few dozen words, no network."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.clip.test_tokenizers import library_tokenizer
from unbackdoor.clip import text_towers
from unbackdoor.clip.convert import _write_tokenizer as _write_pairs
from unbackdoor.clip.library import guarded

Json = dict[str, Any]
OPEN_CLIP, HUGGING_FACE = "OpenCLIP", "transformers"
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
WORDS = 80  # ids of every tokenizer made here stay below


def scattered(model: nn.Module) -> nn.Module:
    """The model with noise on every weight: the libraries begin many with 0 or 1, which would hide a wrong name."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.nan_to_num_(0.0, 0.0, 0.0).clamp_(-4, 5)  # some of CoCa's are left as memory happens to be
            p.add_(torch.randn(p.shape, generator=generator), alpha=0.02)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(torch.randn(buffer.shape, generator=generator), alpha=0.02)
    return model.eval()


def write_tokenizer(kind: str, folder: Path) -> None:
    """Files of a tokenizer of that kind, as transformers saves them; `pairs` is OpenAI's, with all its tokens."""
    if kind == "pairs":
        _write_pairs(folder, 77, 49408)
        return
    library_tokenizer(kind).save_pretrained(str(folder))


@contextmanager
def known_text_tower(name: str, config: Json | None) -> Iterator[None]:
    """While entered, a shrunken text tower is one of those that are known by name."""
    if config is None:
        yield
        return
    text_towers._KNOWN[name] = config
    try:
        yield
    finally:
        del text_towers._KNOWN[name]


@contextmanager
def with_local_text_tower(folder: Path) -> Iterator[Path]:
    """The folder, or one like it in which `hf_model_name` is the path of that tower's configuration.

    OpenCLIP looks the name up on the hub, where these tests do not go; all other files are the folder's own.
    """
    config = json.loads((folder / CONFIG).read_text())
    name = config["model_cfg"]["text_cfg"].get("hf_model_name")
    if not name:
        yield folder
        return
    with tempfile.TemporaryDirectory() as place, text_towers.written(text_towers.text_config(name, "here")) as tower:
        config["model_cfg"]["text_cfg"]["hf_model_name"] = tower
        for file in folder.iterdir():
            (Path(place) / file.name).symlink_to(file.resolve())
        (Path(place) / CONFIG).unlink()
        (Path(place) / CONFIG).write_text(json.dumps(config))
        yield Path(place)


def write_open_clip(folder: Path, model_cfg: Mapping[str, Any], tokenizer: str = "") -> None:
    """A `local-dir:` folder of the model that OpenCLIP's own factory makes of a configuration.

    Args:
        tokenizer: kind of `library_tokenizer`; OpenAI's byte pairs, which OpenCLIP brings along, without one.
    """
    import open_clip
    from safetensors.torch import save_model

    folder.mkdir(parents=True)
    config = {
        "model_cfg": copy.deepcopy(dict(model_cfg)),
        "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.6, 0.7]},
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2))
    if tokenizer:
        write_tokenizer(tokenizer, folder)
        (folder / "config.json").write_text(json.dumps({"model_type": tokenizer}))
    torch.manual_seed(0)
    with with_local_text_tower(folder) as place, guarded():
        model = open_clip.create_model(f"local-dir:{place}", load_weights=False, pretrained_hf=False)
    save_model(scattered(model), str(folder / WEIGHTS))


def write_hugging_face(folder: Path, model: Any, tokenizer: str, processor: str, side: int) -> None:
    """A folder of `save_pretrained`, with a tokenizer and the image processor that goes with the tower.

    Args:
        tokenizer: kind of `library_tokenizer`, or `pairs`.
        processor: its class without `ImageProcessor`, such as `CLIP`.
        side: of the tower's pictures in pixels.
    """
    import transformers

    scattered(model).save_pretrained(folder)
    write_tokenizer(tokenizer, folder)
    square = {"height": side, "width": side}
    size: Json = {"shortest_edge": side} if processor in ("CLIP", "ChineseCLIP", "Bit", "ConvNext") else square
    # ConvNeXt's cuts the middle out of every picture, even one of the right size, unless it is told that it is all.
    more = {"crop_pct": 1.0} if processor == "ConvNext" else {"crop_size": square}
    made = getattr(transformers, f"{processor}ImageProcessor")(size=size, **more)
    made.save_pretrained(folder)
