"""Mixed: several triggers, each image gets one of them; what a scan hands to a cure, so that it covers more than one
recovered fragment of the true trigger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from torch import Tensor

from unbackdoor.triggers.base import Trigger
from unbackdoor.triggers.packing import EMPTY
from unbackdoor.triggers.spec import from_spec

_BETWEEN, _COMMA = "|", ";"
MOST = 64  # parts


@dataclass(frozen=True)
class Mixed(Trigger):
    """x' = t_i(x) with i = key mod number of parts; without keys every image gets the first part.

    Args:
        parts: specs of triggers, `|` between them and `;` for the commas inside them; no `mixed` among them. Empty
            until a scan recovers them.
    """

    name: ClassVar[str] = "mixed"
    parts: str = ""

    def __post_init__(self) -> None:
        if self.parts:
            _ = self.triggers

    @classmethod
    def of(cls, triggers: Sequence[Trigger]) -> Mixed:
        """The trigger that mixes these.

        Raises:
            InputError: none, a `mixed` among them, or a parameter that holds `|` or `;`.
        """
        specs = [t.spec() for t in triggers]
        blank = cls()
        blank.require(bool(specs), "takes at least one trigger")
        blank.require(not any(isinstance(t, Mixed) for t in triggers), "cannot hold another mixed trigger")
        for spec in specs:
            blank.require(_BETWEEN not in spec and _COMMA not in spec, f"{spec} holds {_BETWEEN} or {_COMMA}")
        return cls(parts=_BETWEEN.join(spec.replace(",", _COMMA) for spec in specs))

    @cached_property
    def triggers(self) -> tuple[Trigger, ...]:
        """The parts.

        Raises:
            InputError: there are none yet, or one is no trigger's spec.
        """
        self.require(bool(self.parts), EMPTY)
        specs = [part.replace(_COMMA, ",") for part in self.parts.split(_BETWEEN)]
        self.require(len(specs) <= MOST, f"holds {len(specs)} triggers; {MOST} are the most")
        # Before they are parsed, as each would parse what it holds.
        nested = any(spec.partition(":")[0].strip() == self.name for spec in specs)
        self.require(not nested, "cannot hold another mixed trigger")
        return tuple(from_spec(spec) for spec in specs)

    def apply(self, images: Tensor, keys: Tensor) -> Tensor:
        which = keys.cpu() % len(self.triggers)
        out = images.clone()
        for i in which.unique().tolist():
            rows = (which == i).nonzero().flatten()
            there = rows.to(images.device)
            out[there] = self.triggers[i](images[there], keys=keys.cpu()[rows])
        return out
