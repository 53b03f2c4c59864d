"""What every trigger is: a frozen dataclass whose fields are its parameters, callable on a batch of images."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import ClassVar, Union

import torch
from torch import Tensor

from unbackdoor.base.draws import keyed_seed, seeded
from unbackdoor.base.errors import InputError

Value = Union[str, int, float, bool]
LONGEST_VALUE = 12  # characters of a value, in labels


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
    return re.sub(rf"(=[^,]{{{LONGEST_VALUE}}})[^,]+", r"\1…", spec)


def draw(seed: int, key: int, make: Callable[[torch.Generator], Tensor]) -> Tensor:
    """`make(generator)` with a CPU generator that depends on (seed, key) alone."""
    return make(seeded(keyed_seed(seed, key)))


def per_image(seed: int, keys: Tensor, make: Callable[[torch.Generator], Tensor]) -> Tensor:
    """Stack of one draw per key (B, ...); equal keys are drawn once."""
    unique, inverse = torch.unique(keys.cpu(), return_inverse=True)
    return torch.stack([draw(seed, int(k), make) for k in unique])[inverse]


@lru_cache(maxsize=64)
def fixed_noise(seed: int, height: int, width: int) -> Tensor:
    """U[0, 1] picture (3, H, W), the same for every image; callers must not write to it."""
    return draw(seed, 0, lambda g: torch.rand(3, height, width, generator=g))
