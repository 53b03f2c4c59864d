"""`vet` on tiny models: its verdicts, files and exit codes, one model and many, by both engines, killed and resumed."""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.scan.toy import toy_clip, toy_images
from tests.verbs.test_scan import template, toy_null
from unbackdoor import load, scan, vet
from unbackdoor.base.errors import InputError, Interrupted
from unbackdoor.base.progress import Step, on_progress
from unbackdoor.cli import main as cli
from unbackdoor.formats import FORMATS
from unbackdoor.metrics.rates import Rate
from unbackdoor.runs.result import Share
from unbackdoor.verbs.results import BlindCureResult
from unbackdoor.verbs.results.cures import Round, WhenShares
from unbackdoor.vetting.policy import Policy
from unbackdoor.vetting.result import VetResult
from unbackdoor.weights.files import state_hash

DIGITS = "embedded:digits"
room = sys.modules["unbackdoor.verbs.vet_model"]
HIGH, LOW = [0.2 + 0.2 * i for i in range(24)], [0.2 + 0.01 * i for i in range(24)]


def asked(folder: Path, null: list[float] | None) -> dict[str, Any]:
    """What a vetting of a toy takes: its pictures, and clean models' scores."""
    given: dict[str, Any] = {"data": toy_images(), "inverters": ["patch"], "templates": template(folder)}
    if null is not None:
        toy_null(null).save(folder / "null.jsonl")
        given["null"] = folder / "null.jsonl"
    return given


@pytest.mark.parametrize(
    ("strength", "null", "verdict", "code"),
    [(6.0, LOW, "backdoored", 1), (0.0, HIGH, "clean", 0), (6.0, None, "cannot-tell", 4)],
)
def test_one_model(strength: float, null: list[float] | None, verdict: str, code: int, tmp_path: Path) -> None:
    clip, out = toy_clip(strength), tmp_path / "out"
    before = state_hash(clip.state())
    result = vet(models=[clip], out=out, formats=FORMATS.names(), **asked(tmp_path, null))
    (row,) = result.models
    assert (row.verdict, row.exit_code, result.exit_code) == (verdict, code, code)
    assert state_hash(clip.state()) == before and row.model_facts is not None and row.model_facts.weights == before
    stored = json.loads((out / "result.json").read_text())
    assert stored == json.loads(json.dumps(dict(result))) and VetResult.read(out) == result
    finding = json.loads((out / "scan" / "finding.json").read_text())
    assert row.scan is not None and row.scan.message == finding["message"] and (out / row.scan.report).exists()
    assert json.loads((out / "manifest.json").read_text())["verb"] == "vet" and not (out / ".work").exists()
    page = (out / "report.html").read_text()
    assert (
        'href="scan/report.html"' in page
        and "data:image/png;base64" in page
        and "http" not in page.replace("http-equiv", "")
    )
    assert {f"{name}": len(paths) for name, paths in result.outputs.items()} == {
        **dict.fromkeys(FORMATS.names(), 1),
        "intoto": 0,  # a model in memory has no file to speak of
        "eval-results": 0 if null is None else 1,
    }
    assert all(Path(path).is_file() for paths in result.outputs.values() for path in paths)


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = asked(tmp_path, HIGH)
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    result = vet(models=[toy_clip(0.0)], **given)
    assert result.exit_code == 0 and result.report is None and not list(place.iterdir())


def cure_of(kept: float, *, quiet: bool = True, labels: bool = True, page: str = "") -> Callable[..., BlindCureResult]:
    """What `unlearn --scan` returns, without the minutes that it takes."""

    def share(part: float) -> Share:
        return Share.of(Rate(round(1000 * part), 1000))

    def cured(**given: Any) -> BlindCureResult:
        assert (
            given["finding"]["backdoored"] is True and state_hash(given["model"].state()) == given["finding"]["weights"]
        )
        load("embedded").save(Path(given["out"]) / "model")
        line = Round(
            target="cow", trigger="badnets", alpha=0.5, agreement=share(kept), p_value=0.5, message="", short_of=None,
            recovered_asr=WhenShares(share(1.0), share(0.0)), backdoored=False, report=page,
        )  # fmt: skip
        return BlindCureResult(
            model=str(given["out"]), model_reference="toy", rounds=(line,), quiet=quiet, left=None, seed=0, seconds=1.0,
            clean_accuracy=WhenShares(share(0.9), share(0.9 - (1 - kept))) if labels else None,
        )  # fmt: skip

    return cured


@pytest.mark.parametrize(
    ("cure", "verdict", "loss", "linked"),
    [
        (cure_of(0.985), "cured", 1.5, "round-1"),
        (cure_of(0.985, labels=False), "cured", 1.5, "round-1"),
        (cure_of(0.975, page="out/cure/round-1/report.html"), "backdoored", 2.5, "round-1"),
        (cure_of(0.985, quiet=False, page="out/cure/round-1/again/report.html"), "backdoored", 1.5, "round-1/again"),
    ],
)
def test_a_cure(
    cure: Callable[..., BlindCureResult],
    verdict: str,
    loss: float,
    linked: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "unlearn_scan", cure)
    given = asked(tmp_path, LOW)
    result = vet(models=[toy_clip(6.0)], out=tmp_path / "out", policy=Policy(cure=True), **given)
    (row,) = result.models
    assert row.cure is not None and row.cure.loss == pytest.approx(loss)
    assert (row.verdict, result.exit_code) == (verdict, 0 if verdict == "cured" else 1)
    assert [f.path for f in row.cure.files] == ["cure/model/open_clip_model.safetensors"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert f'href="cure/{linked}/report.html"' in page and "The cure" in page
    assert ('class="verdict mixed"' in page) == (verdict == "cured"), "a backdoored model is no good news"
    # The policy, not the finding, decides whether there is a cure.
    monkeypatch.setattr(room, "unlearn_scan", lambda **given: pytest.fail("nobody asked for a cure"))
    assert vet(models=[toy_clip(6.0)], out=tmp_path / "no", **given).models[0].cure is None
    assert vet(models=[toy_clip(0.0)], **asked(tmp_path, HIGH)).models[0].cure is None


def test_a_whole_cure_that_is_not_good_enough(tmp_path: Path) -> None:
    """The toy's few numbers serve the backdoor and everything else, so that clean answers suffer."""
    clip = toy_clip(6.0)
    before = state_hash(clip.state())
    result = vet(models=[clip], out=tmp_path / "out", policy=Policy(cure=True), **asked(tmp_path, LOW))
    (row,) = result.models
    assert state_hash(clip.state()) == before, "what is cured is a copy"
    assert (row.verdict, row.exit_code) == ("backdoored", 1) and row.cure is not None and not row.cure.labels
    assert row.checks[2].outcome == "fail" and row.cure.loss == round(100 * (1 - (row.cure.after.value or 0)), 2)
    assert (tmp_path / "out" / row.cure.report).is_file() and (tmp_path / "out" / row.cure.model).is_dir()


def test_a_cure_that_cannot_be_made_leaves_the_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**given: Any) -> Any:
        raise InputError("too few pictures to cure with")

    monkeypatch.setattr(room, "unlearn_scan", refused)
    result = vet(models=[toy_clip(6.0)], out=tmp_path / "out", policy=Policy(cure=True), **asked(tmp_path, LOW))
    (row,) = result.models
    assert (row.verdict, row.exit_code, row.cure) == ("backdoored", 1, None)
    assert "The cure fails: too few pictures" in row.sentence and row.checks[2].outcome == "fail"


def test_a_killed_vetting_does_not_scan_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {**asked(tmp_path, LOW), "out": tmp_path / "out", "policy": Policy(cure=True)}
    scans = []

    def counted(**more: Any) -> Any:
        scans.append(1)
        return scan(**more)

    def killed(**more: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "scan", counted)
    monkeypatch.setattr(room, "unlearn_scan", killed)
    with pytest.raises(Interrupted):
        vet(models=[toy_clip(6.0)], **given)
    assert not (tmp_path / "out" / "result.json").exists()
    monkeypatch.setattr(room, "unlearn_scan", cure_of(0.985))
    assert vet(models=[toy_clip(6.0)], **given).models[0].verdict == "cured" and len(scans) == 1
    with pytest.raises(InputError, match="holds the result of another run"):
        vet(models=[toy_clip(6.0)], **{**given, "seed": 1})
    # What was kept of one run is not taken for another's.
    monkeypatch.setattr(room, "unlearn_scan", killed)
    for loss in (1.0, 3.0):
        with pytest.raises(Interrupted):
            policy = Policy(cure=True, accuracy_loss=loss)
            vet(models=[toy_clip(6.0)], **{**given, "policy": policy, "out": tmp_path / "other"})
    assert len(scans) == 3


class Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


@pytest.fixture
def zoo(vit_folder: Path, tmp_path: Path) -> Path:
    """A sound model, a pickle with an import, a configuration that names code, a wrong one, and a damaged file."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    vit_folder.rename(folder / "a-sound")
    config = (folder / "a-sound" / "open_clip_config.json").read_text()
    for name in ("b-pickle", "c-code", "d-wrong", "e-damaged"):
        (folder / name).mkdir()
        (folder / name / "open_clip_config.json").write_text(config)
        (folder / name / "open_clip_model.safetensors").write_bytes(b"\0" * 16)
    (folder / "b-pickle" / "training.pkl").write_bytes(pickle.dumps(Runs()))
    (folder / "c-code" / "config.json").write_text('{"auto_map": {"AutoModel": "evil.Model"}}')
    (folder / "d-wrong" / "open_clip_config.json").write_text('{"model_cfg": {"bpe_path": "/etc/passwd"}}')
    return folder


SCAN = ["--data", DIGITS, "--limit", "24", "--inverter", "colour", "--seed", "1"]
VERDICTS = ["cannot-tell", "unsafe", "unsafe", "error", "error"]


def without_times(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Lines of models, but for what no two runs have alike."""
    rows = json.loads(json.dumps(result["models"]))
    for row in rows:
        for part in (row, row["scan"] or {}):
            part.pop("seconds", None)
        row.pop("finished")
        row["checks"] = [c for c in row["checks"] if c["name"] != "time"]
    return rows


def test_many_models_by_both_engines_and_again(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    words = ["vet", str(zoo), *SCAN, "--out", str(out), "--format", "sarif", "--format", "intoto", "--json"]
    assert cli.run(words) == 1
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert [row["verdict"] for row in result["models"]] == VERDICTS
    assert [row["exit_code"] for row in result["models"]] == [4, 1, 1, 2, 2] and result["exit_code"] == 1
    assert shown.err.count("not vetted") == 2 and not (tmp_path / "pwned").exists()
    by_name = {Path(row["model"]).name: row for row in result["models"]}
    assert "system (dangerous)" in by_name["b-pickle"]["sentence"]
    assert "names code to be run (auto_map)" in by_name["c-code"]["sentence"]
    assert "bpe_path" in by_name["d-wrong"]["error"] and by_name["d-wrong"]["files"][0]["sha256"]
    page = (out / "report.html").read_text()
    sound = by_name["a-sound"]["folder"]
    assert (out / "table.md").read_text().count("\n") == len(VERDICTS) + 4
    assert f'href="{sound}/report.html"' in page and "a-sound" in page and "0 of 5 models pass" in page
    for name in ("report.html", "scan/report.html", "result.json", "vet.intoto.json"):
        assert (out / sound / name).is_file()
    (run,) = json.loads((out / "vet.sarif").read_text())["runs"]
    assert sorted(r["ruleId"] for r in run["results"]) == ["UB002", "UB002", "UB003", "UB004", "UB004"]

    # Again: what is finished is read, and nothing is opened or run.
    kept = {p: p.stat().st_mtime_ns for p in out.glob("vettings/*/result.json")}
    assert len(kept) == 3 and cli.run(words) == 1
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    again = json.loads(capsys.readouterr().out)
    assert without_times(again) == without_times(result)

    # A file that changed is another model.
    (zoo / "b-pickle" / "training.pkl").unlink()
    assert cli.run(words) == 1
    assert json.loads(capsys.readouterr().out)["models"][1]["verdict"] == "error"
    (zoo / "b-pickle" / "training.pkl").write_bytes(pickle.dumps(Runs()))

    pytest.importorskip("ray")
    steps: list[Step] = []
    with on_progress(steps.append):
        other = vet(
            models=[str(zoo)], data=DIGITS, limit=24, inverters=["colour"], seed=1, out=tmp_path / "ray", engine="ray",
            workers=1, formats=["sarif", "intoto"],
        )  # fmt: skip
    codes = {Path(step.label).name: step.measured.get("exit_code") for step in steps}
    assert codes == {"a-sound": 4, "b-pickle": 1, "c-code": 1, "d-wrong": None, "e-damaged": None}
    assert sorted((step.done, step.total) for step in steps) == [(n, 5) for n in range(1, 6)]
    assert without_times(json.loads(json.dumps(dict(other)))) == without_times(result)


def test_a_single_model_that_cannot_be_opened_is_a_result_too(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.run(["vet", str(zoo / "d-wrong"), *SCAN, "--out", str(out), "--format", "sarif"]) == 2
    assert capsys.readouterr().out.startswith("Not vetted: ")
    (run,) = json.loads((out / "vet.sarif").read_text())["runs"]
    assert run["invocations"][0]["exitCode"] == 2 and run["invocations"][0]["executionSuccessful"] is False


@pytest.mark.parametrize("name", [n for n in FORMATS.names() if n != "eval-results"])
def test_one_format_goes_to_stdout(name: str, zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["vet", str(zoo / "b-pickle"), *SCAN, "--format", name]) == 1
    text = capsys.readouterr().out
    opens = {"junit": "<?xml", "model-card": "## Backdoor check"}.get(name, "{")
    assert (text.startswith(opens) and "dangerous" in text) or name == "intoto"
    if opens == "{":
        json.loads(text)


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["{zoo}/a-sound", "--policy", "{policy}"], "no setting 'speed'; it has accuracy_loss"),
        (["{zoo}/a-sound", "--policy", "{none}"], "no such policy"),
        (["{zoo}/a-sound", "--format", "sarif", "--format", "junit"], "several formats need --out"),
        (["{zoo}/a-sound", "--format", "pdf"], "sarif"),
        (["{zoo}/a-sound", "--policy", "{cures}"], "a cure, which needs --out"),
        (["{zoo}"], "several models need --out"),
        (["{zoo}/a-sound", "{zoo}/b-pickle", "--checkpoint", "{file}", "--out", "{out}"], "belongs to one model"),
        (["@{none}"], "no such list of models"),
        (["{zoo}/x*"], "matches no model folder"),
        (["{none}"], "no such model folder"),
        (["{zoo}/b-pickle", "--format", "eval-results"], "nothing that it could say"),
        ([], "MODEL"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    args: list[str], part: str, zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"zoo": str(zoo), "none": str(tmp_path / "none"), "out": str(tmp_path / "out")}
    for name, text in (("policy", "speed: 1"), ("cures", "cure: true"), ("file", "")):
        (tmp_path / name).write_text(text)
        places[name] = str(tmp_path / name)
    assert cli.run(["vet", *(arg.format(**places) for arg in args), *SCAN]) == 2
    shown = capsys.readouterr()
    assert part in shown.err and shown.err.count("\n") == 1 and not shown.out


def test_the_policy_is_printed_without_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["vet", "--show-policy"]) == 0
    assert "false_alarm_rate: 0.05" in capsys.readouterr().out


def test_lines_for_people(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["vet", str(zoo / "b-pickle"), *SCAN]) == 1
    text = capsys.readouterr().out
    assert text.startswith("Fails: ") and "  sha256 " in text and "safe-files  fail" in text
    assert max(map(len, text.splitlines())) < 400


def test_the_budget_is_reported(tmp_path: Path) -> None:
    given = asked(tmp_path, HIGH)
    row = vet(models=[toy_clip(0.0)], policy=Policy(minutes=60.0), **given).models[0]
    assert (row.checks[3].outcome, row.verdict) == ("pass", "clean")
    row = vet(models=[toy_clip(0.0)], policy=Policy(minutes=1e-6), **given).models[0]
    assert (row.verdict, row.exit_code) == ("error", 2) and "the least scan" in str(row.error)
