"""What values look like at the prompt and in a notebook: short, escaped, without their numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unbackdoor import load, load_images
from unbackdoor.base import notebook
from unbackdoor.data.images import ImageSet
from unbackdoor.runs.result import numbers
from unbackdoor.verbs.results import ConvertResult, EvaluateResult, TriggerInfo

EVIL = "<script>x</script>\x1b[31m\n"
RATE = {"value": 0.5, "n": 4, "interval": [0.15, 0.85]}


def evaluated() -> EvaluateResult:
    return EvaluateResult.read(
        {
            "verb": "evaluate",
            "model": EVIL,
            "data": "d" * 500,
            "trigger": None,
            "target": None,
            "counting": "exclude",
            "ca": RATE,
            "skipped": 0,
            "hashes": {"weights": "abc"},
            "seconds": 1.23456,
        }
    )


VALUES: dict[str, Any] = {
    "clip": lambda: load("embedded"),
    "images": lambda: load_images("embedded:digits", side=32, split="test", limit=20),
    "hostile images": lambda: ImageSet(
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([-1, 0]), ("a",), spec=EVIL
    ),
    "result": evaluated,
    "large result": lambda: TriggerInfo(
        trigger="t", name="n", about="a", parameters={f"key{i}": "v" * 500 for i in range(500)}
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_every_value_is_short_and_escaped(name: str) -> None:
    value = VALUES[name]()
    text, html = repr(value), value._repr_html_()
    assert len(text) < 900 and "\n" not in text and text.isprintable() and "tensor(" not in text
    assert text.startswith(type(value).__name__ + "(")
    assert len(html) < 10_000 and html.startswith("<table>") and html.endswith("</table>")
    assert "<script" not in html and "\x1b" not in html and "tensor(" not in html


def test_what_they_say() -> None:
    clip, images = VALUES["clip"](), VALUES["images"]()
    assert "reference=embedded" in repr(clip) and "image_size=64" in repr(clip) and "M, " in repr(clip)
    assert repr(images).endswith("images=20, side=32, labeled=20, classes=10, captioned=20)")
    bare = ImageSet(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.tensor([-1]))
    assert repr(bare) == "ImageSet(spec=in memory, images=1, side=8)"
    assert "50.0% [15.0, 85.0] n=4" in evaluated()._repr_html_()
    assert "skipped=0" in repr(evaluated()) and "ca=" not in repr(evaluated()) and "trigger=" not in repr(evaluated())
    assert "seconds=1.235" in repr(evaluated())


def test_a_long_table_is_cut() -> None:
    assert "and 464 more" in VALUES["large result"]()._repr_html_()


def test_a_result_is_still_what_it_was() -> None:
    """Its own words leave equality, reading and JSON alone."""
    result = evaluated()
    assert EvaluateResult.read(dict(result)) == result and ConvertResult.__repr__ is EvaluateResult.__repr__


@pytest.mark.parametrize(
    ("form", "flat"),
    [
        ({"a": 1, "b": "x", "c": True, "d": None, "e": [1]}, {"a": 1}),
        ({"ca": RATE, "none": {**RATE, "value": None}}, {"ca": 0.5}),
        ({"after": {"asr": 0.1, "n": {"asr": 3}}}, {"after.asr": 0.1, "after.n.asr": 3}),
    ],
)
def test_numbers_of_a_result(form: dict[str, Any], flat: dict[str, Any]) -> None:
    assert numbers(form) == flat


@pytest.mark.parametrize(
    ("shell", "answer"), [("ZMQInteractiveShell", True), ("TerminalInteractiveShell", False), ("NoneType", False)]
)
def test_a_notebook_is_known(shell: str, answer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = None if shell == "NoneType" else type(shell, (), {})()
    monkeypatch.setitem(notebook.sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: prompt))  # type: ignore[arg-type]
    assert notebook.in_notebook() is answer


def test_without_ipython_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(notebook.sys.modules, "IPython", raising=False)
    assert notebook.in_notebook() is False
