"""What runs leave behind and people hand around: findings, nulls, recipes, trigger specs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile.suite.made import DEEP, ESCAPES, HUGE_NUMBER, Json, open_clip_model, put
from tests.hostile.suite.runner import ROOT, Entry

_NULL = next((ROOT / "src" / "unbackdoor" / "assets" / "nulls").glob("*.jsonl"))


def _weights() -> str:
    head: Json = json.loads(_NULL.read_text(encoding="utf-8").splitlines()[0])
    return str(head["origin"]["weights"])


def finding() -> Json:
    """A finding on the embedded model."""
    return {
        "verb": "scan",
        "model_reference": "embedded",
        "weights": _weights(),
        "backdoored": True,
        "p_value": 0.01,
        "false_alarm_rate": 0.05,
        "clean_models": 60,
        "message": "m",
        "images": 16,
        "data": "embedded:digits#train",
        "origin": None,
        "twin_agreement": None,
        "seed": 0,
        "weighed": ["patch"],
        "seconds": 1.0,
        "target": {"name": "three", "confidence": 1.0, "nearest_texts": [], "from": "classes"},
        "trigger": {
            "spec": "badnets:size=4",
            "picture": None,
            "inverter": "patch",
            "norm": 0.1,
            "strength": {"value": 1.0, "n": 8, "interval": [0.7, 1.0]},
        },
        "others": [],
        "inverters": [
            {
                "name": "patch",
                "target": "three",
                "statistic": 1.0,
                "norm": 0.1,
                "excess": 1.0,
                "seconds": 1.0,
                "strength": {"value": 1.0, "n": 8, "interval": [0.7, 1.0]},
            }
        ],
    }


_CURE = ["--data", "embedded:digits", "--test-limit", "8", "--samples", "4", "--validation", "8", "--epochs", "1"]


def _finding(name: str, place: str, value: object, codes: tuple[int, ...] = (2,)) -> Entry:
    def make(folder: Path) -> list[str]:
        content = finding()
        put(content, place, value)
        (folder / "finding.json").write_text(json.dumps(content))
        return ["unlearn", "--scan", "finding.json", *_CURE, "--out", "out"]

    return Entry(f"finding {name}", make, codes)


def _finding_text(name: str, text: str | bytes) -> Entry:
    def make(folder: Path) -> list[str]:
        (folder / "finding.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        return ["unlearn", "--scan", "finding.json", *_CURE, "--out", "out"]

    return Entry(f"finding {name}", make)


def _without(key: str) -> Entry:
    def make(folder: Path) -> list[str]:
        content = finding()
        *path, last = key.split(".")
        inner = content
        for part in path:
            inner = inner[part]
        del inner[last]
        (folder / "finding.json").write_text(json.dumps(content))
        return ["unlearn", "--scan", "finding.json", *_CURE, "--out", "out"]

    return Entry(f"finding without {key}", make)


_FINDINGS: list[tuple[str, str, object]] = [
    ("of a hub's model", "model_reference", "hf-hub:evil-org/evil"),
    ("of a hub's model without scheme", "model_reference", "evil-org/evil"),
    ("of a tagged model", "model_reference", "ViT-B-32:openai"),
    ("of an adapter on a hub", "model_reference", "adapter:x@hf-hub:evil-org/evil"),
    ("of a device", "model_reference", "/dev/zero"),
    ("of a model of a number", "model_reference", 5),
    ("of other weights", "weights", "0"),
    ("of weights in a list", "weights", ["0"]),
    ("of an origin on a hub", "origin", "hf-hub:evil-org/evil"),
    ("of an origin of a number", "origin", 5),
    ("of an unknown class", "target.name", "evil"),
    ("of a class of a number", "target.name", 3),
    ("of a target in a list", "target", ["three"]),
    ("of an unknown trigger", "trigger.spec", "evil:size=4"),
    ("of a huge trigger", "trigger.spec", "badnets:size=999999999"),
    ("of a trigger file", "trigger.spec", "@../canary"),
    ("of a trigger in a list", "trigger", ["badnets"]),
    ("of an unknown inverter", "trigger.inverter", "evil"),
    ("of an inverter of a module", "trigger.inverter", "os"),
    ("of inverters unknown", "inverters", [{"name": "evil"}]),
    ("of inverters of modules", "inverters", [{"name": "../../evil"}]),
    ("of inverters in a word", "inverters", "patch"),
    ("of no inverters", "inverters", []),
    ("of images of a billion", "images", 10**9),
    ("of images below nought", "images", -5),
    ("of images in words", "images", "many"),
    ("of a rate of two", "false_alarm_rate", 2),
    ("of a rate in words", "false_alarm_rate", "low"),
    ("of a verdict in words", "backdoored", "yes"),
    ("of a strength in words", "trigger.strength.value", "strong"),
    ("of others in a word", "others", "x"),
    ("of others without a target", "others", [{"spec": "badnets", "inverter": "patch"}]),
    ("of others unknown", "others", [{"target": "evil", "spec": "evil", "inverter": "evil", "p_value": 0}]),
    ("that is clean", "backdoored", False),
    ("with escapes", "message", ESCAPES),
]


def _null(name: str, change: Callable[[list[Json]], object], codes: tuple[int, ...] = (2,)) -> Entry:
    def make(folder: Path) -> list[str]:
        lines = [json.loads(line) for line in _NULL.read_text(encoding="utf-8").splitlines()]
        change(lines)
        (folder / "null.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
        return _scan("null.jsonl")

    return Entry(f"null {name}", make, codes)


def _scan(null: str) -> list[str]:
    return [
        "scan",
        "--model",
        "embedded",
        "--data",
        "embedded:digits",
        "--limit",
        "16",
        "--null",
        null,
        "--inverter",
        "collapse",
    ]


def _null_text(name: str, text: str | bytes) -> Entry:
    def make(folder: Path) -> list[str]:
        (folder / "null.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())
        return _scan("null.jsonl")

    return Entry(f"null {name}", make)


def _is(name: str, make_it: Callable[[Path], object], command: Callable[[str], list[str]]) -> Entry:
    def make(folder: Path) -> list[str]:
        make_it(folder / "x")
        return command("x")

    return Entry(name, make)


RECIPE: Json = {
    "model": "embedded",
    "seeds": [0],
    "data": {
        "d": {
            "source": "embedded:digits",
            "target": "three",
            "attacker": 32,
            "defender": 16,
            "validation": 8,
            "test_limit": 8,
            "poison": {"epochs": 1},
        }
    },
    "attacks": {"a": "badnets:size=4"},
    "defences": {"nothing": {}},
}


def _recipe(name: str, place: str, value: object, codes: tuple[int, ...] = (2,), dry: bool = True) -> Entry:
    def make(folder: Path) -> list[str]:
        content = json.loads(json.dumps(RECIPE))
        put(content, place, value)
        (folder / "r.yaml").write_text(json.dumps(content))
        return ["bench", "r.yaml", "--out", "out", "--workers", "1", *(["--dry-run"] if dry else [])]

    return Entry(f"recipe {name}", make, codes)


def _recipe_text(name: str, text: str | bytes, codes: tuple[int, ...] = (2,)) -> Entry:
    def make(folder: Path) -> list[str]:
        (folder / "r.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return ["bench", "r.yaml", "--out", "out", "--dry-run"]

    return Entry(f"recipe {name}", make, codes)


_ALIASES = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
_MERGES = "a: &a {k: 1}\n" + "".join(
    f"{b}: &{b} {{<<: [{','.join([f'*{a}'] * 9)}]}}\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
_RECIPES: list[tuple[str, str, object]] = [
    ("of a climbing attack", "attacks", {"x/../../outside": "badnets:size=4"}),
    ("of an absolute attack", "attacks", {"/tmp/outside": "badnets:size=4"}),
    ("of a hidden attack", "attacks", {"..": "badnets:size=4"}),
    ("of an attack with escapes", "attacks", {ESCAPES: "badnets:size=4"}),
    ("of an attack of a device", "attacks", {"NUL": "badnets:size=4"}),
    ("of climbing data", "data", {"../../d": RECIPE["data"]["d"]}),
    ("of a climbing defence", "defences", {"../../x": {"method": "nothing"}}),
    ("of a climbing model", "models", {"../../m": "embedded"}),
    ("of a hub's model", "model", "hf-hub:evil-org/evil"),
    ("of a tagged model", "model", "ViT-B-32:openai"),
    ("of a model of a number", "model", 5),
    ("of models in a list", "models", ["embedded"]),
    ("of a hub's data", "data.d.source", "hf:evil-org/evil"),
    ("of data of a device", "data.d.source", "csv:/dev/zero"),
    ("of data in a list", "data.d.source", ["embedded:digits"]),
    ("of data in a word", "data.d", "embedded:digits"),
    ("of seeds in a word", "seeds", "0"),
    ("of seeds of halves", "seeds", [0.5]),
    ("of a million seeds", "seeds", list(range(10**6))),
    ("of a huge seed", "seeds", [10**39]),
    ("of an unknown key", "evil", 1),
    ("of an unknown attack", "attacks.a", "evil"),
    ("of an attack of a number", "attacks.a", 5),
    ("of a huge trigger", "attacks.a", "badnets:size=999999999999"),
    ("of a trigger file", "attacks.a", "@../canary"),
    ("of an unknown defence", "defences", {"evil": {}}),
    ("of a defence of a module", "defences", {"os": {}}),
    ("of a defence in a list", "defences.nothing", [1]),
    ("of an unknown setting", "defences.nothing", {"evil": 1}),
    ("of a setting of another type", "defences", {"tbar": {"samples": "many"}}),
    ("of epochs below nought", "data.d.poison", {"epochs": -1}),
    ("of epochs in words", "data.d.poison", {"epochs": "x"}),
    ("of a rate of two", "data.d.poison", {"rate": 2.0}),
    ("of a rate in words", "data.d.poison", {"rate": "x"}),
    ("of an attacker in words", "data.d.attacker", "x"),
    ("of an attacker below nought", "data.d.attacker", -5),
    ("of a range of words", "data.d.class_range", ["a", "b"]),
    ("of a range below nought", "data.d.class_range", [-5, 10**9]),
    ("of templates of a device", "data.d.templates", "/dev/zero"),
    ("of classes of a device", "data.d.classes", "/dev/zero"),
    ("of classes of a number", "data.d.classes", 5),
    ("of a rebound in a list", "rebound", [1]),
    ("of a rebound below nought", "rebound", {"steps": -5}),
]


def _zoo(name: str, text: str) -> Entry:
    def make(folder: Path) -> list[str]:
        (folder / "z.yaml").write_text(text)
        return ["zoo", "z.yaml", "--out", "out", "--dry-run"]

    return Entry(f"zoo {name}", make)


def _trigger(name: str, spec: str, codes: tuple[int, ...] = (2,)) -> Entry:
    def make(folder: Path) -> list[str]:
        open_clip_model(folder / "m")
        return [
            "evaluate",
            "--model",
            "m",
            "--data",
            "embedded:digits",
            "--limit",
            "4",
            "--trigger",
            spec,
            "--target",
            "three",
        ]

    return Entry(f"trigger {name}", make, codes)


def _trigger_file(name: str, make_it: Callable[[Path], object]) -> Entry:
    def make(folder: Path) -> list[str]:
        make_it(folder / "t.txt")
        return ["info", "--trigger", "@t.txt"]

    return Entry(f"trigger file {name}", make)


_TRIGGERS: list[tuple[str, str]] = [
    ("unknown", "evil:size=3"),
    ("of a module", "os.system:true"),
    ("of nothing", ""),
    ("of a size of a billion", "badnets:size=999999999"),
    ("of a size of nothing", "badnets:size=0"),
    ("of a size below nought", "badnets:size=-4"),
    ("of a size of 5,000 digits", "badnets:size=" + "9" * 5000),
    ("of a size in words", "badnets:size=large"),
    ("of an unknown place", "badnets:size=4,position=evil"),
    ("of a margin of a billion", "badnets:size=4,margin=999999999"),
    ("of an unknown pattern", "badnets:size=4,pattern=evil"),
    ("of an unknown parameter", "badnets:evil=1"),
    ("of a ratio not a number", "blended:ratio=nan"),
    ("of an infinite ratio", "blended:ratio=inf"),
    ("of a ratio below nought", "blended:ratio=-1"),
    ("of an amplitude not a number", "sig:amplitude=nan"),
    ("of a huge amplitude", "sig:amplitude=1e308"),
    ("of a huge frequency", "sig:frequency=1e308"),
    ("of a grid of a billion", "wanet:k=999999999"),
    ("of a grid below nought", "wanet:k=-4"),
    ("of a strength not a number", "wanet:s=nan"),
    ("of a wave of nothing", "ripple:wavelength=0"),
    ("of bands of a billion", "lowfreq:bands=999999999"),
    ("of bands below nought", "lowfreq:bands=-1"),
    ("of stripes of nothing", "stripes:width=0"),
    ("of cells of nothing", "triangles:cell=0"),
    ("of a word of a million", "text:word=" + "x" * 10**5),
    ("of a huge word", "text:word=evil,size=99999999"),
    ("of an unknown color", "text:word=evil,colour=evil"),
    ("of a secret of a million", "issba:secret=" + "x" * 10**5),
    ("of a patch that is none", "badclip:size=4,pixels=@@@@"),
    ("of a patch of a billion", "badclip:size=999999999,pixels=AAAA"),
    ("packed of nothing", "additive"),
    ("packed of noise", "additive:size=8,pattern=@@@@"),
    ("of an unknown seed", "badnets:size=4,seed=x"),
]


_OPTIONS = [
    ("of a hub's model", "model: hf-hub:evil-org/evil\ndata: embedded:digits"),
    ("of a tagged model", "model: ViT-B-32:openai\ndata: embedded:digits"),
    ("of a hub's data", "model: embedded\ndata: hf:evil/evil"),
    ("that go online", "online: true"),
    ("that allow paths outside", "model: embedded\ndata: embedded:digits\nallow-outside: true"),
    ("of a device as output", "model: embedded\ndata: embedded:digits\nout: /dev/null"),
    ("of escapes", f"model: {json.dumps(ESCAPES)}\ndata: embedded:digits"),
    ("of an unknown name", "evil: 1"),
    ("of lists", "model: [[a]]\ndata: {a: b}"),
    ("deep", "a: " + "[" * 20_000),
    ("of laughs", _ALIASES),
    ("of code", "!!python/object/apply:os.system ['touch MARKER']"),
    ("of a huge number", "seed: " + "9" * 10_000),
    ("of zeros", "\0" * 100),
]


def _options(name: str, text: str) -> Entry:
    def make(folder: Path) -> list[str]:
        (folder / "options.yaml").write_text(text)
        return ["evaluate", "--config", "options.yaml"]

    return Entry(f"options {name}", make)


_NAMES: list[tuple[str, Callable[[Path], object]]] = [
    ("a pipe", lambda p: os.mkfifo(p)),
    ("a device", lambda p: p.symlink_to("/dev/zero")),
    ("a folder", lambda p: p.mkdir()),
    ("a link to itself", lambda p: p.symlink_to(p.name)),
    ("of 100 MB", lambda p: p.write_bytes(b" " * (100 << 20))),
]


_COMMANDS: list[tuple[str, Callable[[str], list[str]]]] = [
    ("finding", lambda x: ["unlearn", "--scan", x, *_CURE, "--out", "out"]),
    ("null", _scan),
    ("recipe", lambda x: ["bench", x, "--out", "out", "--dry-run"]),
    ("zoo recipe", lambda x: ["zoo", x, "--out", "out", "--dry-run"]),
    (
        "templates",
        lambda x: ["evaluate", "--model", "embedded", "--data", "embedded:digits", "--limit", "4", "--templates", x],
    ),
    ("class names", lambda x: ["info", "--data", "embedded:digits", "--classes", x]),
    ("spec of a trigger", lambda x: ["info", "--trigger", f"@{x}"]),
    ("options", lambda x: ["evaluate", "--config", x]),
]


def _set(key: str, value: Any) -> Callable[[list[Json]], object]:
    return lambda lines: lines[0].__setitem__(key, value)


ENTRIES = [
    *(_finding(name, place, value) for name, place, value in _FINDINGS),
    *(
        _without(key)
        for key in finding()
        if key
        in (
            "weights",
            "model_reference",
            "backdoored",
            "images",
            "false_alarm_rate",
            "target",
            "trigger",
            "inverters",
            "message",
        )
    ),
    *(_without(key) for key in ("target.name", "trigger.spec", "trigger.inverter")),
    _finding_text("deep", DEEP),
    _finding_text("of a huge number", '{"weights": ' + HUGE_NUMBER + "}"),
    _finding_text("cut", "{"),
    _finding_text("in a list", "[]"),
    _finding_text("null", "null"),
    _finding_text("in UTF-16", "{}".encode("utf-16")),
    _finding_text("of zeros", bytes(100)),
    _null("of another architecture", _set("architecture", "0")),
    _null("of inverters in a word", _set("inverters", "patch")),
    _null("of unknown inverters", _set("inverters", ["evil"] * 7)),
    _null("of an origin on a hub", _set("origin", {"reference": "hf-hub:evil-org/evil", "weights": "0"})),
    _null("of a tagged origin", _set("origin", {"reference": "ViT-B-32:openai", "weights": "0"})),
    _null("of an origin without weights", _set("origin", {"reference": "embedded"})),
    _null("of an origin of numbers", _set("origin", {"reference": 5, "weights": 5})),
    _null("of an origin in a word", _set("origin", "embedded")),
    _null("of an origin with more", _set("origin", {"reference": "embedded", "weights": "0", "evil": 1})),
    _null("of statistics in words", lambda lines: lines[1].update(statistics=[{"a": "x"}] * 7)),
    _null("of too few statistics", lambda lines: lines[1].update(statistics=[])),
    _null("of statistics in a word", lambda lines: lines[1].update(statistics="x")),
    _null("of empty statistics", lambda lines: lines[1].update(statistics=[{}] * 7)),
    _null("of huge statistics", lambda lines: lines[1].update(statistics=[{"a": 10**39}] * 7), (2, 4)),
    _null("of lines that are lists", lambda lines: lines.__setitem__(1, [])),
    _null("of no line", lambda lines: lines.clear()),
    _null("of a head alone", lambda lines: lines.__delitem__(slice(1, None)), (2, 4)),
    _null_text("deep", DEEP),
    _null_text("deep in a line", _NULL.read_text(encoding="utf-8").splitlines()[0] + "\n" + DEEP),
    _null_text("of not a number", '{"architecture": NaN}'),
    _null_text("of a huge number", '{"architecture": ' + HUGE_NUMBER + "}"),
    _null_text("of zeros", bytes(100)),
    *(_recipe(name, place, value) for name, place, value in _RECIPES),
    _recipe("with escapes in a target", "data.d.target", ESCAPES, (2,), dry=False),
    _recipe_text("deep", "a: " + "[" * 20_000),
    _recipe_text("deep in blocks", "\n".join(" " * i + "a:" for i in range(5000))),
    _recipe_text("of laughs", _ALIASES),
    _recipe_text("of merges", _MERGES),
    _recipe_text("within itself", "a: &a [*a]"),
    _recipe_text("of code", "!!python/object/apply:os.system ['touch MARKER']"),
    _recipe_text("of a huge number", "a: " + "9" * 10_000),
    _recipe_text("of dates", "a: 2020-99-99"),
    _recipe_text("of lists as keys", "? [a]\n: 1"),
    _recipe_text("cut", "a: {"),
    _recipe_text("in a list", "- a"),
    _recipe_text("null", ""),
    _recipe_text("in UTF-16", "a: 1".encode("utf-16")),
    _recipe_text("of zeros", bytes(100)),
    _zoo("of an unknown key", "evil: 1"),
    _zoo("in a list", "- a"),
    _zoo("deep", "a: " + "[" * 20_000),
    _zoo("of laughs", _ALIASES),
    *(_options(name, text) for name, text in _OPTIONS),
    *(_trigger(name, spec) for name, spec in _TRIGGERS),
    _trigger_file("of two lines", lambda p: p.write_text("badnets\nbadnets\n")),
    _trigger_file("of itself", lambda p: p.write_text("@t.txt")),
    _trigger_file("of nothing", lambda p: p.write_text("")),
    _trigger_file("of zeros", lambda p: p.write_bytes(bytes(100))),
    _trigger_file("of escapes", lambda p: p.write_text("badnets:" + ESCAPES)),
    *(_is(f"{what} is {name}", make_it, command) for what, command in _COMMANDS for name, make_it in _NAMES),
]
