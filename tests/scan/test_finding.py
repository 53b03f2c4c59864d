"""A finding is read back in one place: what is used of it is there, of its type and size, and known here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unbackdoor import InputError, unlearn_scan
from unbackdoor.runs.case import open_referred
from unbackdoor.scan.finding import read_finding


def finding() -> dict[str, Any]:
    nothing = {"value": None, "n": 0, "interval": [0, 1]}
    return {
        "weights": "0a", "model_reference": "embedded", "backdoored": True, "message": "m", "images": 64,
        "false_alarm_rate": 0.05, "target": {"name": "three", "confidence": 1.0}, "origin": None, "p_value": 0.01,
        "trigger": {"spec": "badnets:size=4", "inverter": "patch", "strength": nothing},
        "inverters": [{"name": "patch"}, {"name": "warp"}],
        "others": [{"target": "one", "spec": "blended", "inverter": "warp", "p_value": 0.02}],
    }  # fmt: skip


def test_a_sound_finding_is_read_from_a_file_a_folder_and_memory(tmp_path: Path) -> None:
    (tmp_path / "finding.json").write_text(json.dumps(finding()))
    for given in (tmp_path, tmp_path / "finding.json", str(tmp_path), finding()):
        found, raw = read_finding(given)
        assert raw == finding() and [lead.target for lead in found.leads] == ["three", "one"]
        assert found.leads[0].trigger.spec().startswith("badnets:size=4")
    old = {k: v for k, v in finding().items() if k not in ("others", "origin")}
    assert read_finding(old)[0].leads[1:] == ()


def put(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


def drop(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return change


BAD = [
    *((drop(key), key) for key in finding() if key not in ("others", "origin", "p_value")),
    *((drop("trigger", key), key) for key in ("spec", "inverter", "strength")),
    (drop("target", "name"), "name"),
    (put("weights", value=["0"]), "weights"),
    (put("backdoored", value="yes"), "backdoored"),
    (put("backdoored", value=1), "backdoored"),
    (put("images", value=0), "images"),
    (put("images", value=10**9), "images"),
    (put("images", value=1.5), "images"),
    (put("false_alarm_rate", value=2), "false_alarm_rate"),
    (put("false_alarm_rate", value=float("nan")), "not what scan returned"),
    (put("target", value="three"), "target"),
    (put("trigger", "spec", value="evil"), "unknown trigger"),
    (put("trigger", "spec", value="badnets:size=1000000000"), "no number from"),
    (put("trigger", "spec", value="@../canary"), "unknown trigger"),
    (put("trigger", "inverter", value="os"), "unknown inverter 'os'"),
    (put("trigger", "strength", "value", value="strong"), "strength"),
    (put("inverters", value=[]), "names no inverter"),
    (put("inverters", value=[{"name": "patch"}] * 2), "twice"),
    (put("inverters", value="patch"), "inverters"),
    (put("others", value=[{"target": "one"}]), "others"),
    (put("others", value=[{"target": "one", "spec": "evil", "inverter": "patch"}]), "unknown trigger"),
    (put("origin", value=5), "origin"),
    (put("clean_scores", value=["high"]), "clean_scores"),
    (put("clean_scores", value=[0.5, 1.0]), "clean_scores: 2 scores of"),
    (put("score", value=float("inf")), "not what scan returned"),
    (put("message", value="\x1b]0;pwned\x07"), "message: holds characters that cannot be shown"),
    (put("model_reference", value=Path("x")), "not what scan returned"),
]


@pytest.mark.parametrize(("change", "part"), BAD)
def test_what_is_no_finding_is_told_in_one_line(change: Any, part: str, tmp_path: Path) -> None:
    content = finding()
    change(content)
    with pytest.raises(InputError, match=part) as caught:
        read_finding(content)
    assert "\n" not in str(caught.value)


def test_a_score_beyond_all_numbers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "finding.json"
    path.write_text(json.dumps({**finding(), "score": 12.5}).replace("12.5", "1e999"))
    with pytest.raises(InputError):
        read_finding(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"weights": ' + "9" * 9000 + "}", "\0"])
def test_files_that_are_no_findings(text: str, tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(InputError, match=r"give the finding\.json"):
        read_finding(tmp_path / "f.json")


@pytest.mark.parametrize(
    "reference",
    ["hf-hub:evil/evil", "evil/evil", "ViT-B-32:openai", "ViT-B-32", "hf:x", "https://evil",
     "adapter:x@hf-hub:evil/evil", "adapter:x@evil/evil", "local-dir:none", "/dev/none", "", "a\0b", "x" * 9000],
)  # fmt: skip
def test_references_of_files_stay_on_this_machine(reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*_: object, **__: object) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr("unbackdoor.runs.case.load", reached)
    if not reference:  # refused by `load` itself
        monkeypatch.undo()
    with pytest.raises(InputError):
        open_referred(reference, "the finding", "name it with --model")


def test_a_cure_says_which_class_it_does_not_know(tmp_path: Path) -> None:
    from unbackdoor import info

    content = {**finding(), "weights": info(model="embedded")["weights_hash"], "others": []}
    content["target"]["name"] = "evil"
    with pytest.raises(InputError, match="target 'evil' is no class"):
        unlearn_scan(finding=content, data="embedded:digits", out=tmp_path / "out", test_limit=8)
    assert not (tmp_path / "out").exists()
