"""Sound files to spoil: small models in both libraries' forms, pictures, tables, shards."""

from __future__ import annotations

import copy
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Json = dict[str, Any]
Edit = Callable[[Json], object]
DEEP = "[" * 100_000
HUGE_NUMBER = "9" * 400
# Text that draws on a terminal, turns the direction of writing and breaks lines.
ESCAPES = "\x1b]0;pwned\x07\x1b[31m\u202eevil\r\nsecond line"


def open_clip_model(folder: Path, edit: Edit | None = None, *, text: str | bytes | None = None) -> Path:
    """A tiny OpenCLIP folder with sound weights; its configuration edited, or another text in its place."""
    from tests.conftest import vit_config, write_open_clip

    write_open_clip(folder, vit_config())
    config = folder / "open_clip_config.json"
    if edit is not None:
        value = json.loads(config.read_text())
        edit(value)
        config.write_text(json.dumps(value))
    if text is not None:
        config.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 32},
    "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 3,
}


def hf_model(folder: Path, kind: str = "clip") -> Path:
    """A tiny Hugging Face folder as the library writes it: `clip`, or `dual`, a dual encoder of ViT and BERT."""
    import torch
    import transformers as hf

    torch.manual_seed(0)
    model: Any
    if kind == "clip":
        text = {
            **SMALL,
            "vocab_size": 49408,
            "max_position_embeddings": 77,
            "bos_token_id": 49406,
            "eos_token_id": 49407,
        }
        vision = {**SMALL, "image_size": 32, "patch_size": 8}
        model = hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    else:
        vision_config = hf.ViTConfig(image_size=32, patch_size=8, **SMALL)
        config = hf.VisionTextDualEncoderConfig.from_vision_text_configs(
            vision_config, hf.BertConfig(vocab_size=12, **SMALL), projection_dim=16
        )
        model = hf.VisionTextDualEncoderModel(config)
    model.save_pretrained(folder)
    if kind == "dual":
        write_words(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


def write_words(folder: Path) -> None:
    """A BERT tokeniser of a dozen words."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", ".", "zero", "one", "two"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')


def edited(path: Path, edit: Edit) -> None:
    """Change a JSON file."""
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def put(value: Json, place: str, new: object) -> None:
    """Set `a.b.c` in nested objects, making those that are missing."""
    *path, last = place.split(".")
    for key in path:
        value = value.setdefault(key, {})
    value[last] = copy.deepcopy(new)


def picture(side: int = 16, form: str = "PNG") -> bytes:
    """A grey square."""
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (side, side), (90, 90, 90)).save(out, form)
    return out.getvalue()


def member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add bytes to a tar."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def safetensors(path: Path, header: object, body: bytes = b"", *, length: int | None = None) -> Path:
    """A safetensors file with any header at all."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + body)
    return path


def tensor(shape: list[int] | object, start: int, stop: int, dtype: object = "F32") -> Json:
    """A header's entry."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


EVALUATE = ["--data", "embedded:digits", "--limit", "4"]
