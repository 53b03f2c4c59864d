"""What the names of tensors tell."""

from __future__ import annotations

import re

# OpenCLIP's and CLIP's resblocks, timm's blocks, Hugging Face's layers, torchvision-like layer1 … layer4.
_BLOCK = re.compile(r"^(.*?\.(?:resblocks|blocks|layers|layer\d+)\.\d+)\.")
_STAGE = re.compile(r"^(.*?\.stages\.\d+)\.")


def block_of(name: str) -> str:
    """Name of the block that a tensor belongs to; of one outside all blocks the name of its module."""
    found = _BLOCK.match(name) or _STAGE.match(name)
    return found.group(1) if found else name.rpartition(".")[0] or name


def bare(name: str) -> str:
    """A name without the prefixes that wrappers put before it (DataParallel's `module.`, training code's `model.`)."""
    while name.startswith(("module.", "model.")):
        name = name.partition(".")[2]
    return name
