"""`--config FILE`: options from YAML, checked as typed ones are, and the file that repeats a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from unbackdoor.cli.main import run

EVALUATE = {"data": "embedded:digits", "trigger": "badnets:size=6", "target": "three", "limit": 40}


def call(args: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], str]:
    code = run([*args, "--json"])
    shown = capsys.readouterr()
    return code, json.loads(shown.out), shown.err


def written(folder: Path, values: Any) -> str:
    path = folder / "options.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return str(path)


def test_a_file_says_what_could_be_typed(vit_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = [word for key, value in EVALUATE.items() for word in (f"--{key}", str(value))]
    _, expected, _ = call(["evaluate", "--model", str(vit_folder), *typed], capsys)
    file = written(tmp_path, {"model": str(vit_folder), **EVALUATE})
    code, found, _ = call(["evaluate", "--config", file], capsys)
    assert code == 0 and found["asr"] == expected["asr"] and found["ca"] == expected["ca"]
    _, fewer, _ = call(["evaluate", "--config", file, "--limit", "20"], capsys)
    assert fewer["ca"]["n"] == 20 != found["ca"]["n"], "what is typed goes first"


def test_a_run_leaves_the_file_that_repeats_it(
    vit_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", "embedded:digits", "--trigger", "badnets:size=6", "--target", "three"]
    short = ["--limit", "60", "--test-limit", "20", "--epochs", "1", "--batch-size", "16", "--clean-label"]
    first = ["poison", "--model", str(vit_folder), *data, *short, "--poison-rate", "0.05", "--seed", "3"]
    assert call([*first, "--out", str(tmp_path / "one")], capsys)[0] == 0
    kept = yaml.safe_load((tmp_path / "one" / "config.yaml").read_text())
    assert kept["seed"] == 3 and kept["clean-label"] is True and kept["trigger"] == "badnets:size=6"
    assert "out" not in kept and "regime" not in kept, "neither the place nor what was left as it is"
    again = ["poison", "--config", str(tmp_path / "one" / "config.yaml"), "--out", str(tmp_path / "two")]
    assert call(again, capsys)[0] == 0
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("one", "two")]
    assert manifests[0]["hashes"] == manifests[1]["hashes"] and manifests[0]["run"] == manifests[1]["run"]
    assert yaml.safe_load((tmp_path / "two" / "config.yaml").read_text()) == kept
    vector = ["vector", "--model", str(tmp_path / "one"), *data, "--samples", "16", "--epochs", "1", "--method", "tbar"]
    assert call([*vector, "--out", str(tmp_path / "v.safetensors")], capsys)[0] == 0
    assert yaml.safe_load((tmp_path / "v.safetensors.config.yaml").read_text())["samples"] == 16


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"colour": "red"}, "the option 'colour' is none; there are model, "),
        ({"online": True}, "'online' is for the command line alone"),
        ({"allow-outside": True}, "'allow-outside' is for the command line alone"),
        ({"json": True}, "'json' is for the command line alone"),
        ({"seed": "many"}, "'many' is not a valid integer"),
        ({"seed": {"a": 1}}, "seed: holds something else than a text or a number"),
        ({"model": ["a", "b"]}, "model: holds something else than a text or a number"),
        ({"limit": 0}, "limit"),
        ({"model": "hf-hub:evil/evil"}, "give it on the command line"),
        ({"model": "ViT-B-32:openai"}, "give it on the command line"),
        ({"model": "evil/evil"}, "give it on the command line"),
        ({"model": "//host/share"}, "give it on the command line"),
        ({"model": "embedded", "data": "hf:evil/evil"}, "data lies on the network; give it on the command line"),
        ({"model": "embedded", "retrieval": "yes please"}, "retrieval: is true or false"),
        (["model"], "holds no options"),
        ({1: 2}, "holds no options"),
        ("a: [", "cannot be read as YAML"),
        ("a: " + "[" * 9000, "nested deeper"),
        ("a: &a [*a]", "nodes once its aliases"),
        ("", "holds no options"),
    ],
)
def test_a_file_that_is_refused(values: Any, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if isinstance(values, dict):
        values = {"model": "embedded", "data": "embedded:digits", **values}
    code, found, err = call(["evaluate", "--config", written(tmp_path, values)], capsys)
    assert code == found["code"] == 2 and part in found["error"], found
    assert err.count("\n") == 1 and all(c.isprintable() for c in err.strip())


def test_no_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (tmp_path / "none.yaml", tmp_path, Path("/dev/zero")):
        code, found, _ = call(["evaluate", "--config", str(place)], capsys)
        assert code == 2 and str(place) in found["error"]


def test_what_a_file_says_counts_as_given(vit_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {"model": str(vit_folder), "data": "embedded:digits", "trigger": "badnets", "target": "three", "rounds": 2}
    file = written(tmp_path, values)
    code, found, _ = call(["unlearn", "--config", file, "--out", str(tmp_path / "out")], capsys)
    assert code == 2 and "--rounds does nothing without --scan" in found["error"]
