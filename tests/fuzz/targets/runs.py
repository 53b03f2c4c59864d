"""What runs leave behind and people hand around: findings, nulls, recipes, results, journals, manifests, triggers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tests.fuzz.engine import Reader, Target
from tests.fuzz.mutate import mutate_json, mutate_lines, mutate_text, mutate_yaml
from tests.hostile.suite.runs import RECIPE, finding
from unbackdoor.base.errors import InputError

Json = dict[str, Any]


def _applied(trigger: Any) -> str:
    """A trigger, stamped on two small pictures."""
    found = trigger(torch.full((2, 3, 32, 32), 0.5), torch.arange(2))
    assert found.shape == (2, 3, 32, 32)
    return type(trigger).__name__


def _findings() -> list[bytes]:
    other = {"target": "four", "spec": "blended:ratio=0.2", "inverter": "colour", "p_value": 0.01}
    more = {**finding(), "origin": "embedded", "others": [other], "backdoored": None}
    more["inverters"] = [*more["inverters"], {"name": "colour"}]
    return [json.dumps(value).encode() for value in (finding(), more)]


def _finding(room: Path) -> Reader:
    from unbackdoor.scan.finding import read_finding

    path = room / "finding.json"

    def read(data: bytes) -> str:
        path.write_bytes(data)
        found, raw = read_finding(path)
        read_finding(raw)
        found.check_classes(("three", "four"), "here")
        return f"{found.backdoored} {[_applied(lead.trigger) for lead in found.leads][:3]}"

    return read


def _nulls() -> list[bytes]:
    from unbackdoor.scan.inverters import inverter_names

    names = list(inverter_names())[:2]
    lines: list[Json] = [{"architecture": "0" * 16, "settings": "0" * 16, "inverters": names}]
    lines += [{"model": f"m{i}", "statistics": [{"a": 1.0 + i, "b": 0.5}, {"a": 0.1, "c": 2.0}]} for i in range(4)]
    origin = {**lines[0], "origin": {"reference": "embedded", "weights": "0" * 64}}
    return ["\n".join(map(json.dumps, rows)).encode() for rows in (lines, [origin, *lines[1:]])]


def _null(room: Path) -> Reader:
    from unbackdoor.scan.detection import read_null, verdict, weigh

    path = room / "null.jsonl"

    def read(data: bytes) -> str:
        path.write_bytes(data)
        null = read_null(path)
        weighed = weigh({name: {"a": 3.0, "b": 1.0} for name in null.inverters}, null)
        p = weighed.p_value
        assert 0 < p <= 1, p
        return f"{verdict(p, 0.05, len(null.rows), 1.0)[0]} {null.origin is not None}"

    return read


def _recipes() -> list[bytes]:
    import yaml

    more = json.loads(json.dumps(RECIPE))
    more["data"]["p"] = {
        "source": "embedded:scenes",
        "target": "sun",
        "attacker": 64,
        "defender": 32,
        "validation": 8,
        "regime": "pairs",
        "poison": {"epochs": 2, "batch_size": 8, "lr": 1e-3, "templates": ["a {}", "the {}"]},
        "class_range": [0, 4],
        "triggers": {"a": "badnets:size=6"},
        "defences": {"tbar": {"samples": 4}},
        "test_limit": 9,
    }
    more["attacks"]["b"] = {"trigger": "blended:ratio=0.2", "target": "three", "rate": 0.1}
    more["defences"] |= {"tbar": {"samples": 8}, "again": {"method": "cleanclip", "tune": {"epochs": 1}}, "anp": {}}
    more |= {"models": {"e": "embedded"}, "seeds": [0, 1], "rebound": {"steps": 2}}
    return [yaml.safe_dump(value).encode() for value in (RECIPE, more)]


def _recipe(room: Path) -> Reader:
    from unbackdoor.base.manifest import run_key
    from unbackdoor.bench.recipe import cures, read_recipe, suspects

    path = room / "r.yaml"

    def read(data: bytes) -> str:
        path.write_bytes(data)
        grid = read_recipe(path, room)
        cells = suspects(grid, dict.fromkeys(grid.models, "0" * 64))
        for cell in cells[:8]:
            run_key(cell["config"])
            for cure in cures(grid, cell)[:20]:
                run_key(cure["config"])
        return f"{min(len(cells), 9)}"

    return read


def _zoos() -> list[bytes]:
    import yaml

    entry = {"source": "embedded:digits", "attacker": 32, "test_limit": 8, "poison": {"epochs": 1}}
    half = {
        "clean": 2,
        "backdoored": 2,
        "rates": [0.1, 0.3],
        "data": {"d": entry},
        "families": {"text": ["text", "text:word=Hi"]},
    }
    pairs = {"p": {**entry, "source": "embedded:scenes", "regime": "pairs", "class_range": [0, 4]}}
    other = {"clean": 1, "backdoored": 1, "data": pairs, "families": {"sig": ["sig"]}}
    zoo = {"model": "embedded", "images": 64, "seed": 1, "halves": {"calibration": half, "test": other}}
    return [yaml.safe_dump(zoo).encode()]


def _zoo(room: Path) -> Reader:
    from unbackdoor.base.manifest import run_key
    from unbackdoor.bench.zoo.recipe import members, read_zoo

    path = room / "z.yaml"

    def read(data: bytes) -> str:
        path.write_bytes(data)
        zoo = read_zoo(path, room)
        classes = {name: ("a", "b") for half in zoo.halves.values() for name in half.data}
        found = members(zoo, "0" * 64, classes)
        for member in found[:20]:
            run_key(member["config"])
        return f"{min(len(found), 9)}"

    return read


_SHARE = {"value": 0.5, "n": 10, "interval": [0.2, 0.8]}
_RATES = {"ca": _SHARE, "asr": _SHARE, "triggered_accuracy": {**_SHARE, "value": None}}


def _results() -> list[bytes]:
    inversion = {
        "target": "three", "statistic": 1.5, "strength": _SHARE, "trigger": "badnets:size=4",
        "facts": {"candidates": ["three"], "score": [0.5]},
    }  # fmt: skip
    cost = {"seconds": 1.0, "wall_seconds": 1.0, "peak_memory_mib": 10.0, "steps": 3, "images": 32}
    suspect = {
        "trigger": "badnets:size=4",
        "target": "three",
        "poisoned": 3,
        "lr": 0.1,
        "before": _RATES,
        "after": _RATES,
        **cost,
    }
    rows: list[Json] = [
        {"kind": "suspect", **suspect},
        {"kind": "member", **suspect, "weights": "0", "size": 3},
        {"kind": "cure", "before": _RATES, "after": _RATES, "retention": 1.0, "labels": 3, "rebound": [_RATES], **cost},
        {"kind": "inversion", **inversion},
        {"kind": "examination", "inverters": {"patch": inversion}},
        {"kind": "recovery", "before": _RATES, "after": _RATES, "retention": None, "target": "three", "alpha": 0.5},
    ]
    return [json.dumps(row).encode() for row in rows]


def _result(room: Path) -> Reader:
    """The kind stands in the input, and in a run beside it."""
    from unbackdoor.bench.results import KINDS
    from unbackdoor.bench.results import read as read_result

    path = room / "result.json"

    def read(data: bytes) -> str:
        path.write_bytes(data)
        kind = next((kind for kind in KINDS if f'"kind": "{kind}"'.encode() in data), "suspect")
        raw = read_result(path, kind)
        return f"{kind} {len(raw)}"

    return read


def _journals() -> list[bytes]:
    kept = {
        "inverter": "patch",
        "trigger": "badnets:size=4",
        "target": 1,
        "embedding": [0.1, 0.2],
        "norm": 0.1,
        "strength": [1, 2],
        "statistic": 1.0,
        "scores": [[0, 1.0], [1, 2.0]],
        "facts": {},
        "seconds": 1.0,
    }
    counts = {"alpha": 0.5, "ca": [1, 2], "asr": [0, 2], "triggered_accuracy": [1, 2]}
    return [
        "\n".join([json.dumps(kept), json.dumps({**kept, "inverter": "colour"}), '{"inverter": "ti']).encode(),
        "\n".join([json.dumps(counts), json.dumps({**counts, "alpha": 1})]).encode(),
    ]


def _journal(room: Path) -> Reader:
    from unbackdoor.base import journal
    from unbackdoor.scan.inverters.base import Kept
    from unbackdoor.unlearning.known import _Point

    path = room / "log.jsonl"

    def read(data: bytes) -> str:
        path.write_bytes(data)
        if b'"alpha"' in data:
            return f"points {[len(row.rates().as_dict()) for row in journal.read(path, _Point)][:3]}"
        return f"kept {[_applied(row.recovered().trigger) for row in journal.read(path, Kept)][:3]}"

    return read


def _manifests() -> list[bytes]:
    return [
        json.dumps({"verb": "poison", "run": "", "started": "2026-01-01T00:00:00", "settings": {"seed": 0}}).encode()
    ]


def _manifest(room: Path) -> Reader:
    from unbackdoor.base.manifest import Manifest
    from unbackdoor.runs.run import check_verb, claim

    (room / "out").mkdir()
    path = room / "out" / "manifest.json"

    def read(data: bytes) -> str:
        path.write_bytes(data)
        check_verb(room / "out", "poison")
        claim(Manifest("poison", {}), room / "out")
        return "claimed"

    return read


def _specs() -> list[bytes]:
    from unbackdoor.triggers import trigger_class, trigger_names

    specs = [
        trigger_class(name)().spec()
        for name in trigger_names()
        if name not in ("additive", "masked", "flow", "recolour", "mixed")
    ]
    return [spec.encode() for spec in specs] + [
        b"badnets:size=6,position=top-left,pattern=checker",
        b"text:word=Hi,colour=yellow",
    ]


def _trigger(room: Path) -> Reader:
    """A spec, and the same in a file."""
    from unbackdoor.triggers import parse_trigger

    path = room / "t.txt"

    def read(data: bytes) -> str:
        path.write_bytes(data)
        found = _applied(parse_trigger(f"@{path}"))
        trigger = parse_trigger(data.decode("utf-8-sig").strip())
        assert parse_trigger(trigger.spec()) == trigger
        return found

    return read


def _option_files() -> list[bytes]:
    return [
        b"model: embedded\ndata: embedded:digits\ntrigger: badnets:size=6\ntarget: three\nlimit: 40\n",
        b"model: embedded\ndata: embedded:digits\nretrieval: true\nseed: -3\nclasses: cifar10\n",
        b"model: hf-hub:evil-org/evil\ndata: embedded:digits\n",
    ]


def _options(room: Path) -> Reader:
    """A command's options in YAML."""
    import click

    from unbackdoor.cli.config import check_places
    from unbackdoor.cli.evaluate import command

    path = room / "options.yaml"

    def read(data: bytes) -> str:
        path.write_bytes(data)
        try:
            context = command.make_context("evaluate", ["--config", str(path)])
        except click.ClickException as error:
            raise InputError(error.format_message()) from None
        check_places(context)
        return f"options {sorted(k for k, v in context.params.items() if v is not None)}"

    return read


def _policies() -> list[bytes]:
    from unbackdoor.vetting.policy import DEFAULT

    return [DEFAULT.read_bytes(), b"cure: true\nminutes: 10\nfalse_alarm_rate: 0.01\n"]


def _policy(room: Path) -> Reader:
    from unbackdoor.vetting.policy import read_policy

    path = room / "policy.yaml"

    def read(data: bytes) -> str:
        path.write_bytes(data)
        policy = read_policy(path)
        assert 0 < policy.false_alarm_rate < 1 and 0 <= policy.accuracy_loss <= 100
        assert policy.minutes is None or policy.minutes > 0
        json.dumps(policy.as_dict(), allow_nan=False)
        return f"{policy.cannot_tell} {policy.unsafe_files} {policy.cure}"

    return read


def _viewed() -> list[bytes]:
    cure = {"verb": "unlearn", "model_reference": "m", "nothing_to_remove": False, "tolerance": 0.01, "trigger": "sig"}
    rows: list[Json] = [
        {**finding(), "backdoored": None},
        {**cure, "after": {"asr": 0.1}},
        {"verb": "unlearn-scan", "quiet": True, "rounds": [{"trigger": "sig"}], "model": "m"},
        {"verb": "vet", "models": [{"model": "a", "verdict": "clean"}, {"model": "b", "verdict": "cured"}]},
    ]
    return [*(json.dumps(row).encode() for row in rows), b"[]"]


def _view(room: Path) -> Reader:
    """A row of the index of `view`, and the page around it; a run that cannot be read is a row that says why."""
    from unbackdoor.view.pages import Filter, index_page
    from unbackdoor.view.rows import BROKEN, Runs

    (room / "manifest.json").write_text('{"verb": "x", "started": "2026-11-30T08:00:00Z"}', encoding="utf-8")

    def read(data: bytes) -> str:
        (room / "result.json").write_bytes(data)
        rows, whole = Runs(room).rows()
        assert len(rows) == 1 and whole
        page = index_page("runs", rows, Filter(), whole)
        assert len(page) < 10_000 and page.count("<tr>") == 2
        if rows[0].verdict == BROKEN:
            raise InputError(rows[0].problem)
        return rows[0].verdict

    return read


TARGETS = (
    Target("finding", mutate_json, _findings, _finding),
    Target("null", mutate_lines, _nulls, _null),
    Target("recipe", mutate_yaml, _recipes, _recipe),
    Target("zoo", mutate_yaml, _zoos, _zoo),
    Target("options", mutate_yaml, _option_files, _options),
    Target("result", mutate_json, _results, _result),
    Target("journal", mutate_lines, _journals, _journal),
    Target("manifest", mutate_json, _manifests, _manifest),
    Target("trigger", mutate_text, _specs, _trigger),
    Target("policy", mutate_yaml, _policies, _policy),
    Target("view", mutate_json, _viewed, _view),
)
