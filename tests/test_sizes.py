"""Bars on the size of a function, over the whole package: at most 7 parameters, at most 60 lines of body."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "unbackdoor"
PARAMETERS, LINES = 7, 60

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Every function of a tree with its dotted name, methods and inner ones too."""
    for child in ast.iter_child_nodes(node):
        named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, child
        yield from functions(child, f"{prefix}{child.name}." if named else prefix)  # type: ignore[attr-defined]


def parameters(function: Function) -> int:
    """How many a caller can give, starred ones included, `self` and `cls` not."""
    args = function.args
    names = [a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg) if a]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def lines(function: Function) -> int:
    """From the first statement behind the docstring to the last line."""
    body = function.body[ast.get_docstring(function) is not None :]
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def too_large(text: str) -> list[str]:
    return [
        name
        for name, function in functions(ast.parse(text))
        if parameters(function) > PARAMETERS or lines(function) > LINES
    ]


def test_every_function_is_small() -> None:
    larger = {
        f"{path.relative_to(SOURCE).as_posix()}: {name}"
        for path in SOURCE.rglob("*.py")
        for name in too_large(path.read_text(encoding="utf-8"))
    }
    assert larger == set(), "split it, or pass one value that holds what belongs together"


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("def f(a, b, c, d, e, f, g): pass", []),
        ("def f(a, b, c, d, e, f, g, h): pass", ["f"]),
        ("def f(a, b, /, c, d, *, e, f, g, h): pass", ["f"]),
        ("def f(a, b, c, d, e, f, *g, **h): pass", ["f"]),
        ("class A:\n def f(self, a, b, c, d, e, f, g): pass", []),
        ("class A:\n def f(self, a, b, c, d, e, f, g, h): pass", ["A.f"]),
        ("def f():\n def g(a, b, c, d, e, f, g, h): pass", ["f.g"]),
        ("if x:\n async def f(a, b, c, d, e, f, g, h): pass", ["f"]),
        ("def f():\n" + " x = 1\n" * 60, []),
        ("def f():\n" + " x = 1\n" * 61, ["f"]),
        ("def f():\n '''\n" + " word\n" * 80 + " '''\n" + " x = 1\n" * 60, []),
        ("def f():\n x = 1\n" + "\n" * 58 + " y = 1\n", []),
        ("def f():\n x = 1\n" + "\n" * 59 + " y = 1\n", ["f"]),
    ],
)
def test_what_is_too_large_is_seen(text: str, bad: list[str]) -> None:
    assert too_large(text) == bad
