"""What the steps of the embedded model's recipe share: the decoded pictures and where things lie."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

SIDE = 64
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)  # CLIP's
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)


def load_pictures(path: Path, cache: Path) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Tiny ImageNet pictures as uint8 (N, 3, 64, 64), labels (N,) and class names; decoded once, kept as a memmap."""
    table = pq.read_table(path)
    names = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    labels = torch.tensor(table.column("label").to_pylist())
    stored = cache / f"{path.stem}.uint8.npy"
    if not stored.exists():
        pixels = np.empty((table.num_rows, 3, SIDE, SIDE), dtype=np.uint8)
        for i, row in enumerate(table.column("image").to_pylist()):
            picture = Image.open(io.BytesIO(row["bytes"])).convert("RGB")
            if picture.size != (SIDE, SIDE):
                picture = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            pixels[i] = np.asarray(picture).transpose(2, 0, 1)
        partial = stored.with_suffix(".partial.npy")
        np.save(partial, pixels)
        partial.rename(stored)
    return torch.from_numpy(np.load(stored, mmap_mode="c")), labels, names


HERE = Path(__file__).parent


def build_model() -> torch.nn.Module:
    """The embedded architecture with random weights, built by OpenCLIP from the committed configuration."""
    import open_clip

    config = json.loads((HERE / "open_clip_config.json").read_text())["model_cfg"]
    return open_clip.CustomTextCLIP(**config) if config.pop("custom_text", False) else open_clip.CLIP(**config)


def encode_text(model: Any, texts: list[str], bucket: int = 64) -> torch.Tensor:
    """The text tower's normalised output (N, D).

    OpenCLIP always runs all 32 places; here texts are sorted by length and each bucket is cut to its longest. The
    tower is causal and reads its answer at the end token, so the padding changes nothing.
    """
    import open_clip

    tokens = open_clip.SimpleTokenizer(context_length=32)(texts)
    ends = tokens.argmax(dim=1)
    order = ends.argsort()
    found = []
    for rows in order.split(bucket):
        length = int(ends[rows].max()) + 1
        x = model.token_embedding(tokens[rows, :length]) + model.positional_embedding[:length]
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
        found.append(x[torch.arange(len(rows)), ends[rows]] @ model.text_projection)
    return torch.nn.functional.normalize(torch.cat(found)[order.argsort()], dim=-1)
