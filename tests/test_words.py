"""The words of the house: names say what a value is (`rows`, `path`), and are spelled as Americans spell them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "unbackdoor"
PARTICIPLES = {"found", "told", "said", "seen", "shown"}
BRITISH = re.compile(
    "colour|defence|grey|centre|behaviour|favour|neighbour|labell|modell|licence|catalogue"
    "|(normal|optim|initial|factor|recogn|organ|random|serial|summar|general|minim|maxim)is(e|ing|ation)"
)

# Names that a format fixes: a trigger's spec, a recipe and a result's JSON name fields of dataclasses.
FIXED = {
    ("triggers/text.py", "colour"),
    ("bench/recipe.py", "defences"),
    ("verbs/results/grids.py", "found"),
    ("verbs/results/grids.py", "shown"),
    ("verbs/results/measures.py", "unlabelled"),
}

# Where a node of the tree holds a name.
HOLDERS = {
    ast.Name: "id", ast.arg: "arg", ast.keyword: "arg", ast.Attribute: "attr", ast.alias: "asname",
    ast.FunctionDef: "name", ast.AsyncFunctionDef: "name", ast.ClassDef: "name", ast.ExceptHandler: "name",
    ast.MatchAs: "name", ast.MatchStar: "name",
}  # fmt: skip


def names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that a file gives or uses, with its line: variables, parameters, attributes, functions, classes."""
    for node in ast.walk(tree):
        name = getattr(node, HOLDERS.get(type(node), ""), None)
        if name:
            yield name, node.lineno  # type: ignore[attr-defined]


def offends(name: str) -> bool:
    return bool(PARTICIPLES & set(name.lower().split("_"))) or BRITISH.search(name.lower()) is not None


def offences(file: str, text: str) -> list[str]:
    """`file:line name` of every name that is not to be, and the file's own name where that is one."""
    own = [file] if offends(Path(file).stem) else []
    return own + [
        f"{file}:{line} {name}" for name, line in names(ast.parse(text)) if offends(name) and (file, name) not in FIXED
    ]


def test_names_say_what_a_value_is() -> None:
    files = sorted(SOURCE.rglob("*.py"))
    assert [
        row for path in files for row in offences(path.relative_to(SOURCE).as_posix(), path.read_text(encoding="utf-8"))
    ] == []


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("found = 1", ["found"]),
        ("def f(seen): pass", ["seen"]),
        ("def told(): pass", ["told"]),
        ("class Seen: pass", ["Seen"]),
        ("x.last_shown = f(said=1)", ["last_shown", "said"]),
        ("for _found in x: pass", ["_found"]),
        ("import a as found", ["found"]),
        ("try:\n pass\nexcept E as said:\n pass", ["said"]),
        ("f'{found}'", ["found"]),
        ("COLOURS, defence, optimiser, labelled = x", ["COLOURS", "defence", "optimiser", "labelled"]),
        ("x['found'] = 'colour: found'  # said", []),
        ("foundation, unseen, colors, defense, optimizer, labeled = x", []),
    ],
)
def test_such_names_are_noticed(text: str, bad: list[str]) -> None:
    assert sorted(row.split()[1] for row in offences("a.py", text)) == sorted(bad)


def test_a_file_and_a_fixed_name_are_judged() -> None:
    assert offences("triggers/recolour.py", "") == ["triggers/recolour.py"]
    assert offences("triggers/text.py", "self.colour") == []
