"""Lists of what a stranger's configuration may say, key by key, checked before any library sees it.

A table names every key that is allowed and, for each, a `Rule` for its value. A key that is not in the table is refused
by name: it might be one that the library obeys, such as a path to open or code to trust. `Sizes` holds the
sizes of the weights; a configuration may ask for no more, so that nothing is built that no weights fill.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unbackdoor.base.errors import InputError

_LONGEST_SIDE = 768  # pixels; the largest input of a published dual encoder has 560, and work grows with the square
MOST_LAYERS = 512  # of one tower


@dataclass(frozen=True)
class Rule:
    """What a value may be.

    Args:
        kind: in words, after "must be".
        fits: whether a value is that.
        keys: of an object, what its keys may be.
        bound: `dimension` where the value is a dimension of some tensor, `layers` where every unit of it has tensors
            of its own; empty where the weights say nothing about it.
    """

    kind: str
    fits: Callable[[Any], bool]
    keys: Mapping[str, Rule] | None = None
    bound: str = ""


@dataclass(frozen=True)
class Sizes:
    """What the weights hold.

    Args:
        tensors: how many there are.
        dimension: the largest side of any of them.
        elements: the most numbers that one of them has.
    """

    tensors: int
    dimension: int
    elements: int

    @classmethod
    def of(cls, shapes: Mapping[str, Sequence[int]]) -> Sizes:
        """From names and shapes."""
        sides = [side for shape in shapes.values() for side in shape]
        return cls(len(shapes), max(sides, default=0), max(map(math.prod, shapes.values()), default=0))


def whole(low: int, high: int) -> Rule:
    """A whole number of a range, ends included."""
    return Rule(f"a whole number from {low} to {high}", lambda v: _is_whole(v) and low <= v <= high)


def side(high: int = _LONGEST_SIDE) -> Rule:
    """A number of pixels, or height and width."""
    return either(whole(1, high), several(whole(1, high), 2, 2))


def dimension(high: int = 1 << 24) -> Rule:
    """A whole number that is the side of a tensor."""
    return replace(whole(1, high), bound="dimension")


def layers(low: int = 1) -> Rule:
    """How many layers a tower has."""
    return replace(whole(low, MOST_LAYERS), bound="layers")


def real(low: float, high: float) -> Rule:
    """A number of a range, ends included."""
    return Rule(f"a number from {low:g} to {high:g}", lambda v: _is_real(v) and low <= v <= high)


def flag() -> Rule:
    """True or false."""
    return Rule("true or false", lambda v: isinstance(v, bool))


def words(*choices: str) -> Rule:
    """One of some words."""
    return Rule(f"one of {', '.join(c or '(nothing)' for c in choices)}", lambda v: isinstance(v, str) and v in choices)


def text(pattern: str, kind: str) -> Rule:
    """A text that a regular expression matches whole."""
    compiled = re.compile(pattern)
    return Rule(kind, lambda v: isinstance(v, str) and compiled.fullmatch(v) is not None)


def anything(longest: int = 200) -> Rule:
    """A short text or a number that no library reads."""

    def fits(value: Any) -> bool:
        if isinstance(value, str):
            return len(value) <= longest
        return value is None or isinstance(value, bool | int | float)

    return Rule("a short text or a number", fits)


def several(rule: Rule, least: int, most: int) -> Rule:
    """A list of values of one rule."""
    count = str(least) if least == most else f"{least} to {most}"
    return Rule(
        f"a list of {count}, each {rule.kind}",
        lambda v: isinstance(v, list | tuple) and least <= len(v) <= most and all(rule.fits(item) for item in v),
        bound=rule.bound,
    )


def either(*rules: Rule) -> Rule:
    """A value of any of some rules."""
    keys = next((rule.keys for rule in rules if rule.keys is not None), None)
    bound = next((rule.bound for rule in rules if rule.bound), "")
    return Rule(" or ".join(rule.kind for rule in rules), lambda v: any(rule.fits(v) for rule in rules), keys, bound)


def maybe(rule: Rule) -> Rule:
    """A value of a rule, or null."""
    return replace(rule, kind=f"{rule.kind}, or null", fits=lambda v: v is None or rule.fits(v))


def table(keys: Mapping[str, Rule]) -> Rule:
    """An object with some of these keys."""
    return Rule("an object", lambda v: isinstance(v, dict), keys)


def check_keys(config: Any, keys: Mapping[str, Rule], what: str, sizes: Sizes | None = None) -> None:
    """Whether a configuration says only what it may.

    Args:
        config: as read from JSON.
        keys: every key that is allowed.
        what: where the configuration stands, for the error.
        sizes: what the weights hold, where that is known; nothing may be larger.

    Raises:
        InputError: a key that is not allowed, a value that does not fit, or a size beyond the weights; names it.
    """
    if not isinstance(config, dict):
        raise InputError(f"{what}: holds no object of settings")
    _check(config, keys, what, "", sizes)


def _check(config: dict[str, Any], keys: Mapping[str, Rule], what: str, inside: str, sizes: Sizes | None) -> None:
    for key, value in config.items():
        rule, path = keys.get(key), f"{inside}{key}"
        if rule is None:
            near = difflib.get_close_matches(key[:100], keys, n=1)
            hint = f"did you mean {near[0]}?" if near else "nothing that is not known is handed on, so take it out"
            raise InputError(f"{what}: {_short(path)} is no setting that is allowed; {hint}")
        if not rule.fits(value):
            raise InputError(f"{what}: {path} must be {rule.kind}, not {_short(value)}")
        if rule.keys is not None and isinstance(value, dict):
            _check(value, rule.keys, what, f"{path}.", sizes)
        elif sizes is not None and rule.bound:
            _check_bound(rule.bound, value, f"{what}: {path}", sizes)


def _check_bound(bound: str, value: Any, what: str, sizes: Sizes) -> None:
    numbers = [v for v in (value if isinstance(value, list | tuple) else [value]) if _is_whole(v)]
    if bound == "layers" and sum(numbers) > sizes.tensors:
        raise InputError(f"{what} asks for {sum(numbers)} layers, but the weights hold {sizes.tensors} tensors in all")
    if bound == "dimension" and max(numbers, default=0) > sizes.dimension:
        raise InputError(f"{what} asks for {max(numbers)}, but no side of any stored tensor exceeds {sizes.dimension}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, str) or not value.isprintable() else repr(value[:100])
    return text if len(text) <= 80 else text[:77] + "…"
