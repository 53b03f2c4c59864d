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
    defences: {cleanclip: {lr: 1.0e-3}}  # on top of a defence's own settings, on this data set
attacks:
  badnets: badnets:size=6             # a trigger, or a mapping: {trigger: …, rate: …, clean_label: true}
defences:
  anchored: {}                        # settings; `method` names the defence where the key is another name
rebound: {steps: 100, points: 4, images: 500}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from unbackdoor.data.classnames import templates as find_templates
from unbackdoor.defenses import defence_config
from unbackdoor.defenses.base import configured
from unbackdoor.errors import InputError
from unbackdoor.training.plant import PoisonConfig
from unbackdoor.training.plant_pairs import PairPoisonConfig
from unbackdoor.triggers import parse_trigger

Json = dict[str, Any]
POISONS: dict[str, type[PoisonConfig] | type[PairPoisonConfig]] = {"classes": PoisonConfig, "pairs": PairPoisonConfig}
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
    defences: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Rebound:
    """Clean fine-tuning after the cure: `steps` steps, ASR at `points` places, on at most `images` test images."""

    steps: int = 100
    points: int = 4
    images: int = 500
    batch_size: int = 64
    lr: float = 0.0


@dataclass(frozen=True)
class Grid:
    """A whole recipe, checked."""

    models: Mapping[str, str]
    data: Mapping[str, DataEntry]
    attacks: Mapping[str, Mapping[str, Any]]
    defences: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    rebound: Rebound | None


def read_recipe(path: Path, data_root: Path | None = None) -> Grid:
    """Read and check a recipe.

    Raises:
        InputError: unreadable YAML, an unknown or missing key, an unknown defence, trigger or setting.
    """
    import yaml

    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from None
    try:
        return _grid(raw, data_root)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _grid(raw: Any, data_root: Path | None) -> Grid:
    known = {"model", "models", "seeds", "data", "attacks", "defences", "rebound"}
    if not isinstance(raw, dict) or set(raw) - known:
        odd = sorted(map(str, set(raw) - known)) if isinstance(raw, dict) else ["not a mapping"]
        raise InputError(f"unknown key {odd[0]!r}; a recipe holds {', '.join(sorted(known))}")
    for key in ("data", "attacks", "defences"):
        if not isinstance(raw.get(key), dict) or not raw[key]:
            raise InputError(f"{key}: missing, or not a mapping of names")
    only = str(raw.get("model", "embedded"))
    models = raw.get("models") or {only: only}
    if not isinstance(models, dict):
        raise InputError("models: not a mapping of names to references")
    seeds = raw.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(type(s) is int for s in seeds):
        raise InputError("seeds: not a list of whole numbers")
    attacks = {str(n): _attack(str(n), a) for n, a in raw["attacks"].items()}
    data = {str(n): _entry(str(n), d, data_root) for n, d in raw["data"].items()}
    for name, entry in data.items():
        for attack in attacks.values():
            poison_config(entry, attack, 0)
        odd = sorted(set(entry.triggers) - set(attacks))
        if odd:
            raise InputError(f"data {name}, triggers: no attack {odd[0]!r}; there are {', '.join(attacks)}")
    defences = {str(n): dict(d or {}) for n, d in raw["defences"].items()}
    for name, settings in defences.items():
        method_config(name, settings, 0)
    for name, entry in data.items():
        odd = sorted(set(entry.defences) - set(defences))
        if odd:
            raise InputError(f"data {name}, defences: no defence {odd[0]!r}; there are {', '.join(defences)}")
        for defence in entry.defences:
            method_config(defence, _settings(entry, defence, defences[defence]), 0)
    rebound = None if not raw.get("rebound") else fill("rebound", Rebound, raw["rebound"])
    return Grid({str(k): str(v) for k, v in models.items()}, data, attacks, defences, tuple(seeds), rebound)


def fill(where: str, kind: Any, values: Any) -> Any:
    """A dataclass from a mapping.

    Raises:
        InputError: not a mapping, an unknown key or a missing one.
    """
    names = {f.name for f in fields(kind)}
    if not isinstance(values, dict) or set(values) - names:
        odd = sorted(map(str, set(values) - names)) if isinstance(values, dict) else ["not a mapping"]
        raise InputError(f"{where}: unknown key {odd[0]!r}; it holds {', '.join(sorted(names))}")
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"{where}: {str(error).partition(') ')[2] or error}") from None


def _entry(name: str, values: Any, data_root: Path | None) -> DataEntry:
    entry = data_entry(name, values, data_root)
    if not entry.target or entry.defender < 1:
        raise InputError(f"data {name}: give a target, a class name, and defender, a number of images")
    return entry


def data_entry(name: str, values: Any, data_root: Path | None) -> DataEntry:
    """One data set of a recipe, `{data}` filled in.

    Raises:
        InputError: an unknown key or regime, a trigger or defence that is none, or a missing data root.
    """
    entry: DataEntry = fill(f"data {name}", DataEntry, values)
    span = entry.class_range
    if span is not None and not (isinstance(span, (list, tuple)) and [type(v) for v in span] == [int, int]):
        raise InputError(f"data {name}: class_range is two whole numbers, the first class and the one after the last")
    if entry.regime not in POISONS:
        raise InputError(f"data {name}: regime {entry.regime!r} is neither classes nor pairs")
    if not isinstance(entry.triggers, dict):
        raise InputError(f"data {name}: triggers is not a mapping of attacks to trigger specs")
    if not isinstance(entry.defences, dict) or not all(isinstance(s, dict) for s in entry.defences.values()):
        raise InputError(f"data {name}: defences is not a mapping of defences to settings")
    for trigger in entry.triggers.values():
        parse_trigger(str(trigger))

    def rooted(text: str | None) -> str | None:
        if text is None or "{data}" not in text:
            return text
        if data_root is None:
            raise InputError(f"data {name}: {text} needs a folder for {{data}}; give --data-root PATH")
        return text.replace("{data}", str(data_root))

    return replace(entry, source=rooted(entry.source) or "", test=rooted(entry.test), captions=rooted(entry.captions))


def _attack(name: str, values: Any) -> Mapping[str, Any]:
    found = {"trigger": values} if isinstance(values, str) else values
    if not isinstance(found, dict) or not isinstance(found.get("trigger"), str):
        raise InputError(f"attack {name}: give a trigger spec, or a mapping with one under trigger")
    if name == CLEAN:
        raise InputError(f"attack {name}: the name is taken by the fine-tuning without poison, which is always run")
    parse_trigger(found["trigger"])
    return found


def poison_config(entry: DataEntry, attack: Mapping[str, Any], seed: int) -> PoisonConfig | PairPoisonConfig:
    """How this attack poisons this data set: the data set's settings, the attack's own on top."""
    base = POISONS[entry.regime]()
    settings = {**entry.poison, **{k: v for k, v in attack.items() if k not in ("trigger", "target")}, "seed": seed}
    if entry.regime == "pairs":
        sentences = settings.get("templates", "openai-imagenet")
        settings["templates"] = find_templates(sentences) if isinstance(sentences, str) else tuple(sentences)
    return configured("poison", base, settings)


def _settings(entry: DataEntry, name: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**settings, **entry.defences.get(name, {})}


def method_config(name: str, settings: Mapping[str, Any], seed: int) -> tuple[str, Any]:
    """Registered defence and full configuration behind a recipe's line."""
    method = str(settings.get("method", name))
    config = defence_config(method, {k: v for k, v in settings.items() if k != "method"})
    if "tune" in {f.name for f in fields(config)}:
        config = configured(f"defence {method}", config, {"seed": seed})
    return method, config


def suspects(grid: Grid, model_hashes: Mapping[str, str]) -> list[Json]:
    """Configurations of all poisoned models, and of the same fine-tunings without poison, seed by seed."""
    found = []
    for seed in grid.seeds:
        for data_name, entry in grid.data.items():
            for model, reference in grid.models.items():
                for attack_name, attack in {CLEAN: {}, **grid.attacks}.items():
                    config: Json = {
                        "kind": "suspect",
                        "model": reference,
                        "weights": model_hashes[model],
                        "data": told(entry, without=("defender", "validation")),
                        "poison": asdict(poison_config(entry, attack, seed)),
                        "trigger": entry.triggers.get(attack_name, attack.get("trigger")),
                        "target": attack.get("target", entry.target),
                    }
                    names = {"model": model, "data": data_name, "attack": attack_name, "seed": seed}
                    found.append({"names": names, "config": config})
    return found


def told(entry: DataEntry, without: tuple[str, ...] = ()) -> Json:
    """What of the data decides a cell: not what other parts of its configuration tell, nor what is not set.

    A new optional key then moves no finished cell, and grids that differ in the defender's share alone share suspects.
    """
    elsewhere = ("poison", "triggers", "defences", "target")
    return {k: v for k, v in asdict(entry).items() if v is not None and k not in (*elsewhere, *without)}


def cures(grid: Grid, suspect: Json) -> list[Json]:
    """Configurations of every defence on one suspect; none for a clean one."""
    if suspect["names"]["attack"] == CLEAN:
        return []
    found = []
    entry = grid.data[suspect["names"]["data"]]
    for name, general in grid.defences.items():
        settings = _settings(entry, name, general)
        method, config = method_config(name, settings, suspect["names"]["seed"])
        cell = {
            "kind": "cure",
            "suspect": suspect["config"],
            "data": told(entry),
            "method": method,
            "settings": {k: v for k, v in settings.items() if k != "method"},
            "defence": asdict(config),
            "rebound": None if grid.rebound is None else asdict(grid.rebound),
        }
        found.append({"names": {**suspect["names"], "defence": name}, "config": cell})
    return found
