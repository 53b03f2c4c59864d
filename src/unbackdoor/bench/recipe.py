"""A grid's recipe: one YAML file → a frozen `Grid` → its cells, each a plain dict that decides its own address.

model: embedded                       # or models: {name: reference, …}
seeds: [0, 1, 2]
data:
  cifar10:
    source: parquet:{data}/cifar10    # {data} is filled from --data-root
    target: airplane
    attacker: 10000                   # training images that the attacker poisons
    defender: 4096                    # other training images, clean, that the defender may use
    validation: 512                   # yet others, for choices such as α
    test_limit: 2000
    class_range: [0, 10]              # only these classes, as a data set of its own; all by default
    poison: {rate: 0.1, epochs: 3}    # fields of PoisonConfig and TuneConfig
    triggers: {badnets: badnets:size=8}  # in place of an attack's own, on this data set
    defenses: {cleanclip: {lr: 1.0e-3}}  # on top of a defense's own settings, on this data set
attacks:
  badnets: badnets:size=6             # a trigger, or a mapping: {trigger: …, rate: …, clean_label: true}
defenses:
  anchored: {}                        # settings; `method` names the defense where the key is another name
rebound: {steps: 100, points: 4, images: 500}
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from unbackdoor.attacks.plant import PoisonConfig
from unbackdoor.attacks.plant_pairs import PairPoisonConfig
from unbackdoor.base.draws import check_seed
from unbackdoor.base.errors import InputError
from unbackdoor.base.printable import terminal
from unbackdoor.base.untrusted import as_type, check_inside, file_name, is_there, read_yaml
from unbackdoor.data.classnames import class_names
from unbackdoor.data.classnames import templates as find_templates
from unbackdoor.defenses import defense_config
from unbackdoor.defenses.base import configured
from unbackdoor.triggers import parse_trigger

Json = dict[str, Any]
POISONS: dict[str, type[PoisonConfig] | type[PairPoisonConfig]] = {"classes": PoisonConfig, "pairs": PairPoisonConfig}
MOST, MOST_CELLS = 1000, 100_000  # seeds, and cells of a grid
CLEAN = "none"  # the attack that is none: the same fine-tuning without poison, the yardstick of every attack's CA


@dataclass(frozen=True)
class DataEntry:
    """One data set of a grid and who gets how much of it; see the module's first lines."""

    source: str
    attacker: int
    target: str = ""
    defender: int = 0
    validation: int = 512
    test: str | None = None
    test_limit: int | None = None
    classes: str | None = None
    class_range: tuple[int, int] | None = None
    templates: str | None = None
    regime: str = "classes"
    captions: str | None = None
    poison: Mapping[str, Any] = field(default_factory=dict)
    triggers: Mapping[str, str] = field(default_factory=dict)
    defenses: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        positive(self, "attacker", "test_limit")
        positive(self, "defender", "validation", least=0)


@dataclass(frozen=True)
class Rebound:
    """Clean fine-tuning after the cure: `steps` steps, ASR at `points` places, on at most `images` test images."""

    steps: int = 100
    points: int = 4
    images: int = 500
    batch_size: int = 64
    lr: float = 0.0

    def __post_init__(self) -> None:
        positive(self, "steps", "points", "images", "batch_size")
        positive(self, "lr", least=0)


@dataclass(frozen=True)
class Grid:
    """A whole recipe, checked."""

    models: Mapping[str, str]
    data: Mapping[str, DataEntry]
    attacks: Mapping[str, Mapping[str, Any]]
    defenses: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    rebound: Rebound | None


@dataclass(frozen=True)
class Place:
    """What a recipe's own words may reach.

    Args:
        folder: of the recipe; files of trigger specs lie within it.
        data_root: stands for `{data}`, made absolute: cells know their data by it, however it was typed. None where
            there is none.
        online: models and data may lie on the network.
    """

    folder: Path
    data_root: Path | None = None
    online: bool = False

    def __post_init__(self) -> None:
        if self.data_root is not None:
            object.__setattr__(self, "data_root", Path(os.path.abspath(self.data_root)))


def positive(value: Any, *names: str, least: float = 1) -> None:
    """Refuse numbers of a dataclass that are smaller than `least`; None passes.

    Raises:
        InputError: one is.
    """
    for name in names:
        number = getattr(value, name)
        if isinstance(number, int | float) and not least <= number < 1e12:
            raise InputError(f"{name} {number}: must be a number of {least:g} or more")


def read_recipe(path: Path, data_root: Path | None = None, *, online: bool = False) -> Grid:
    """Read and check a recipe.

    Args:
        data_root: folder that stands for `{data}`.
        online: models and data of the recipe may lie on the network. Recipes are handed around.

    Raises:
        InputError: unreadable YAML, an unknown or missing key, an unknown defense, trigger or setting, a value of
            another type or size, a name that cannot become a file's, or a model or data on the network.
    """
    raw = read_yaml(path)
    try:
        return _grid(raw, Place(path.parent, data_root, online))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def named(raw: Any, what: str) -> dict[str, Any]:
    """A mapping of a recipe by names, each of which may become a file's.

    Raises:
        InputError: no mapping, an empty one, or a name that may not.
    """
    if not isinstance(raw, dict) or not raw:
        raise InputError(f"{what}: missing, or not a mapping of names")
    return {file_name(str(name), what): value for name, value in raw.items()}


def check_model(reference: Any, online: bool) -> str:
    """A recipe's model.

    Raises:
        InputError: no text, or it lies on the network and `online` is not given.
    """
    if not isinstance(reference, str):
        raise InputError(f"model {reference!r}: not a model reference; write it as text")
    if not online and reference.startswith(("hf-hub:", "hf:")):
        raise InputError(f"model {reference}: lies on the network; give --online where you trust the recipe")
    return reference


def _renamed(values: Any, where: str = "") -> Any:
    """A mapping of a recipe in which `defences`, as older recipes have it, is called `defenses`.

    Raises:
        InputError: it holds both.
    """
    if not isinstance(values, dict) or "defences" not in values:
        return values
    if "defenses" in values:
        raise InputError(f"{where}defences and defenses are one key in two spellings; give one of them")
    return {"defenses" if key == "defences" else key: value for key, value in values.items()}


def _grid(raw: Any, place: Place) -> Grid:
    raw = _renamed(raw)
    known = {"model", "models", "seeds", "data", "attacks", "defenses", "rebound"}
    if not isinstance(raw, dict) or set(raw) - known:
        odd = sorted(map(str, set(raw) - known)) if isinstance(raw, dict) else ["not a mapping"]
        raise InputError(f"unknown key {odd[0]!r}; a recipe holds {', '.join(sorted(known))}")
    sections = {key: named(raw.get(key), key) for key in ("data", "attacks", "defenses")}
    if raw.get("models"):
        models = {name: check_model(r, place.online) for name, r in named(raw["models"], "models").items()}
    else:
        only = check_model(raw.get("model", "embedded"), place.online)
        models = {only: only}
    seeds = raw.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(type(s) is int for s in seeds):
        raise InputError("seeds: not a list of whole numbers")
    if len(seeds) > MOST:
        raise InputError(f"seeds: {len(seeds):,} of them; {MOST:,} are the most")
    for seed in seeds:
        check_seed(seed)
    attacks = {n: _attack(n, a, place) for n, a in sections["attacks"].items()}
    data = {n: _entry(n, d, place) for n, d in sections["data"].items()}
    for name, entry in data.items():
        for attack in attacks.values():
            poison_config(entry, attack, 0)
        odd = sorted(set(entry.triggers) - set(attacks))
        if odd:
            raise InputError(f"data {name}, triggers: no attack {odd[0]!r}; there are {', '.join(attacks)}")
    defenses: dict[str, dict[str, Any]] = {}
    for name, settings in sections["defenses"].items():
        if not isinstance(settings, dict | None):
            raise InputError(f"defense {name}: not a mapping of settings")
        defenses[name] = settings = dict(settings or {})
        method_config(name, settings, 0)
    for name, entry in data.items():
        odd = sorted(set(entry.defenses) - set(defenses))
        if odd:
            raise InputError(f"data {name}, defenses: no defense {odd[0]!r}; there are {', '.join(defenses)}")
        for defense in entry.defenses:
            method_config(defense, _settings(entry, defense, defenses[defense]), 0)
    rebound = None if not raw.get("rebound") else fill("rebound", Rebound, raw["rebound"])
    count = len(seeds) * len(data) * len(models) * (1 + len(attacks) * (1 + len(defenses)))
    if count > MOST_CELLS:
        raise InputError(f"{count:,} cells; {MOST_CELLS:,} are the most: split the recipe")
    return Grid(models, data, attacks, defenses, tuple(seeds), rebound)


def fill(where: str, kind: Any, values: Any) -> Any:
    """A dataclass from a mapping; fields that are themselves mappings of dataclasses are left to the caller.

    Raises:
        InputError: not a mapping, an unknown key or a missing one.
    """
    names = {f.name for f in fields(kind)}
    if not isinstance(values, dict) or set(values) - names:
        odd = sorted(map(str, set(values) - names)) if isinstance(values, dict) else ["not a mapping"]
        raise InputError(f"{where}: unknown key {odd[0]!r}; it holds {', '.join(sorted(names))}")
    try:
        filled = kind(**values)
    except TypeError as error:
        raise InputError(f"{where}: {str(error).partition(') ')[2] or error}") from None
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    for key, hint in get_type_hints(kind).items():
        if key in values and "Half" not in str(hint) and "DataEntry" not in str(hint):
            # Checked and not converted: that 1 stands for 1.0 must not move a cell's address.
            as_type(values[key], hint, f"{where}, {key}")
    return filled


def _entry(name: str, values: Any, place: Place) -> DataEntry:
    entry = data_entry(name, values, place)
    if not entry.target or entry.defender < 1:
        raise InputError(f"data {name}: give a target, a class name, and defender, a number of images")
    return entry


def data_entry(name: str, values: Any, place: Place) -> DataEntry:
    """One data set of a recipe, `{data}` filled in.

    Raises:
        InputError: an unknown key or regime, a trigger or defense that is none, a missing data root, a data set on the
            network, or a file that is none.
    """
    values = _renamed(values, f"data {name}: ")
    if isinstance(values, dict):
        _check_shapes(name, values)
    entry: DataEntry = fill(f"data {name}", DataEntry, values)
    if entry.regime not in POISONS:
        raise InputError(f"data {name}: regime {entry.regime!r} is neither classes nor pairs")
    if terminal(entry.target) != entry.target:
        raise InputError(f"data {name}: the target {entry.target!r} holds characters that cannot be shown")
    for trigger in entry.triggers.values():
        check_spec(trigger, place)

    def rooted(text: str | None) -> str | None:
        if text is not None and "{data}" in text:
            if place.data_root is None:
                raise InputError(f"data {name}: {text} needs a folder for {{data}}; give --data-root PATH")
            text = text.replace("{data}", str(place.data_root))
        return text

    entry = replace(entry, source=rooted(entry.source) or "", test=rooted(entry.test), captions=rooted(entry.captions))
    for source in filter(None, (entry.source, entry.test)):
        _check_source(name, source, place.online)
    if entry.classes is not None:
        class_names(entry.classes)
    if entry.templates is not None:
        find_templates(entry.templates)
    return entry


def _check_shapes(name: str, values: dict[str, Any]) -> None:
    """Shapes that a sentence explains better than a type."""
    span, triggers, defenses = (values.get(key) for key in ("class_range", "triggers", "defenses"))
    if span is not None:
        if not (isinstance(span, (list, tuple)) and [type(v) for v in span] == [int, int]):
            raise InputError(
                f"data {name}: class_range is two whole numbers, the first class and the one after the last"
            )
        if not 0 <= span[0] < span[1]:
            raise InputError(f"data {name}: class_range [{span[0]}, {span[1]}] holds no class")
    if not isinstance(triggers, dict | None):
        raise InputError(f"data {name}: triggers is not a mapping of attacks to trigger specs")
    if not isinstance(defenses, dict | None) or not all(isinstance(s, dict) for s in (defenses or {}).values()):
        raise InputError(f"data {name}: defenses is not a mapping of defenses to settings")


def _check_source(name: str, source: str, online: bool) -> None:
    """Refuse data on the network, unless it is wanted, and devices and pipes, before anything is run."""
    kind, _, rest = source.partition(":")
    place = Path(rest.partition("#")[0])
    if kind == "hf" and not online and not is_there(place):
        raise InputError(f"data {name}: {source} lies on the network; give --online where you trust the recipe")
    if is_there(place) and not place.is_dir() and not place.is_file():
        raise InputError(f"data {name}: {source}: is neither a file nor a folder")


def check_spec(spec: Any, place: Place) -> None:
    """Refuse what is no trigger's spec; a file that holds one lies beside the recipe or below.

    Raises:
        InputError: it is none.
    """
    if not isinstance(spec, str):
        raise InputError(f"trigger {spec!r}: write a spec, such as badnets:size=16")
    if spec.startswith("@"):
        check_inside(Path(spec[1:]), place.folder)
    parse_trigger(spec)


def _attack(name: str, values: Any, place: Place) -> Mapping[str, Any]:
    attack = {"trigger": values} if isinstance(values, str) else values
    if not isinstance(attack, dict) or not isinstance(attack.get("trigger"), str):
        raise InputError(f"attack {name}: give a trigger spec, or a mapping with one under trigger")
    if name == CLEAN:
        raise InputError(f"attack {name}: the name is taken by the fine-tuning without poison, which is always run")
    check_spec(attack["trigger"], place)
    if not isinstance(attack.get("target", ""), str):
        raise InputError(f"attack {name}: the target {attack['target']!r} is no name; write it in quotes")
    return attack


def poison_config(entry: DataEntry, attack: Mapping[str, Any], seed: int) -> PoisonConfig | PairPoisonConfig:
    """How this attack poisons this data set: the data set's settings, the attack's own on top."""
    base = POISONS[entry.regime]()
    settings = {**entry.poison, **{k: v for k, v in attack.items() if k not in ("trigger", "target")}, "seed": seed}
    if entry.regime == "pairs":
        sentences = settings.get("templates", "openai-imagenet")
        if not isinstance(sentences, str | list | tuple):
            raise InputError(f"poison, templates: {sentences!r} is neither a name nor a list of sentences")
        settings["templates"] = find_templates(sentences) if isinstance(sentences, str) else tuple(sentences)
    return configured("poison", base, settings)


def _settings(entry: DataEntry, name: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**settings, **entry.defenses.get(name, {})}


def method_config(name: str, settings: Mapping[str, Any], seed: int) -> tuple[str, Any]:
    """Registered defense and full configuration behind a recipe's line."""
    method = str(settings.get("method", name))
    config = defense_config(method, {k: v for k, v in settings.items() if k != "method"})
    if "tune" in {f.name for f in fields(config)}:
        config = configured(f"defense {method}", config, {"seed": seed})
    return method, config


def suspects(grid: Grid, model_hashes: Mapping[str, str]) -> list[Json]:
    """Configurations of all poisoned models, and of the same fine-tunings without poison, seed by seed."""
    cells = []
    for seed in grid.seeds:
        for data_name, entry in grid.data.items():
            for model, reference in grid.models.items():
                for attack_name, attack in {CLEAN: {}, **grid.attacks}.items():
                    config: Json = {
                        "kind": "suspect",
                        "model": reference,
                        "weights": model_hashes[model],
                        "data": identity(entry, without=("defender", "validation")),
                        "poison": asdict(poison_config(entry, attack, seed)),
                        "trigger": entry.triggers.get(attack_name, attack.get("trigger")),
                        "target": attack.get("target", entry.target),
                    }
                    names = {"model": model, "data": data_name, "attack": attack_name, "seed": seed}
                    cells.append({"names": names, "config": config})
    return cells


def identity(entry: DataEntry, without: tuple[str, ...] = ()) -> Json:
    """What of the data decides a cell: not what other parts of its configuration tell, nor what is not set.

    A new optional key then moves no finished cell, and grids that differ in the defender's share alone share suspects.
    """
    elsewhere = ("poison", "triggers", "defenses", "target")
    return {k: v for k, v in asdict(entry).items() if v is not None and k not in (*elsewhere, *without)}


def yardsticks(clean: Json, attacked: Sequence[Json]) -> list[Json]:
    """Configurations that measure every attack's trigger on the same fine-tuning without poison.

    Some triggers hide the object from any model: what a cure gives back is told as a share of what is there to be had.

    Args:
        clean: the suspect that is none.
        attacked: all suspects; those of the same model, data and seed count.
    """
    own = {k: v for k, v in clean["names"].items() if k != "attack"}
    return [
        {"names": cell["names"], "config": {"kind": "yardstick", "clean": clean["config"], "suspect": cell["config"]}}
        for cell in attacked
        if cell["names"]["attack"] != CLEAN and {k: v for k, v in cell["names"].items() if k != "attack"} == own
    ]


def settings_of(config: Any) -> Json:
    """All fields of a configuration but those that came later (`runs.settings.LATER`) and are as before they came."""
    whole: Json = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if f.metadata.get("later") and value == f.default:
            continue
        whole[f.name] = settings_of(value) if is_dataclass(value) else value
    return whole


def cures(grid: Grid, suspect: Json) -> list[Json]:
    """Configurations of every defense on one suspect; none for a clean one."""
    if suspect["names"]["attack"] == CLEAN:
        return []
    cells = []
    entry = grid.data[suspect["names"]["data"]]
    for name, general in grid.defenses.items():
        settings = _settings(entry, name, general)
        method, config = method_config(name, settings, suspect["names"]["seed"])
        cell: Json = {
            "kind": "cure",
            "suspect": suspect["config"],
            "data": identity(entry),
            "method": method,
            "settings": {k: v for k, v in settings.items() if k != "method"},
            "defence": settings_of(config),
            "rebound": None if grid.rebound is None else asdict(grid.rebound),
        }
        cells.append({"names": {**suspect["names"], "defence": name}, "config": cell})
    return cells
