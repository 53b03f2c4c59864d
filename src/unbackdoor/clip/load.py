"""From a model reference to a `Clip`.

References: `embedded`; `ViT-B-32` and other OpenCLIP names with a checkpoint file; `random:ViT-B-32` (random weights);
`hf-hub:org/name` and `local-dir:PATH` (OpenCLIP's own schemes); a Hugging Face folder with `config.json`; an output
folder of `poison` or `unlearn`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from unbackdoor.clip.handle import Clip
from unbackdoor.devices import pick_device
from unbackdoor.errors import InputError

EMBEDDED = Path(__file__).parent.parent / "assets" / "embedded"


def load(reference: str, *, checkpoint: Path | None = None, device: str = "auto") -> Clip:
    """Open a model.

    Args:
        reference: see the module's first lines. Only `hf-hub:` touches the network.
        checkpoint: weights for an OpenCLIP architecture name: safetensors, or a torch file of plain tensors.
        device: auto, cpu, cuda, mps, …

    Raises:
        InputError: unknown reference, missing or corrupt files, weights that do not fit or are not finite.
    """
    where = pick_device(device)
    with _quiet():
        clip = _open(reference, checkpoint)
    for name, tensor in clip.state().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{reference}: tensor {name} holds NaN or infinite values; the checkpoint is damaged")
    clip.model.eval()
    return clip.to(where)


def _open(reference: str, checkpoint: Path | None) -> Clip:
    from unbackdoor.clip import huggingface, openclip

    if reference == "embedded":
        return openclip.from_folder(EMBEDDED, "embedded")
    if reference.startswith("local-dir:"):
        return openclip.from_folder(Path(reference.removeprefix("local-dir:")), reference)
    if reference.startswith("hf-hub:"):
        return openclip.from_hub(reference)
    if reference.startswith("random:"):
        return openclip.from_name(reference.removeprefix("random:"), reference, None)
    path = Path(reference)
    if path.is_dir():
        for folder in (path / "model", path):
            if (folder / "open_clip_config.json").is_file():
                return openclip.from_folder(folder, reference)
            if (folder / "config.json").is_file():
                return huggingface.from_folder(folder, reference)
        raise InputError(f"{reference}: the folder holds neither open_clip_config.json nor config.json")
    if checkpoint is None and (path.suffix or "/" in reference):
        raise InputError(
            f"{reference}: no such model folder; for a bare weight file name its architecture: "
            "--model ViT-B-32 --checkpoint FILE"
        )
    return openclip.from_name(reference, reference, checkpoint, needs_weights=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' warnings and progress bars off the terminal: a refusal must be one line."""
    import warnings

    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
