"""Reading low-rank adapters in PEFT's file format, as differences of weights.

ΔW = scale · B·A for every module named (LoRA, Hu et al. 2021, arXiv 2106.09685); scale is lora_alpha/r,
or lora_alpha/√r where the adapter says use_rslora (Kalajdzievski 2023, arXiv 2312.03732). PiSSA (Meng et al. 2024,
arXiv 2404.02948) and OLoRA (Büyükakyüz 2024, arXiv 2406.01775) take out of the base what the factors hold at first. All
of it equals PEFT 0.21 (`tests/weights/test_adapters.py` compares); an adapter that could come out otherwise is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from unbackdoor.base.errors import InputError
from unbackdoor.base.untrusted import as_type, read_json
from unbackdoor.weights.files import read_checkpoint
from unbackdoor.weights.names import prefixes_cut
from unbackdoor.weights.patterns import Patterns
from unbackdoor.weights.vector import Vector

CONFIG, WEIGHTS, OLD = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
_WRAPPED = "base_layer"  # what PEFT calls the module within its own
_FUSED = "in_proj_weight"  # of nn.MultiheadAttention, which PEFT wraps whole
# Initialisations that leave the base as it is, and those that do not but can be done again.
_PLAIN_INITS = (True, False, "gaussian", "eva", "orthogonal", "mica")
_PISSA, _OLORA = "pissa", "olora"
# Settings that change no merged weight, or that are read below; any other that is set is refused.
_KNOWN = frozenset(
    (
        "peft_type", "r", "lora_alpha", "use_rslora", "fan_in_fan_out", "init_lora_weights", "rank_pattern",
        "alpha_pattern", "bias", "modules_to_save", "lora_bias", "base_model_name_or_path", "auto_mapping",
        "peft_version", "task_type", "revision", "inference_mode", "lora_dropout", "target_modules", "exclude_modules",
        "layers_to_transform", "layers_pattern", "megatron_core", "qalora_group_size", "runtime_config", "eva_config",
        "loftq_config", "corda_config", "lora_ga_config", "velora_config", "unsloth_fixed",
    )
)  # fmt: skip
# Classes of models by their names: towers of either kind, and models of both.
_VISION, _TEXT = re.compile(r"(?i)vis(ion|ual)|image|^vit"), re.compile(r"(?i)text|bert")
_WHOLE = re.compile(r"(?i)clip|siglip|coca|dualencoder")
_IMAGE_TOWER = re.compile(r"vis(ion|ual)|image")


@dataclass(frozen=True)
class Settings:
    """The part of an adapter's configuration that decides on the merged weights."""

    peft_type: str
    r: int = 8
    lora_alpha: float = 8
    use_rslora: bool = False
    fan_in_fan_out: bool = False
    init_lora_weights: bool | str = True
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    bias: Literal["none", "all", "lora_only"] = "none"
    modules_to_save: list[str] | None = None
    base_model_name_or_path: str | None = None
    auto_mapping: dict[str, Any] | None = None

    @property
    def model_class(self) -> str:
        """The class of the model that it was trained in; empty where it does not say."""
        named = (self.auto_mapping or {}).get("base_model_class")
        return named if isinstance(named, str) else ""


@dataclass
class _Module:
    """The factors of one module.

    Args:
        known_as: the name that patterns see.
        inner: whether it is the `out_proj` of an `nn.MultiheadAttention` that is wrapped whole.
    """

    known_as: str
    inner: bool
    parts: dict[str, Tensor] = field(default_factory=dict)

    def pair(self) -> tuple[Tensor, Tensor]:
        """A and B, those of an embedding turned round."""
        parts = self.parts
        if "A" in parts:
            return parts["A"], parts["B"]
        return parts["embedding_B"].T, parts["embedding_A"].T

    @property
    def shape(self) -> tuple[int, ...]:
        """Of ΔW."""
        a, b = self.pair()
        return (b.shape[0], *a.shape[1:])


@dataclass(frozen=True)
class _Contents:
    """What a file holds: factors by module, and tensors that were trained whole."""

    modules: dict[str, _Module]
    whole: dict[str, Tensor]


def read_config(folder: Path) -> Settings:
    """An adapter's configuration.

    Raises:
        InputError: not there, not readable, or of a kind that is more than ΔW = scale · B·A.
    """
    path = folder / CONFIG
    if not path.is_file():
        inner = sorted(p.parent.name for p in folder.glob(f"*/{CONFIG}"))[:4] if folder.is_dir() else []
        hint = f"; name one of the adapters in it ({', '.join(inner)})" if inner else "; give an adapter's folder"
        raise InputError(f"{path}: no adapter's configuration is there{hint}")
    config = read_json(path)
    kind = config.get("peft_type")
    if not isinstance(kind, str) or kind.upper() != "LORA":
        raise InputError(f"{path}: peft_type is not LORA; merge the adapter with its own library first")
    for key, value in config.items():
        if key not in _KNOWN and value:
            raise InputError(f"{path}: {key} is set; merge the adapter with its own library first")
    known = {key: value for key, value in config.items() if value is not None}  # PEFT writes null for its default
    settings = as_type(known, Settings, str(path))
    if settings.init_lora_weights not in (*_PLAIN_INITS, _PISSA, _OLORA):
        raise InputError(
            f"{path}: init_lora_weights is {settings.init_lora_weights!r}, which can have changed the base in a way "
            "that is not on record; let PEFT convert the adapter (path_initial_model_for_weight_conversion)"
        )
    return settings


def read_adapter(folder: Path, base: Mapping[str, Tensor]) -> Vector:
    """ΔW by the name of the weight it is added to, in float32; of what was trained whole, the difference to the base.

    Args:
        base: the weights that it is for, by name. Nothing larger than they are is computed.

    Raises:
        InputError: as `read_config`; tensors that are no part of a LoRA, or that do not fit the base.
    """
    settings = read_config(folder)
    path = folder / WEIGHTS if (folder / WEIGHTS).is_file() else folder / OLD
    contents = _sorted(path, read_checkpoint(path), settings)
    _check_saved(path, contents, settings, base)
    own = _placed(path, contents, settings, base)
    scale = _Scale(path, settings)
    out: Vector = {}
    for name, tensor in contents.whole.items():
        out[own(name)] = tensor.float() - _cpu(base[own(name)])
    for name, module in contents.modules.items():
        target = own(f"{name}.weight")
        factor = scale(name, module)
        delta = _delta(module, factor)
        if settings.fan_in_fan_out:
            delta = _turned(path, name, delta, tuple(base[target].shape))
        if settings.init_lora_weights in (_PISSA, _OLORA):
            start = _start_of(module, target, settings, factor, _cpu(base[target]))
            if start is None:
                raise InputError(f"{path}: {name} is of no kind that {settings.init_lora_weights} starts from")
            delta -= start
        out[target] = out[target] + delta if target in out else delta
        if "bias" in module.parts:
            if module.inner or target.endswith(_FUSED):
                raise InputError(f"{path}: {name} has a bias in fused attention; merge it with its own library first")
            target = own(f"{name}.bias")
            shift = factor * module.parts["bias"].float()
            out[target] = out[target] + shift if target in out else shift
    for name, delta in out.items():
        if not bool(torch.isfinite(delta).all()):
            raise InputError(f"{path}: {name} comes out with NaN or infinite values; the adapter is damaged")
    return out


def _sorted(path: Path, tensors: Mapping[str, Tensor], settings: Settings) -> _Contents:
    """Tensors by what they are."""
    contents, adapters = _Contents({}, {}), set[str]()
    for name, tensor in tensors.items():
        words = name.removeprefix(PREFIX).split(".")
        at = max((i for i, word in enumerate(words) if word.startswith("lora_")), default=None)
        if at is not None and words[at] == "lora_velora_embed":  # of use in training alone
            continue
        outer = [word for word in words[:at] if word != _WRAPPED]
        if at is None:
            if not _is_whole(outer, words, settings):
                raise _stranger(path, name)
            contents.whole[".".join(outer)] = tensor
            continue
        part, rest = words[at].removeprefix("lora_"), words[at + 1 :]
        kind = rest.pop() if part in ("A", "B") and rest else "weight"
        if part not in ("A", "B", "embedding_A", "embedding_B") or kind not in ("weight", "bias") or len(rest) > 1:
            raise _stranger(path, name)
        if kind == "bias":
            part = "bias" if part == "B" else part + "_bias"
        adapters.update(rest or [""])
        wrapped = _WRAPPED in words[:at]
        known_as = ".".join(words[: words.index(_WRAPPED)]) if wrapped else ".".join(outer)
        module = contents.modules.setdefault(".".join(outer), _Module(known_as, wrapped))
        if part in module.parts:
            raise InputError(f"{path}: {name} is there twice; fetch the adapter again")
        module.parts[part] = tensor
    if len(adapters) > 1:
        raise InputError(f"{path}: holds several adapters ({', '.join(sorted(adapters)[:4])}); save one by itself")
    for name, module in contents.modules.items():
        _check_pair(path, name, module)
    if not contents.modules and not contents.whole:
        raise InputError(f"{path}: holds no factors of a LoRA")
    return contents


def _stranger(path: Path, name: str) -> InputError:
    return InputError(f"{path}: {name} is no factor of a LoRA; merge the adapter with its own library first")


def _is_whole(outer: list[str], words: list[str], settings: Settings) -> bool:
    """Whether a tensor without factors is one that was trained whole, as the settings say."""
    if settings.bias != "none" and outer[-1] == "bias":
        return True
    if any(_within(".".join(outer), saved) for saved in settings.modules_to_save or ()):
        return True
    return words[-2:-1] == [_WRAPPED] and words[-1] == "weight"  # an embedding that PEFT saves beside its factors


def _check_saved(path: Path, contents: _Contents, settings: Settings, base: Mapping[str, Tensor]) -> None:
    """Of every module of the base that was trained whole, as the settings say, the file holds something."""
    for saved in settings.modules_to_save or ():
        if any(_within(name, saved) for name in base) and not any(_within(name, saved) for name in contents.whole):
            raise InputError(f"{path}: lacks {saved[:60]}, which modules_to_save names; fetch the adapter again")


def _within(name: str, saved: str) -> bool:
    """PEFT's rule: the tensor lies in a module whose name ends so."""
    words = name.split(".")
    return any(".".join(words[:i]).endswith(saved) for i in range(1, len(words)))


def _check_pair(path: Path, name: str, module: _Module) -> None:
    parts = set(module.parts)
    if parts not in ({"A", "B"}, {"A", "B", "bias"}, {"embedding_A", "embedding_B"}):
        raise InputError(f"{path}: {name} has one of two factors, or more than two; fetch the adapter again")
    if any(t.ndim < (1 if part == "bias" else 2) for part, t in module.parts.items()):
        raise InputError(f"{path}: {name} has a factor without rows and columns; fetch the adapter again")
    a, b = module.pair()
    kernel = any(size != 1 for size in b.shape[2:])
    if a.shape[0] != b.shape[1] or kernel or not a.numel() or not b.numel():
        raise InputError(f"{path}: {name} has factors {tuple(a.shape)} and {tuple(b.shape)}, which do not fit")
    if not all(t.is_floating_point() for t in module.parts.values()):
        raise InputError(f"{path}: {name} has factors that are no floating-point numbers; fetch the adapter again")
    if "bias" in parts and module.parts["bias"].shape != b.shape[:1]:
        raise InputError(f"{path}: {name} has a bias that does not fit its factor; fetch the adapter again")


class _Scale:
    """scale of a module: by what the patterns that match its name say, otherwise the default.

    PEFT takes the first that matches, but sorts them when it saves, so that of two that differ nobody knows which one
    was trained with.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self._path, self._settings = path, settings
        try:
            self._ranks = Patterns(settings.rank_pattern or {})
            self._alphas = Patterns(settings.alpha_pattern or {})
        except ValueError as error:
            raise InputError(
                f"{path.parent / CONFIG}: {error} is not followed in rank_pattern or alpha_pattern; write names of "
                "modules"
            ) from None

    def __call__(self, name: str, module: _Module) -> float:
        ranks = self._ranks.values(module.known_as) or {self._settings.r}
        alphas = self._alphas.values(module.known_as) or {self._settings.lora_alpha}
        rank, config = module.pair()[0].shape[0], self._path.parent / CONFIG
        if rank not in ranks:
            allowed = " or ".join(map(str, sorted(ranks)))
            raise InputError(
                f"{self._path}: {name} has factors of rank {rank}, and {config} says {allowed}; fetch it again"
            )
        if len(alphas) > 1:
            raise InputError(f"{config}: alpha_pattern says several things of {name}; merge the adapter with PEFT")
        return alphas.pop() / (math.sqrt(rank) if self._settings.use_rslora else rank)


def _placed(path: Path, contents: _Contents, settings: Settings, base: Mapping[str, Tensor]) -> Callable[[str], str]:
    """From the adapter's names to the base's: as they are, without wrappers' words, or with a tower's name before them.

    An adapter that was trained in a tower alone, or in a model that held ours, lacks a beginning or has one too many.
    Where more than one would fit, the class of the model that it was trained in decides.
    """
    shapes = {f"{name}.weight": module.shape for name, module in contents.modules.items()}
    shapes |= {
        f"{name}.bias": tuple(module.parts["bias"].shape)
        for name, module in contents.modules.items()
        if "bias" in module.parts
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in contents.whole.items()} | shapes
    fits: dict[tuple[int, ...], dict[str, str]] = {}
    for cut in prefixes_cut(list(shapes)):
        for prefix in _beginnings(next(iter(cut.values())), base):
            places = {old: _target(prefix + new, shapes[old], settings, base) for old, new in cut.items()}
            if all(places.values()):  # two names of one tensor are one place
                fits.setdefault(tuple(id(base[place]) for place in places.values()), places)
    if not fits:
        first = next((n for n, shape in shapes.items() if not _target(n, shape, settings, base)), next(iter(shapes)))
        raise InputError(f"{path}: {first}, {shapes[first]}, has no place in the base; it is for another architecture")
    return _chosen(path, list(fits.values()), settings.model_class).__getitem__


def _chosen(path: Path, fits: list[dict[str, str]], trained_in: str) -> dict[str, str]:
    """The one that is meant; the first are the adapter's own names."""
    vision, text = bool(_VISION.search(trained_in)), bool(_TEXT.search(trained_in))
    chosen = fits
    if vision != text:
        chosen = [places for places in fits if all(bool(_IMAGE_TOWER.match(p)) == vision for p in places.values())]
    elif len(fits) > 1 and (not trained_in or _WHOLE.search(trained_in)):
        chosen = [places for places in fits if all(_plain(old) == _plain(new) for old, new in places.items())]
    if len(chosen) != 1:
        firsts = ", ".join(next(iter(places.values())) for places in fits[:3])
        raise InputError(
            f"{path}: was trained in {trained_in or 'an unnamed class'} and would fit {firsts}, which does not tell "
            "what tower is meant; merge it with PEFT"
        )
    return chosen[0]


def _plain(name: str) -> str:
    return name.removesuffix("in_proj_weight").removesuffix("weight")


def _beginnings(name: str, base: Mapping[str, Tensor]) -> list[str]:
    """What can stand before a name so that the base has it; nothing first."""
    ends = tuple(f".{end}" for end in _ways(name))
    return ["", *dict.fromkeys(own[: -len(end) + 1] for own in base for end in ends if own.endswith(end))]


def _ways(name: str) -> list[str]:
    """A weight's own name, and that of the fused weight of a module which has no other."""
    return [name, f"{name.removesuffix('weight')}{_FUSED}"] if name.endswith(".weight") else [name]


def _target(name: str, shape: tuple[int, ...], settings: Settings, base: Mapping[str, Tensor]) -> str:
    """The base's tensor that a name stands for; empty where there is none of that shape."""
    shapes = {shape, shape[::-1]} if settings.fan_in_fan_out else {shape}
    return next((way for way in _ways(name) if way in base and tuple(base[way].shape) in shapes), "")


def _delta(module: _Module, scale: float) -> Tensor:
    a, b = module.pair()
    # PEFT adds what it learned for `out_proj` of a wrapped nn.MultiheadAttention twice, in training and on merging.
    delta = (2 if module.inner else 1) * scale * (b.float().flatten(1) @ a.float().flatten(1))
    return delta.reshape(module.shape)


def _turned(path: Path, name: str, delta: Tensor, shape: tuple[int, ...]) -> Tensor:
    """ΔW of a module that holds its weight transposed, as GPT-2's; PEFT sets the flag back for all others."""
    if delta.ndim == 2 and delta.shape[0] == delta.shape[1]:
        raise InputError(f"{path}: {name} may be transposed (fan_in_fan_out), which its square shape does not tell")
    return delta if tuple(delta.shape) == shape else delta.T.contiguous()


def _start_of(module: _Module, target: str, settings: Settings, scale: float, weight: Tensor) -> Tensor | None:
    """What the initialisation took out of the base; None where PEFT has none for this kind of module."""
    rank = module.pair()[0].shape[0]
    plain = "A" in module.parts and weight.ndim == 2 and not module.inner and not target.endswith(_FUSED)
    if not plain or settings.fan_in_fan_out or rank > min(weight.shape) or scale <= 0:
        return None
    start: Tensor
    if settings.init_lora_weights == _OLORA:
        q, r = torch.linalg.qr(weight)
        start = scale * (q[:, :rank] @ r[:rank])
    else:
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        start = (u[:, :rank] * s[:rank]) @ v[:rank]
    return start


def _cpu(weight: Tensor) -> Tensor:
    return weight.detach().to("cpu", torch.float32)
