"""What every trigger is: a frozen dataclass whose fields are its parameters, callable on a batch of images."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import ClassVar, Union, get_type_hints

import torch
from torch import Tensor

from unbackdoor.errors import InputError

Value = Union[str, int, float, bool]
LONGEST_SHOWN = 12  # characters of a value, in labels
# What a spec may ask for, wherever it comes from. Whole numbers but a seed are pixels, points or waves.
_LARGEST, _LARGEST_SEED, _LARGEST_SHARE = 4096, 2**63, 1e6


@dataclass(frozen=True)
class Trigger:
    """Base of all triggers. Subclasses set `name`, declare fields with defaults and define `apply` or `apply_`.

    `apply_` suits triggers that change the pixels where they lie; either of the two makes the other.
    """

    name: ClassVar[str] = ""

    def __call__(self, images: Tensor, keys: Tensor | None = None) -> Tensor:
        """Triggered copies of `images`.

        Args:
            images: float (B, 3, H, W) in [0, 1], before any normalisation.
            keys: int64 (B,), one per image; triggers that are redrawn for every image draw from (seed, key), so
                the same key always gives the same draw. Without keys every image has key 0.

        Returns:
            float (B, 3, H, W) in [0, 1], same type and device.

        Raises:
            InputError: not a float batch of three-channel images, or the trigger does not fit into the image.
        """
        return self.apply(images, self._checked(images, keys))

    def in_place(self, images: Tensor, keys: Tensor | None = None) -> Tensor:
        """Put the trigger on `images` themselves and return them: `__call__` to the bit, with no second batch.

        Raises:
            InputError: as `__call__` does.
        """
        return self.apply_(images, self._checked(images, keys))

    def apply(self, images: Tensor, keys: Tensor) -> Tensor:
        """`__call__` on checked input."""
        return self.apply_(images.clone(), keys)

    def apply_(self, images: Tensor, keys: Tensor) -> Tensor:
        """`in_place` on checked input; returns `images`."""
        return images.copy_(self.apply(images, keys))

    def _checked(self, images: Tensor, keys: Tensor | None) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise InputError(
                f"trigger {self.name}: expected float images (B, 3, H, W), got {images.dtype} {tuple(images.shape)}"
            )
        return torch.zeros(len(images), dtype=torch.int64) if keys is None else keys

    def spec(self) -> str:
        """The short string that `parse_trigger` turns back into this trigger; every parameter is written out."""
        pairs = (f"{f.name}={_write(getattr(self, f.name))}" for f in fields(self))
        return f"{self.name}:{','.join(pairs)}"

    def label(self) -> str:
        """`spec()` for tables and pages: values of more than 12 characters are cut there and end in "…"."""
        return shorten(self.spec())

    def require(self, condition: bool, message: str) -> None:
        """Raise `InputError` naming the trigger unless `condition` holds."""
        if not condition:
            raise InputError(f"trigger {self.name}: {message}")


def _write(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def shorten(spec: str) -> str:
    """A spec, as a result holds it, with values of more than 12 characters cut there and ended by "…"."""
    return re.sub(rf"(=[^,]{{{LONGEST_SHOWN}}})[^,]+", r"\1…", spec)


def told(spec: str) -> str:
    """A spec for an error's line."""
    short = shorten(spec)
    return repr(short if len(short) <= 200 else short[:200] + "…")


def from_spec(spec: str) -> Trigger:
    """See `unbackdoor.triggers.parse_trigger`."""
    from unbackdoor.triggers import trigger_class

    name, _, rest = spec.partition(":")
    kind = trigger_class(name.strip())
    types = get_type_hints(kind)
    known = {f.name: types[f.name] for f in fields(kind)}
    values: dict[str, Value] = {}
    for pair in filter(None, (p.strip() for p in rest.split(","))):
        key, equals, text = pair.partition("=")
        if not equals or key not in known:
            raise InputError(f"trigger {told(spec)}: no parameter {key[:40]!r}; {name} takes {', '.join(known)}")
        values[key] = _read(spec, key, text, known[key])
    return kind(**values)


def _read(spec: str, key: str, text: str, kind: type) -> Value:
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        parsed: Value = kind(text)
    except (ValueError, KeyError):
        raise InputError(f"trigger {told(spec)}: {key}={text[:40]} is not a {kind.__name__}") from None
    if isinstance(parsed, int | float):
        largest = _LARGEST_SHARE if kind is float else _LARGEST_SEED if key == "seed" else _LARGEST
        if not abs(parsed) <= largest:  # nor is NaN
            raise InputError(f"trigger {told(spec)}: {key}={text[:40]} is no number from {-largest:g} to {largest:g}")
    return parsed


def draw(seed: int, key: int, make: Callable[[torch.Generator], Tensor]) -> Tensor:
    """`make(generator)` with a CPU generator that depends on (seed, key) alone."""
    # Two odd multipliers keep (seed, key) pairs apart; the generator takes 63 bits.
    mixed = (seed * 0x9E3779B97F4A7C15 + key * 0xD1342543DE82EF95 + 0x2545F4914F6CDD1D) % 2**63
    return make(torch.Generator().manual_seed(mixed))


def per_image(seed: int, keys: Tensor, make: Callable[[torch.Generator], Tensor]) -> Tensor:
    """Stack of one draw per key (B, ...); equal keys are drawn once."""
    unique, inverse = torch.unique(keys.cpu(), return_inverse=True)
    return torch.stack([draw(seed, int(k), make) for k in unique])[inverse]


@lru_cache(maxsize=64)
def fixed_noise(seed: int, height: int, width: int) -> Tensor:
    """U[0, 1] picture (3, H, W), the same for every image; callers must not write to it."""
    return draw(seed, 0, lambda g: torch.rand(3, height, width, generator=g))
