"""What a verb returns: a typed value that is its own JSON and is read back from it, checked, in one place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from unbackdoor.base.errors import InputError, first_line
from unbackdoor.base.notebook import as_table, in_words
from unbackdoor.base.untrusted import as_type, parse_json, read_json

if TYPE_CHECKING:  # results are read without torch
    from unbackdoor.metrics.backdoor import BackdoorRates
    from unbackdoor.metrics.rates import Rate

R = TypeVar("R", bound="Result")


def optional(*, null: bool = False) -> Any:
    """A field whose key is left out where it is None; with `null`, where the value's own `absent` names it."""
    return field(default=None, metadata={"optional": True, "null": null})


def spread() -> Any:
    """A field whose own keys stand in the JSON in place of its name; when read, it holds those of no other field."""
    return field(default_factory=dict, metadata={"spread": True})


@dataclass(frozen=True, eq=False, kw_only=True)
class Result(Mapping[str, Any]):
    """A result. Its fields are the keys of its JSON, in their order.

    It is a read-only mapping of that JSON as well: `result["after"]["asr"]` is `result.after.asr`, `dict(result)` is
    what `json.dumps` takes, and it equals a dict that holds the same.
    """

    file: ClassVar[str] = "result.json"  # as a verb leaves it in its folder

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        cls.__repr__ = Result.__repr__  # type: ignore[method-assign]  # a dataclass makes its own where there is none

    def __repr__(self) -> str:
        facts = {name: value for name, value in self.as_dict().items() if not isinstance(value, dict | list)}
        return in_words(type(self).__name__, {name: value for name, value in facts.items() if value is not None})

    def _repr_html_(self) -> str:
        return as_table(type(self).__name__, numbers(self.as_dict(), texts=True))

    def as_dict(self) -> dict[str, Any]:
        """JSON form, made of new dicts, lists and plain values."""
        form: dict[str, Any] = plain(self)
        return form

    def measured(self) -> dict[str, Any]:
        """Its numbers by dotted key, as trackers take them."""
        return numbers(self.as_dict())

    @classmethod
    def read(cls: type[R], source: str | Path | Mapping[str, Any], where: str = "the result") -> R:
        """The result of a file, of a folder that holds it, or of what was read from one.

        Args:
            where: names a mapping in the error.

        Raises:
            InputError: unreadable, or a field is missing, of another type or not sound; the line names it.
        """
        if isinstance(source, Mapping):
            raw = as_json(source, where)
        else:
            path = Path(source)
            path = path / cls.file if path.is_dir() else path
            raw, where = read_json(path), str(path)
        result = as_type(cls.fitted(raw), cls, where)
        try:
            result.check()
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        return result

    def check(self) -> None:
        """Refuse what no verb of ours returns, though its types are right: what was read may be a stranger's.

        Raises:
            InputError: it is.
        """

    @classmethod
    def fitted(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """The JSON with one key for every field: what nobody knows goes where there is a field for it."""
        further = next((f.name for f in fields(cls) if "spread" in f.metadata), None)
        if further is None:
            return raw
        names = {f.name for f in fields(cls)} - {further}
        known = {key: value for key, value in raw.items() if key in names}
        return {**known, further: {key: value for key, value in raw.items() if key not in names}}

    def __getitem__(self, key: str) -> Any:
        return self.as_dict()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.as_dict())

    def __len__(self) -> int:
        return len(self.as_dict())


def plain(value: Any) -> Any:
    """The JSON form of a value of dataclasses, mappings, sequences and plain values."""
    if is_dataclass(value) and not isinstance(value, type):
        form: dict[str, Any] = {}
        absent = getattr(value, "absent", ())
        for f in fields(value):
            inner = getattr(value, f.name)
            if "spread" in f.metadata:
                form |= plain(inner)
            elif f.name not in absent and (inner is not None or f.metadata.get("null", "optional" not in f.metadata)):
                form[key_of(f.name)] = plain(inner)
        return form
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


def numbers(form: Mapping[str, Any], *, texts: bool = False) -> dict[str, Any]:
    """The numbers of a result by dotted key; a rate with n and interval is one of them, a list is left out.

    Args:
        texts: texts and truth values, too, and a rate in words: `97.3% [96.4, 98.0] n=1440`.
    """
    flat: dict[str, Any] = {}
    for key, value in form.items():
        if isinstance(value, Mapping):
            if {"value", "n", "interval"} <= value.keys():
                flat[key] = _rate_in_words(value) if texts else value["value"]
            else:
                flat |= {f"{key}.{name}": inner for name, inner in numbers(value, texts=texts).items()}
        elif isinstance(value, int | float | str) and (texts or not isinstance(value, str | bool)):
            flat[key] = value
    return {key: value for key, value in flat.items() if value is not None}


def _rate_in_words(share: Mapping[str, Any]) -> str:
    if share["value"] is None:
        return "nothing to count"
    low, high = share["interval"]
    return f"{share['value']:.1%} [{low * 100:.1f}, {high * 100:.1f}] n={share['n']}"


def key_of(name: str) -> str:
    """The key of a field; a word of Python's own, such as `from`, has a `_` behind it as a field."""
    return name.removesuffix("_")


def as_json(value: Mapping[str, Any], where: str, verb: str = "the verb") -> dict[str, Any]:
    """A mapping as its JSON would be read.

    Args:
        where, verb: what it is and who returned it, for the error.

    Raises:
        InputError: it holds what JSON does not.
    """
    try:
        text = json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: not what {verb} returned ({first_line(error)})") from None
    form: dict[str, Any] = parse_json(text, where)
    return form


@dataclass(frozen=True)
class Share:
    """A share of n, with its 95% Wilson interval.

    Args:
        value: None where nothing could be counted.
        n: of how many.
        interval: its ends.
    """

    value: float | None
    n: int
    interval: tuple[float, float]

    @staticmethod
    def of(rate: Rate) -> Share:
        """A rate's."""
        return Share(rate.value if rate.n else None, rate.n, rate.interval)


@dataclass(frozen=True)
class Rates:
    """What one model answers.

    Args:
        ca: clean accuracy.
        asr: attack success rate; left out where there is no trigger.
        triggered_accuracy: of triggered images; left out where there is no trigger.
    """

    ca: Share
    asr: Share | None = optional()
    triggered_accuracy: Share | None = optional()

    @staticmethod
    def of(rates: BackdoorRates) -> Rates:
        """Of what was measured."""
        with_trigger = (rates.asr, rates.triggered_accuracy)
        return Rates(Share.of(rates.ca), *(None if rate is None else Share.of(rate) for rate in with_trigger))


Recalls = dict[str, dict[str, Share]]  # by way (`image_to_text`, `text_to_image`) and `r@1`, `r@5`, `r@10`


@dataclass(frozen=True)
class RateTable:
    """What one model answers, number by number; a rate that was not measured is left out.

    Args:
        ca: clean accuracy; of these three, None where nothing could be counted.
        asr: attack success rate.
        triggered_accuracy: of triggered images.
        n: of how many, by name.
        interval: 95% Wilson intervals, by name.
        retrieval: R@1/5/10 by way; of pairs alone.
    """

    ca: float | None = optional(null=True)
    asr: float | None = optional(null=True)
    triggered_accuracy: float | None = optional(null=True)
    n: dict[str, int] = field(default_factory=dict, metadata={"optional": True})
    interval: dict[str, tuple[float, float]] = field(default_factory=dict, metadata={"optional": True})
    retrieval: Recalls | None = optional()

    @staticmethod
    def of(rates: BackdoorRates | None, retrieval: Recalls | None = None) -> RateTable:
        """Of what was measured."""
        named = (
            {} if rates is None else {"ca": rates.ca, "asr": rates.asr, "triggered_accuracy": rates.triggered_accuracy}
        )
        shares = {name: Share.of(rate) for name, rate in named.items() if rate is not None}
        return RateTable(
            **{name: share.value for name, share in shares.items()},
            n={name: share.n for name, share in shares.items()},
            interval={name: share.interval for name, share in shares.items()},
            retrieval=retrieval,
        )

    @property
    def absent(self) -> set[str]:
        """What was not measured."""
        return {"ca", "asr", "triggered_accuracy"} - self.n.keys() | (set() if self.n else {"n", "interval"})

    def share(self, name: str) -> Share:
        """One rate with its n and interval."""
        return Share(getattr(self, name), self.n[name], self.interval[name])
