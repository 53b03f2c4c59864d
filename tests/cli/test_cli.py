"""The command line: help, one line and code 2 for bad input, one JSON object on stdout."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from unbackdoor.cli import main as cli
from unbackdoor.weights.files import read_tensors, write_tensors

DIGITS = ["--data", "embedded:digits"]
ATTACK = [*DIGITS, "--trigger", "badnets:size=6", "--target", "three"]


def call(*args: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.run(list(args))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_loads_nothing_heavy() -> None:
    probe = (
        "import sys\nfrom unbackdoor.cli.main import run\nassert run(['--help']) == 0\n"
        "heavy = {'torch', 'open_clip', 'transformers', 'numpy', 'pyarrow', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for name in ("craft", "demo", "evaluate", "info", "poison", "scan", "unlearn", "vector", "zoo"):
        assert name in done.stdout


@pytest.mark.parametrize("name", ["craft", "demo", "evaluate", "info", "poison", "scan", "unlearn", "vector", "zoo"])
def test_every_command_has_help_and_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(name, "--help", capsys=capsys)
    assert code == 0 and "--json" in out


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["nosuch"], "No such command"),
        (["evaluate"], "Missing option"),
        (["evaluate", "--model", "/does/not/exist", *DIGITS], "no such model folder"),
        (["evaluate", "--model", "{vit}", "--data", "folder:/does/not/exist"], "no such folder"),
        (["evaluate", "--model", "{vit}", *DIGITS, "--trigger", "blended"], "give both or neither"),
        (["evaluate", "--model", "{vit}", *DIGITS, "--trigger", "blended", "--target", "cow"], "target 'cow'"),
        (["evaluate", "--model", "{corrupt}", *DIGITS], "not a sound safetensors"),
        (["evaluate", "--model", "{nan}", *DIGITS], "NaN"),
        (["evaluate", "--model", "{vit}", *DIGITS, "--device", "abacus"], "device 'abacus'"),
        (["evaluate", "--model", "{vit}", *DIGITS, "--templates", "/none"], "neither a file nor a known list"),
        (["evaluate", "--model", "{vit}", "--data", "folder:{empty}"], "no images"),
        (["evaluate", "--model", "ViT-B-32", "--checkpoint", "{weights}", *DIGITS], "do not fit the architecture"),
        (["evaluate", "--model", "ViT-B-32", "--pretrained", "x", "--checkpoint", "{weights}", *DIGITS], "the tag 'x'"),
        (
            ["info", "--model", "{vit}", "--pretrained", "openai"],
            "leave --pretrained openai out",
        ),
        (["info", "--pretrained", "openai"], "--pretrained TAG needs --model"),
        (["info", "--model", "openai/clip-vit-base-patch32"], "write hf-hub:openai/clip-vit-base-patch32"),
        (["poison", "--model", "{vit}", *ATTACK, "--out", "{out}", "--poison-rate", "2"], "--poison-rate"),
        (["poison", "--model", "{vit}", *ATTACK, "--out", "{file}"], "output folder"),
        (["unlearn", "--model", "{vit}", *ATTACK, "--out", "{out}", "--alpha-grid", ","], "α grid is empty"),
        (["unlearn", "--model", "{vit}", *ATTACK, "--out", "{out}", "--alpha", "much"], "neither auto nor a number"),
        (["unlearn", "--model", "{vit}", *ATTACK, "--out", "{out}", "--vector", "{file}"], "not a sound"),
        (["vector", "--model", "{vit}", *DIGITS, "--trigger", "x", "--target", "one", "--out", "{out}"], "unknown"),
        (["craft", "--model", "{vit}", *ATTACK, "--out", "{out}"], "only badclip does"),
        (["evaluate", "--model", "{vit}", *DIGITS, "--trigger", "badclip", "--target", "one"], "not crafted yet"),
        (["info"], "exactly one"),
        (["info", "--trigger", "@/does/not/exist"], "No such file"),
        (["info", "--trigger", "badnets:size=zero"], "not a int"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    args: list[str], part: str, vit_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    places = {"vit": vit_folder, "out": tmp_path / "out", "file": tmp_path / "file", "empty": tmp_path / "empty"}
    places["file"].write_text("a file")
    places["empty"].mkdir()
    for kind in ("corrupt", "nan"):
        places[kind] = shutil.copytree(vit_folder, tmp_path / kind)
    places["weights"] = vit_folder / "open_clip_model.safetensors"
    weights = tmp_path / "corrupt" / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    state, metadata = read_tensors(places["weights"])
    state["logit_scale"].fill_(float("nan"))
    write_tensors(tmp_path / "nan" / "open_clip_model.safetensors", state, metadata)
    code, out, err = call(*(a.format(**places) for a in args), capsys=capsys)
    assert code == 2, err
    assert out == "" and part in err
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in err


def test_internal_errors_end_in_code_3(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import unbackdoor.verbs.info as verb

    def broken(**_: object) -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr(verb, "info", broken)
    code, out, err = call("info", "--trigger", "blended", capsys=capsys)
    assert code == 3 and out == "" and "internal error" in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("args", "keys"),
    [
        (["info", "--trigger", "wanet"], {"trigger", "parameters"}),
        (["info", "--data", "embedded:scenes"], {"splits", "classes", "counts"}),
        (["info", "--model", "{vit}"], {"architecture", "parameters", "weights_hash"}),
        (["evaluate", "--model", "{vit}", *DIGITS, "--limit", "20"], {"ca", "hashes"}),
        (["evaluate", "--model", "{vit}", *ATTACK, "--limit", "20"], {"ca", "asr", "triggered_accuracy"}),
    ],
)
def test_json_is_one_object_and_nothing_else(
    args: list[str], keys: set[str], vit_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = call(*(a.format(vit=vit_folder) for a in args), "--json", capsys=capsys)
    assert code == 0
    found = json.loads(out)
    assert keys <= set(found)
    for rate in keys & {"ca", "asr", "triggered_accuracy"}:
        assert set(found[rate]) == {"value", "n", "interval"}


def test_people_read_rates_with_intervals(vit_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call("evaluate", "--model", str(vit_folder), *ATTACK, "--limit", "30", capsys=capsys)
    assert code == 0 and "n=30" in out and "[" in out and "attack success" in out
