"""Options are made of settings: one table of fields, and three doors that let the same values through."""

from __future__ import annotations

import ast
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from unbackdoor.base.errors import InputError
from unbackdoor.cli import main as cli
from unbackdoor.cli.config import TYPED
from unbackdoor.cli.options import SWITCHES
from unbackdoor.runs.parameters import Parameters
from unbackdoor.runs.settings import Setting, built, changed
from unbackdoor.unlearning.alpha import BLIND, AlphaConfig
from unbackdoor.verbs.configs import (
    evaluate,
    geometry,
    grids,
    models,
    planting,
    push,
    scan,
    unlearn,
    vector,
    vet,
    view,
    weights,
)

TAKES: dict[str, list[Parameters[Any]]] = {
    "bench": [grids.BENCH],
    "convert": [models.CONVERT],
    "craft": [planting.CRAFT],
    "demo": [models.DEMO],
    "disentangle": [geometry.DISENTANGLE],
    "evaluate": [evaluate.EVALUATE],
    "info": [models.INFO],
    "locate": [geometry.LOCATE],
    "poison": [planting.POISON],
    "push": [push.PUSH],
    "scan": [scan.SCAN, scan.CALIBRATE],
    "unlearn": [unlearn.UNLEARN, unlearn.UNLEARN_SCAN],
    "vector": [vector.VECTOR],
    "vet": [vet.VET],
    "view": [view.VIEW],
    "weights apply": [weights.APPLY],
    "weights combine": [weights.COMBINE],
    "weights convert": [weights.CHECKPOINT],
    "weights diff": [weights.DIFF],
    "weights inspect": [weights.INSPECT],
    "weights lora": [weights.LORA],
    "zoo": [grids.ZOO],
}


def command_named(name: str) -> click.Command:
    first, *rest = name.split()
    found = cli.COMMANDS.get(first)
    return found.commands[rest[0]] if rest and isinstance(found, click.Group) else found


def rows() -> list[tuple[str, Parameters[Any], Setting]]:
    """Every setting of every verb that its command offers."""
    found = []
    for name, several in TAKES.items():
        offered = {param.name for param in command_named(name).params}
        for takes in several:
            found += [(name, takes, known) for known in takes.settings().values() if known.name in offered]
    return found


ROWS = rows()
IDS = [f"{name}-{known.name}{'' if takes is TAKES[name][0] else '-other'}" for name, takes, known in ROWS]


def good(known: Setting) -> Any:
    """A value that the setting may have, and not its default."""
    option = known.option
    assert option is not None
    if known.kind is bool:
        return True
    if option.choices:
        return option.choices[-1]
    if option.parse is not None:
        return "2" if known.kind is str else "0.5,2"
    if known.kind is float:
        return 0.25
    if known.kind is int:
        return 11 if math.isinf(option.low) or option.low < 11 else int(option.low)
    return "some/text"


def bad(known: Setting) -> Any:
    """A value that it may not have; None where every text is one."""
    option = known.option
    assert option is not None
    if known.kind is bool:
        return "yes please"
    if option.choices:
        return "no such"
    if option.parse is not None:
        return "a,b"
    if known.kind in (int, float):
        return option.low - 1 if math.isfinite(option.low) else "much"
    return None


def words(name: str, takes: Parameters[Any], known: Setting, value: Any) -> list[str]:
    """The command line with one setting written, and all else that has to be."""
    given = []
    for param in command_named(name).params:
        wanted = param.required or param.name == known.name
        if not wanted:
            continue
        other = next((s for s in takes.settings().values() if s.name == param.name), None)
        text = str(value if param.name == known.name else good(other) if other is not None else "some/text")
        if isinstance(param, click.Argument):
            given.append(text)
        elif param.is_flag and value is True:
            given.append(param.opts[0])
        else:
            given.append(f"{param.opts[0]}={text}")
    return given


def typed(name: str, args: list[str]) -> dict[str, Any]:
    above = click.Context(cli.cli, **cli.cli.context_settings)
    return command_named(name).make_context(name, args, parent=above).params


def from_file(name: str, takes: Parameters[Any], known: Setting, value: Any, folder: Path) -> dict[str, Any]:
    """The same with the setting in a file."""
    option = next(p for p in command_named(name).params if p.name == known.name)
    key = option.opts[0].removeprefix("--")
    path = folder / "options.yaml"
    path.write_text(yaml.safe_dump({key: value}))
    rest = [word for word in words(name, takes, known, "x") if word.partition("=")[0] not in option.opts]
    return typed(name, ["--config", str(path), *rest])


def by_keyword(takes: Parameters[Any], known: Setting, value: Any) -> Any:
    needed = {name: [good(s)] if s.many else good(s) for name, s in takes.settings().items() if name in takes.needs}
    return takes.values("verb", {**needed, known.name: value})[known.name]


def in_files(name: str, known: Setting) -> bool:
    """Whether a file may say it: not of `weights`, and not what reaches further."""
    return " " not in name and known.name.replace("_", "-") not in TYPED


@pytest.mark.parametrize(("name", "takes", "known"), ROWS, ids=IDS)
def test_a_good_value_arrives_through_every_door(
    name: str, takes: Parameters[Any], known: Setting, tmp_path: Path
) -> None:
    value = good(known)
    expected = by_keyword(takes, known, [value] if known.many else value)
    arrived = [typed(name, words(name, takes, known, value))[known.name]]
    if in_files(name, known) and not (known.option and known.option.argument):
        arrived.append(from_file(name, takes, known, value, tmp_path)[known.name])
    for found in arrived:
        if known.many:
            assert [type(v)(v) for v in found] == [known.kind(v) for v in expected]
        else:
            assert found == (known.kind(expected) if known.kind is Path else expected)


@pytest.mark.parametrize(
    ("name", "takes", "known"),
    [row for row in ROWS if bad(row[2]) is not None],
    ids=[key for key, row in zip(IDS, ROWS, strict=True) if bad(row[2]) is not None],
)
def test_a_bad_value_passes_no_door(name: str, takes: Parameters[Any], known: Setting, tmp_path: Path) -> None:
    value = bad(known)
    with pytest.raises(InputError):
        by_keyword(takes, known, [value] if known.many else value)
    with pytest.raises((click.UsageError, InputError)):
        typed(name, words(name, takes, known, value))
    if in_files(name, known):
        with pytest.raises((click.UsageError, InputError)):
            from_file(name, takes, known, value, tmp_path)


@pytest.mark.parametrize(("name", "takes", "known"), ROWS, ids=IDS)
def test_another_type_passes_no_door(name: str, takes: Parameters[Any], known: Setting, tmp_path: Path) -> None:
    value = {"a": [1]}
    if known.name != "finding" and "InMemory" not in str(known.hint):  # what is in memory may be a mapping
        with pytest.raises(InputError):
            by_keyword(takes, known, value)
    if in_files(name, known) and not (known.option and known.option.argument):
        with pytest.raises(InputError):
            from_file(name, takes, known, value, tmp_path)


def test_every_command_is_in_the_table_and_every_option_in_a_verb() -> None:
    assert {name.split()[0] for name in TAKES} == set(cli.COMMANDS.names())
    for name, several in TAKES.items():
        known = {s for takes in several for s in takes.settings()}
        switches = {"as_json", "debug", "config", *(s.replace("-", "_") for s in SWITCHES)}
        assert {str(param.name) for param in command_named(name).params} - switches <= known, name


def test_settings_of_a_dataclass_within_are_named_by_themselves() -> None:
    given = {"model": "m", "data": "d", "trigger": "t", "target": "c", "out": "o"}
    values = unlearn.UNLEARN.values("unlearn", {**given, "tolerance": 0.1, "alpha_grid": "1,2"})
    config = built(unlearn.UnlearnConfig, values)
    assert config.alpha_config == AlphaConfig(tolerance=0.1, grid=(1.0, 2.0)) and config.method == "lora"
    own = AlphaConfig(reserve=2.0)
    values = unlearn.UNLEARN.values("unlearn", {**given, "floor": 0.5, "alpha_config": own})
    assert built(unlearn.UnlearnConfig, values).alpha_config == replace(own, floor=0.5)
    blind = unlearn.UNLEARN_SCAN.values("unlearn_scan", {"finding": "f", "data": "d", "out": "o", "tolerance": 0.1})
    config_blind = built(unlearn.UnlearnScanConfig, blind)
    assert config_blind.alpha_config == replace(BLIND, tolerance=0.1) and config_blind.method == "distilled"


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"tolerance": 2}, "tolerance 2 is not a number in [0, 1)"),
        ({"tolerance": True}, "it, tolerance: Expected float, got bool"),
        ({"floor": "0.5"}, "it, floor: Expected float, got str"),
        ({"floor": math.nan}, "floor nan is not a number in (0, 1]"),
        ({"grid": "0.5,1"}, "it, grid: Expected array"),
        ({"gird": [1]}, "no setting 'gird'; it has first, floor, grid"),
    ],
)
def test_a_recipe_s_settings_are_checked_by_the_same_fields(settings: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError) as error:
        changed("it", AlphaConfig(), settings)
    assert part in str(error.value)


def test_a_recipe_s_good_settings_arrive() -> None:
    assert changed("it", BLIND, {"floor": 0.5, "grid": [1, 2.5]}) == replace(BLIND, floor=0.5, grid=(1, 2.5))


# Written by hand: what says something to the command line itself, and is no setting of a verb.
BY_HAND = {"pretrained", "show-policy", "allow-outside", "calibrate", "json", "debug"}


def by_hand(text: str) -> list[str]:
    """Calls that make an option or an argument."""
    names = {"click.option", "click.argument", "click.Option", "click.Argument"}
    nodes = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call | ast.Attribute)]
    return [ast.unparse(n) for n in nodes if isinstance(n, ast.Attribute) and ast.unparse(n) in names]


def test_no_option_is_written_by_hand() -> None:
    assert set(SWITCHES) == BY_HAND
    folder = Path(cli.__file__).parent
    # `parameter` makes all of them, `_switch` those above, and `config_option` the one that reads a file.
    makers = {"generate.py", "options.py", "config.py"}
    found = {
        p.name for p in folder.glob("*.py") if {"click.Option", "click.option"} & set(by_hand(p.read_text("utf-8")))
    }
    odd = {
        p.name: calls for p in folder.glob("*.py") if p.name not in makers and (calls := by_hand(p.read_text("utf-8")))
    }
    assert odd == {} and found <= makers
    assert by_hand("import click\n@click.option('--x')\ndef f(): ...") == ["click.option"]


def test_what_settings_name_is_what_the_code_knows() -> None:
    from unbackdoor.base.draws import LARGEST_SEED
    from unbackdoor.bench.engine import ENGINES
    from unbackdoor.runs import fields
    from unbackdoor.scan.examine import HELD, SEARCHED
    from unbackdoor.unlearning.unknown import METHOD
    from unbackdoor.unlearning.vector import METHODS
    from unbackdoor.verbs.weights import DTYPES

    assert tuple(METHODS) == vector.METHODS and tuple(DTYPES) == weights.TYPES
    assert set(grids.BENCH.settings()["engine"].option.choices) == set(ENGINES)  # type: ignore[union-attr]
    assert scan.IMAGES == SEARCHED + HELD and fields.LARGEST_SEED == LARGEST_SEED
    assert unlearn.UNLEARN_SCAN.settings()["method"].default == METHOD


PROBE = """
import json, sys
for name in ("torch", "numpy", "msgspec"):
    sys.modules[name] = None
from unbackdoor.cli.main import run
for words in json.loads(sys.argv[1]):
    assert run([*words, "--help"]) == 0, words
"""


def test_help_of_every_command_needs_nothing_heavy() -> None:
    names = [name.split() for name in TAKES]
    done = subprocess.run([sys.executable, "-c", PROBE, json.dumps(names)], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
