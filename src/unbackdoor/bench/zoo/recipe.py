"""A zoo's recipe: one YAML file → members, each a plain dict that decides its own address.

model: embedded
seed: 0
images: 1024                      # unlabelled pictures for the examination, of the member's own training split
halves:
  calibration:
    clean: 24
    backdoored: 30
    data: {cifar10: {source: …, attacker: 12000, poison: {…}}}   # entries of a bench recipe, without target
    rates: [0.05, 0.1]            # poison rates
    families: {text: [text, "text:word=Hi,size=12"]}             # trigger family → variants

Members cycle through families and data sets; variant, target, poison rate and seed are drawn, by (seed, half, kind,
number), so that a zoo with larger counts holds every member of a smaller one. Clean members are fine-tuned just as long
on the same data.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from unbackdoor.base.draws import check_seed
from unbackdoor.base.errors import InputError
from unbackdoor.base.untrusted import read_yaml
from unbackdoor.bench.recipe import (
    MOST_CELLS,
    DataEntry,
    Json,
    Place,
    check_model,
    check_spec,
    data_entry,
    fill,
    identity,
    named,
    poison_config,
    positive,
)
from unbackdoor.data.specs import describe
from unbackdoor.scan import narrowing
from unbackdoor.scan.inverters import versions
from unbackdoor.scan.judgement import Judgement
from unbackdoor.unlearning.unknown import VERSION

CLEAN = "clean"


@dataclass(frozen=True)
class Half:
    """One half of a zoo; the halves share neither families nor data sets."""

    clean: int
    backdoored: int
    data: Mapping[str, DataEntry]
    families: Mapping[str, Sequence[str]]
    rates: Sequence[float] = (0.1,)

    def __post_init__(self) -> None:
        positive(self, "clean", "backdoored", least=0)


@dataclass(frozen=True)
class Zoo:
    """A whole recipe, checked."""

    model: str
    halves: Mapping[str, Half]
    images: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        positive(self, "images", least=8)


def read_zoo(path: Path, data_root: Path | None = None, *, online: bool = False) -> Zoo:
    """Read and check a recipe.

    Args:
        data_root, online: as `unbackdoor.bench.recipe.read_recipe` takes them.

    Raises:
        InputError: as `read_recipe`, or halves that share a family or a data set.
    """
    raw, place = read_yaml(path), Place(path.parent, data_root, online)
    try:
        zoo: Zoo = fill("zoo", Zoo, raw)
        check_model(zoo.model, online)
        check_seed(zoo.seed)
        halves = {name: _half(name, values, place) for name, values in named(zoo.halves, "halves").items()}
        count = sum(half.clean + half.backdoored for half in halves.values())
        if count > MOST_CELLS:
            raise InputError(f"{count:,} members; {MOST_CELLS:,} are the most")
        zoo = replace(zoo, halves=halves)
        _check_apart(zoo)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return zoo


def _half(name: str, values: Any, place: Place) -> Half:
    if isinstance(values, dict):
        for key in ("data", "families"):
            if not isinstance(values.get(key), dict) or not values[key]:
                raise InputError(f"half {name}: {key} is missing, or not a mapping of names")
        for family, variants in values["families"].items():
            if not isinstance(variants, list) or not variants:
                raise InputError(f"half {name}, family {family}: not a list of trigger specs")
    half: Half = fill(f"half {name}", Half, values)
    families = named(half.families, f"half {name}, families")
    for variants in families.values():
        for spec in variants:
            check_spec(spec, place)
    if not half.rates:
        raise InputError(f"half {name}: rates is empty; give poison rates, such as [0.1]")
    data = {key: data_entry(key, entry, place) for key, entry in named(half.data, f"half {name}, data").items()}
    for entry in data.values():
        for rate in half.rates:
            poison_config(entry, {"rate": rate}, 0)
    return replace(half, data=data, families=families)


def _check_apart(zoo: Zoo) -> None:
    halves = list(zoo.halves.items())
    for i, (one, first) in enumerate(halves):
        for other, second in halves[i + 1 :]:
            shared = set(first.families) & set(second.families) | set(first.data) & set(second.data)
            if shared:
                raise InputError(f"halves {one} and {other} share {sorted(shared)[0]}; a test needs other ground")


def classes_of(zoo: Zoo) -> dict[str, tuple[str, ...]]:
    """Class names of every data set, without decoding its pictures.

    Raises:
        InputError: a data set that cannot be read or names no classes.
    """
    classes: dict[str, tuple[str, ...]] = {}
    for half in zoo.halves.values():
        for name, entry in half.data.items():
            names = tuple(describe(entry.source, classes=entry.classes)["classes"])
            classes[name] = names if entry.class_range is None else names[slice(*entry.class_range)]
            if not classes[name]:
                raise InputError(f"data {name}: {entry.source} names no classes; name a file of them under classes")
    return classes


def members(zoo: Zoo, weights: str, classes: Mapping[str, Sequence[str]]) -> list[Json]:
    """Name and configuration of every member, in an order of which any beginning is a zoo of all halves and kinds.

    Args:
        weights: hash of the base model's weights.
        classes: class names of every data set, by its name; targets are drawn from them.
    """
    placed = [
        ((number + 0.5) / count, _member(zoo, weights, classes, half, kind, number))
        for half, own in zoo.halves.items()
        for kind, count in ((CLEAN, own.clean), ("backdoored", own.backdoored))
        for number in range(count)
    ]
    return [member for _, member in sorted(placed, key=lambda pair: pair[0])]


def _member(zoo: Zoo, weights: str, classes: Mapping[str, Sequence[str]], half: str, kind: str, number: int) -> Json:
    own = zoo.halves[half]
    families, sets = (list(own.families) if kind != CLEAN else [CLEAN]), list(own.data)
    chance = random.Random(f"{zoo.seed}/{half}/{kind}/{number}")
    turn, place = divmod(number, len(families))
    # Each turn through the families begins one data set further, so that every family meets every data set.
    data = sets[(turn + place) % len(sets)]
    entry, seed, family = own.data[data], chance.randrange(2**31), families[place]
    poison = poison_config(entry, {"rate": chance.choice(list(own.rates))}, seed)
    config: Json = {
        "kind": "member",
        "model": zoo.model,
        "weights": weights,
        "data": identity(entry, without=("defender", "validation")),
        "poison": asdict(poison),
        "trigger": None if kind == CLEAN else str(chance.choice(list(own.families[family]))),
        "target": "" if kind == CLEAN else chance.choice(list(classes[data])),
    }
    names = {"half": half, "number": number, "family": family, "data": data, "regime": entry.regime}
    return {"names": names, "config": config, "classes": len(classes[data])}


def examination(zoo: Zoo, member: Json) -> Json:
    """The cell that examines a member, before anything is known about it."""
    config = {
        "kind": "examination",
        "member": member["config"],
        "images": zoo.images,
        "seed": zoo.seed,
        "versions": versions(),
        **({"narrowing": narrowing.VERSION} if narrowing.in_force(member.get("classes", 0)) else {}),
    }
    return {"names": member["names"], "config": config}


def inversion(examination: Json, inverter: str) -> Json:
    """Configuration of one inverter's part of an examination."""
    kept: Json = {key: examination[key] for key in ("member", "images", "seed", "narrowing") if key in examination}
    return {"kind": "inversion", **kept, "inverter": inverter, "version": examination["versions"][inverter]}


def recovery(zoo: Zoo, member: Json, judgement: Judgement[str]) -> Json:
    """The cell that cures a member of what its examination came to, and measures the true attack.

    It rests on the inverters that are shown alone, so that a new one leaves the cures that it does not change.
    """
    examined = examination(zoo, member)["config"]
    leads = [(judgement.target, judgement.inverter), *((other.target, other.inverter) for other in judgement.others)]
    config = {
        "kind": "recovery",
        "backdoored": judgement.backdoored,
        "leads": [{"target": target, "by": inversion(examined, inverter)} for target, inverter in leads],
        "version": VERSION,
        "seed": zoo.seed,
    }
    return {"names": member["names"], "config": config}
