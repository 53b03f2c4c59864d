"""`Clip`: one handle over OpenCLIP and Hugging Face dual encoders."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unbackdoor.base.errors import InputError
from unbackdoor.base.notebook import as_table, in_words
from unbackdoor.clip.preprocess import Frame, Preprocess
from unbackdoor.clip.renaming import Names
from unbackdoor.weights.files import state_hash

_TEXT_BATCH = 256


@dataclass(frozen=True)
class Format:
    """What differs between libraries: how to call the towers, name the image tower and write the files.

    Args:
        kind: `open_clip` or `hf`.
        image_prefixes: state names that belong to the image tower and its projection.
        image: (model, normalised images) → embeddings.
        text: (model, texts) → embeddings.
        save: (model state as stored, folder) → None.
        architecture: for people.
        names: of tensors in the file, where the module calls them otherwise.
    """

    kind: str
    image_prefixes: tuple[str, ...]
    image: Callable[[nn.Module, Tensor], Tensor]
    text: Callable[[nn.Module, Sequence[str]], Tensor]
    save: Callable[[dict[str, Tensor], Path], None]
    architecture: str
    names: Names = field(default_factory=Names)


@dataclass(repr=False)
class Clip:
    """A CLIP model: image and text encoders, own preprocessing, state and saving.

    Attributes:
        model: the library's module, computing in float32.
        reference: what the user named.
        preprocess: (B, 3, H, W) in [0, 1] → normalised input.
        stored_dtypes: type of every tensor in the file it came from; `save` writes the same types.
    """

    model: nn.Module
    reference: str
    preprocess: Preprocess
    format: Format
    stored_dtypes: dict[str, torch.dtype] = field(default_factory=dict)
    _heads: dict[tuple[Any, ...], Tensor] = field(default_factory=dict, repr=False)
    layout: torch.memory_format = field(default=torch.contiguous_format, repr=False)

    def __post_init__(self) -> None:
        # A transformer has one convolution, which cuts the patches. Towers made of them run a fifth to a quarter
        # faster with the channels last; names, shapes and values stay as they are.
        convolutions = [m for m in self.model.modules() if isinstance(m, nn.Conv2d)]
        if len(convolutions) > 1 and not any(_is_fatal(m) for m in convolutions):
            self.layout = torch.channels_last
            self.model.to(memory_format=torch.channels_last)

    def __repr__(self) -> str:
        return in_words("Clip", self._facts())

    def _repr_html_(self) -> str:
        return as_table("CLIP model", self._facts())

    def _facts(self) -> dict[str, Any]:
        millions = sum(p.numel() for p in self.model.parameters()) / 1e6
        return {
            "reference": self.reference,
            "architecture": self.format.architecture,
            "format": self.kind,
            "parameters": f"{millions:.1f} M",
            "image_size": self.image_size,
            "device": self.device,
        }

    @property
    def kind(self) -> str:
        """`open_clip` or `hf`."""
        return self.format.kind

    @property
    def image_size(self) -> int:
        """Side of the image tower's input in pixels."""
        return self.preprocess.size

    @property
    def frame(self) -> Frame:
        """How pictures become squares of that side; what `load_images` decodes to."""
        return self.preprocess.frame

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel, in [0, 1] units."""
        return self.preprocess.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Per channel, in [0, 1] units."""
        return self.preprocess.std

    @property
    def interpolation(self) -> str:
        """`bicubic`, `bilinear` or another of `preprocess.MODES`."""
        return self.preprocess.frame.mode

    @property
    def resize_mode(self) -> str:
        """`squash` (to a square), `shortest` (short side, then the centre) or another of `preprocess.FITS`."""
        return self.preprocess.frame.fit

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.model.parameters()).device

    @property
    def logit_scale(self) -> float:
        """Factor on cosines, exponentiated; 1 where the model has none."""
        scale = getattr(self.model, "logit_scale", None)
        return 1.0 if scale is None else float(scale.detach().float().exp().mean())

    @property
    def logit_bias(self) -> float:
        """Offset on scaled cosines (SigLIP), otherwise 0."""
        bias = getattr(self.model, "logit_bias", None)
        return 0.0 if bias is None else float(bias.detach().float().mean())

    def encode_image(self, images: Tensor, *, compute: torch.dtype | None = None) -> Tensor:
        """Unit float32 embeddings (B, D) of images (B, 3, H, W) in [0, 1]; differentiable in images and weights.

        Args:
            compute: type of the tower's products (autocast; the weights stay as they are), None for their own.
        """
        inputs = self.preprocess(images).contiguous(memory_format=self.layout)
        with torch.autocast(inputs.device.type, dtype=compute, enabled=compute is not None):
            rows = self.format.image(self.model, inputs)
        return F.normalize(rows.float(), dim=-1)

    def encode_text(self, texts: Sequence[str], *, grad: bool = False, compute: torch.dtype | None = None) -> Tensor:
        """Unit float32 embeddings (N, D) of N texts.

        Args:
            grad: keep the graph, for training the text tower; otherwise no gradient is computed.
            compute: type of the tower's products, as in `encode_image`.

        Raises:
            InputError: no texts, or no usable tokeniser beside the model.
        """
        if isinstance(texts, str):
            raise TypeError("encode_text takes a sequence of texts; one string would be read letter by letter")
        if not texts:
            raise InputError("no texts to encode")
        # Batches are padded to their longest text, so that texts of like length go together.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        parts = [[texts[i] for i in order[k : k + _TEXT_BATCH]] for k in range(0, len(texts), _TEXT_BATCH)]
        with (
            torch.set_grad_enabled(grad and torch.is_grad_enabled()),
            torch.autocast(self.device.type, dtype=compute, enabled=compute is not None),
        ):
            embeddings = [self.format.text(self.model, part) for part in parts]
            rows = torch.cat([F.normalize(part.float(), dim=-1) for part in embeddings])
            return rows[torch.tensor(order, device=rows.device).argsort()]

    def zero_shot_head(self, classes: Sequence[str], templates: Sequence[str] = ("a photo of a {}.",)) -> Tensor:
        """Unit rows (C, D): per class, the mean of its templates' embeddings. Cached while the text tower stands.

        Raises:
            InputError: no classes or no templates.
        """
        if not classes or not templates:
            raise InputError("a zero-shot head needs at least one class name and one template")
        text_tower = {n: t for n, t in self.state().items() if not self._is_image(n)}
        key = (tuple(classes), tuple(templates), state_hash(text_tower))
        if key not in self._heads:
            texts = [t.replace("{}", c) for c in classes for t in templates]
            rows = self.encode_text(texts).view(len(classes), len(templates), -1).mean(dim=1)
            self._heads[key] = F.normalize(rows, dim=-1)
        return self._heads[key]

    def image_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters of the image tower and its projection, named as in `state`; whole numbers are none."""
        return {n: p for n, p in self.model.named_parameters() if self._is_image(n) and p.is_floating_point()}

    def text_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters of the text tower and its projection, named as in `state`; logit scale and bias are neither."""
        return {n: p for n, p in self.model.named_parameters() if not self._is_image(n) and not _is_logit(n)}

    def tower_parameters(self, towers: str) -> dict[str, nn.Parameter]:
        """Parameters of `image` or `both` towers."""
        return {**self.image_parameters(), **(self.text_parameters() if towers == "both" else {})}

    def image_module(self) -> nn.ModuleList:
        """The image tower and its projection, for `train()` and `eval()`; the model's own modules, not copies."""
        heads = {prefix.removesuffix(".") for prefix in self.format.image_prefixes}
        return nn.ModuleList(m for n, m in self.model.named_children() if n in heads)

    def state(self) -> dict[str, Tensor]:
        """The live state dict: parameters and persistent buffers under the format's own names, not copies."""
        return dict(self.model.state_dict())

    def stored(self) -> dict[str, Tensor]:
        """The state dict in the types it is stored in, on the CPU.

        Raises:
            InputError: a weight is not finite, or too large for its type (float16 ends at 65504).
        """
        state = {n: t.detach().cpu().to(self.stored_dtypes.get(n, t.dtype)) for n, t in self.state().items()}
        for name, t in state.items():
            if t.is_floating_point() and not bool(torch.isfinite(t).all()):
                kind = str(t.dtype).removeprefix("torch.")
                raise InputError(f"tensor {name} holds values that are not finite in {kind}")
        return state

    @torch.no_grad()
    def round_as_stored(self) -> None:
        """Round the weights, in place, to the types that `save` writes, so that one measures the model that is saved.

        Raises:
            InputError: as `stored`.
        """
        rounded = self.stored()
        for name, t in self.state().items():
            t.copy_(rounded[name])

    def save(self, folder: Path) -> Path:
        """Write the model in the format it came in, with the stored types; the library loads it without our help.

        Each file is written atomically; weights come last. Returns `folder`.

        Raises:
            InputError: a weight is not finite, or too large for the type it is stored in (float16 ends at 65504).
        """
        folder = Path(folder)
        try:
            stored = self.stored()
        except InputError as error:
            raise InputError(f"{folder}: not saved: {error}") from None
        folder.mkdir(parents=True, exist_ok=True)
        self.format.save(stored, folder)
        return folder

    def to(self, device: str | torch.device) -> Clip:
        """Move the weights; returns the same handle."""
        self.model.to(device)
        self._heads.clear()
        return self

    def clone(self) -> Clip:
        """An independent copy of the weights behind a new handle."""
        return Clip(copy.deepcopy(self.model), self.reference, self.preprocess, self.format, dict(self.stored_dtypes))

    def info(self) -> dict[str, Any]:
        """Facts for people and manifests."""
        image = sum(p.numel() for p in self.image_parameters().values())
        total = sum(p.numel() for p in self.model.parameters())
        norms = sorted({type(m).__name__ for m in self.model.modules() if "Norm" in type(m).__name__})
        with torch.no_grad():
            width = self.encode_image(torch.zeros(1, 3, self.image_size, self.image_size, device=self.device)).shape[1]
        types = sorted({str(t).removeprefix("torch.") for t in self.stored_dtypes.values()}) or ["float32"]
        return {
            "kind": self.kind,
            "reference": self.reference,
            "architecture": self.format.architecture,
            "parameters": {"image": image, "text": total - image, "total": total},
            "image_size": self.image_size,
            "embed_dim": width,
            "dtype": str(next(self.model.parameters()).dtype).removeprefix("torch."),
            "stored_types": types,
            "logit_scale": self.logit_scale,
            "norm_layers": norms,
            "weights_hash": state_hash(self.state()),
        }

    def _is_image(self, name: str) -> bool:
        return name.startswith(self.format.image_prefixes)


def _is_fatal(conv: nn.Conv2d) -> bool:
    """Whether torch may write beside its memory when it differentiates this convolution with the channels last.

    Seen in torch 2.15 on CPUs, for a strided kernel of 1×1 over up to 4 channels: the skips of MobileCLIP's stem.
    """
    return max(conv.kernel_size) == 1 and max(conv.stride) > 1 and conv.groups == 1 and conv.in_channels < 8


def _is_logit(name: str) -> bool:
    return name.rpartition(".")[2] in ("logit_scale", "logit_bias")
