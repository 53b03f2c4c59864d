"""`scan`, `scan --calibrate` and `unlearn --scan` on tiny models: files, refusals, exit codes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.scan.toy import NAMES, TARGET, toy_clip, toy_images
from unbackdoor import calibrate, load, scan, unlearn_scan
from unbackdoor.base.errors import InputError, Interrupted
from unbackdoor.cli import main as cli
from unbackdoor.cli.unlearn import lines
from unbackdoor.clip.handle import Clip
from unbackdoor.scan.detection import Null, Origin, architecture, read_null
from unbackdoor.scan.examine import HELD, SEARCHED, examine, settings
from unbackdoor.scan.family import LEFT, Reach
from unbackdoor.scan.finding import Lead
from unbackdoor.scan.inverters import inverter_names
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.mixed import Mixed
from unbackdoor.verbs.results import BlindCureResult
from unbackdoor.verbs.scan import find_null
from unbackdoor.weights.files import state_hash

DIGITS = "embedded:digits"
# The package's name of the same spelling is the function.
unlearn_scan_module = sys.modules[unlearn_scan.__module__]


def toy_null(statistics: list[float]) -> Null:
    rows = tuple(((("ant", v),),) for v in statistics)
    kind = architecture(toy_clip(0.0).state())
    return Null(kind, settings(96, ("patch",)), ("patch",), rows, tuple(f"m{i}" for i in range(len(rows))))


@pytest.mark.parametrize(
    ("strength", "null", "expected"),
    [
        (6.0, [0.2 + 0.01 * i for i in range(24)], True),
        (0.0, [0.2 + 0.2 * i for i in range(24)], False),
        (6.0, [0.2, 0.3], None),
    ],
    ids=["backdoored", "clean", "too few clean models"],
)
def test_finding(strength: float, null: list[float], expected: bool | None, tmp_path: Path) -> None:
    clip = toy_clip(strength)
    before = state_hash(clip.state())
    found = scan(model=clip, data=toy_images(), null=toy_null(null), out=tmp_path, templates=template(tmp_path))
    assert found["backdoored"] is expected
    assert state_hash(clip.state()) == before
    stored = json.loads((tmp_path / "finding.json").read_text())
    assert stored == json.loads(json.dumps(dict(found)))
    assert {"p_value", "false_alarm_rate", "target", "trigger", "seconds", "message"} <= set(stored)
    # What is no finding is not called a trigger.
    name, other = ("trigger", "candidate") if expected else ("candidate", "trigger")
    assert (tmp_path / f"{name}.png").stat().st_size > 100 and not list(tmp_path.glob(f"{other}.*"))
    assert stored["trigger"]["picture"] == str(tmp_path / f"{name}.png")
    assert parse_trigger(f"@{tmp_path / f'{name}.txt'}") == parse_trigger(stored["trigger"]["spec"])
    page = (tmp_path / "report.html").read_text()
    assert ("The recovered trigger" in page) == bool(expected)
    assert ("The strongest candidate, which is no finding" in page) == (not expected)
    assert expected is not None or "Cannot tell" in page.partition("</h1>")[2][:60]
    assert stored["target"]["name"] in page and "data:image/png" in page
    assert 0 < stored["probability"] < 1 and (not expected or stored["probability"] > 0.1)
    if expected:
        assert stored["target"]["name"] == NAMES[TARGET] and stored["p_value"] == pytest.approx(1 / 25)
        assert stored["compared_with"] == "given"
        assert stored["trigger"]["strength"]["value"] > 0.9


def template(folder: Path) -> str:
    path = folder / "templates.txt"
    path.write_text("{}\n")
    return str(path)


def test_without_clean_models_it_cannot_tell(tmp_path: Path) -> None:
    found = scan(model=toy_clip(6.0), data=toy_images(), inverters=["patch"], templates=template(tmp_path))
    assert found["compared_with"] is None
    assert found["backdoored"] is None and found["p_value"] is None and found["probability"] is None
    assert "scan --calibrate" in found["message"] and found["alone"] is None, "one search is no vote"
    assert found["target"]["name"] == NAMES[TARGET] and found["target"]["from"] == "classes"


def test_the_shipped_null_is_of_the_embedded_architecture_and_these_inverters() -> None:
    found = find_null(load("embedded"), None)
    assert found is not None
    # Whoever changes an inverter raises its version, and then the null has to be made again.
    weights = state_hash(load("embedded").state())
    assert found.origin == Origin("embedded", weights) and found.inverters == inverter_names()
    assert found.settings == settings(SEARCHED + HELD, inverter_names(), weights)
    assert len(found.rows) >= 19 and len(set(found.rows)) == len(found.rows), "too few for a false-alarm rate of 5%"


def test_a_vocabulary_stands_in_for_class_names(vit_folder: Path) -> None:
    images = load_unnamed(vit_folder)
    found = scan(model=str(vit_folder), data=images, inverters=["collapse", "colour"])
    assert found["target"]["from"] == "vocabulary" and len(found["target"]["nearest_texts"]) == 5
    assert len(found["inverters"][1]["facts"]["candidates"]) <= 24


def load_unnamed(folder: Path):  # type: ignore[no-untyped-def]
    from unbackdoor import load_images

    images = load_images(DIGITS, side=load(str(folder)).image_size, limit=32)
    return replace(images, classes=(), labels=torch.full((32,), -1))


def test_calibrate_makes_a_null_that_scan_takes_and_goes_on_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, images = tmp_path / "null.jsonl", toy_images()
    common = {"data": images, "inverters": ["colour"], "templates": template(tmp_path)}
    ran = []

    def counted(*args: object, **settings: object) -> object:
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(1)
        return examine(*args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr("unbackdoor.verbs.calibrate.examine", counted)
    with pytest.raises(KeyboardInterrupt):
        calibrate(models=[toy_clip(0.0)], out=out, copies=2, **common)
    assert not out.exists()
    ran.clear()
    whole = calibrate(models=[toy_clip(0.0)], out=out, copies=2, **common)
    assert len(ran) == 1, "two models' statistics were kept from before the kill"
    assert whole["clean_models"] == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["null.jsonl", "null.manifest.json", "templates.txt"]
    assert len({row[0][0] for row in read_null(out).rows}) > 1, "copies must differ"
    told = [label for (scores,) in read_null(out).rows for label, _ in scores]
    assert set(told) <= {f"{i} {name}" for i, name in enumerate(NAMES)}, "names alone may be there twice"
    found = scan(model=toy_clip(0.0), null=out, **common)
    assert found["clean_models"] == 3 and 0.25 <= found["p_value"] <= 1
    # Two that score as high are enough to turn a finding away, and three models are too few to make one.
    assert found["backdoored"] is (False if found["p_value"] > 0.5 else None)
    assert ("calibrate with 19" in found["message"]) == (found["backdoored"] is None)
    other = scan(model=toy_clip(0.0), null=out, **{**common, "data": toy_images(80)})
    assert other["p_value"] is None and "another number of images" in other["message"]


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["scan", "--model", "{vit}", "--data", DIGITS, "--null", "{missing}"], "no such null"),
        (["scan", "--model", "{vit}", "--data", DIGITS, "--inverter", "mirror"], "unknown inverter 'mirror'"),
        (["scan", "--model", "{vit}", "--data", DIGITS, "--false-alarm-rate", "1.5"], "--false-alarm-rate"),
        (["scan", "--model", "{vit}", "--model", "{vit}", "--data", DIGITS], "takes one --model"),
        (["scan", "--model", "{vit}", "--data", DIGITS, "--calibrate"], "needs --null"),
        (["unlearn", "--data", DIGITS, "--out", "{out}"], "--model is missing"),
        (["unlearn", "--data", DIGITS, "--out", "{out}", "--scan", "{missing}"], "give the finding.json"),
        (["unlearn", "--data", DIGITS, "--out", "{out}", "--scan", "{there}", "--target", "x"], "leave out --target"),
        (["unlearn", "--data", DIGITS, "--out", "{out}", "--scan", "{there}", "--alpha", "1"], "leave out --alpha"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    args: list[str], part: str, vit_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"{vit}": str(vit_folder), "{missing}": str(tmp_path / "none"), "{out}": str(tmp_path / "out")}
    places["{there}"] = str(tmp_path / "finding.json")
    (tmp_path / "finding.json").write_text("{}")
    code = cli.run([places.get(a, a) for a in args])
    said = capsys.readouterr()
    assert code == 2 and part in said.err and said.err.count("\n") == 1 and not said.out


def test_exit_code_1_on_a_finding_and_one_json_object(
    vit_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, null = architecture(load(str(vit_folder)).state()), tmp_path / "low.jsonl"
    rows = tuple(((("a", -1000.0 - i),),) for i in range(24))
    Null(kind, settings(48, ("collapse",)), ("collapse",), rows, ("m",) * 24).save(null)
    base = ["scan", "--model", str(vit_folder), "--data", DIGITS, "--limit", "48", "--json", "--null", str(null)]
    code = cli.run(base)
    said = json.loads(capsys.readouterr().out)
    assert said["p_value"] == pytest.approx(1 / 25)
    works = said["trigger"]["strength"]["value"]
    # A random model's pictures mostly share one answer, so that its "trigger" may turn few or many.
    assert (code, said["backdoored"]) == ((1, True) if works is not None and works >= 0.5 else (4, None))


def test_a_clean_origin_takes_off_what_is_cheap_by_nature(tmp_path: Path) -> None:
    images, names = toy_images(), ["patch"]
    common = {"data": images, "inverters": names, "templates": template(tmp_path)}
    # Here white corners lead to "cow" by nature: the clean models and the suspect have it from their origin.
    natural = toy_clip(6.0)
    calibrate(models=[toy_clip(6.1), toy_clip(5.9)], out=tmp_path / "null.jsonl", origin=natural, **common)
    null = read_null(tmp_path / "null.jsonl")
    assert null.origin is not None and null.origin.weights == state_hash(natural.state())
    plain = scan(model=toy_clip(6.0), out=None, **common)
    found = scan(model=toy_clip(6.0), origin=natural, null=null, out=tmp_path / "finding", **common)
    assert found["inverters"][0]["statistic"] < 0.2 * plain["inverters"][0]["statistic"]
    assert found["p_value"] is not None and found["origin"] == "toy" and plain["origin"] is None
    assert found["probability"] is None, "it is the origin itself"
    page = (tmp_path / "finding" / "report.html").read_text()
    assert "a clean twin, made from <b>toy</b>" in page and "of 24 other pictures as this model does" in page
    # The suspect's origin is the suspect itself, nearly; without one there is no twin to agree.
    assert found["twin_agreement"]["value"] > 0.9 and plain["twin_agreement"] is None
    manifest = json.loads((tmp_path / "finding" / "manifest.json").read_text())
    assert manifest["hashes"]["origin"] == state_hash(natural.state())
    with pytest.raises(InputError, match="not the one that the null rests on"):
        scan(model=toy_clip(6.0), origin=toy_clip(0.0), null=null, **common)
    online = replace(null, origin=Origin("hf-hub:org/name", null.origin.weights))
    with pytest.raises(InputError, match="name it with --origin"):
        scan(model=toy_clip(6.0), null=online, **common)
    with pytest.raises(InputError, match="another architecture"):
        scan(model=toy_clip(6.0), origin="embedded", **common)
    with pytest.raises(InputError, match="another architecture"):
        calibrate(models=[toy_clip(6.0)], out=tmp_path / "other.jsonl", origin="embedded", **common)
    # The same clean models without an origin are no measure for a scan with one.
    calibrate(models=[toy_clip(6.1), toy_clip(5.9)], out=tmp_path / "plain.jsonl", **common)
    other = scan(model=toy_clip(5.95), origin=natural, null=tmp_path / "plain.jsonl", **common)
    assert other["p_value"] is None and "without an origin" in other["message"]


@pytest.mark.parametrize(("strength", "expected"), [(6.0, False), (5.95, None)], ids=["the same", "another"])
def test_an_origin_counts_as_clean_whatever_stands_out(strength: float, expected: bool | None, tmp_path: Path) -> None:
    common = {"data": toy_images(), "inverters": ["patch"], "templates": template(tmp_path)}
    found = scan(model=toy_clip(strength), origin=toy_clip(6.0), relatives=0, out=tmp_path / "finding", **common)
    assert found["backdoored"] is expected
    assert ("of toy itself, bit for bit" in found["message"]) is (expected is False)
    assert list((tmp_path / "finding").glob("candidate.*")), "what stands out is shown all the same"


def test_of_an_origin_the_weights_tell_and_one_search_is_shown(tmp_path: Path) -> None:
    common = {"data": toy_images(), "templates": template(tmp_path), "origin": toy_clip(6.0)}
    found = scan(model=toy_clip(6.0), out=tmp_path / "finding", **common)
    assert [row["name"] for row in found["inverters"]] == ["additive"]
    assert (found.backdoored, found.p_value, found.alone, found.twin_agreement) == (False, None, None, None)
    assert found["origin"] == "toy" and list((tmp_path / "finding").glob("candidate.*"))
    asked = scan(model=toy_clip(6.0), inverters=["colour", "patch"], relatives=0, **common)
    assert [row["name"] for row in asked["inverters"]] == ["colour", "patch"] and asked["backdoored"] is False


def toy_finding(strength: float, folder: Path) -> dict[str, object]:
    null = toy_null([0.2 + 0.01 * i for i in range(24)])
    return scan(model=toy_clip(strength), data=toy_images(), null=null, templates=template(folder))


def test_a_scan_after_a_cure_does_not_weigh_feature_collapse(tmp_path: Path) -> None:
    names = ("patch", "collapse")
    # Next to these models, any statistic of collapse stands out and none of the patch does.
    rows = tuple(((("ant", 50.0 + i),), (("ant", -1000.0 - i),)) for i in range(24))
    null = Null(architecture(toy_clip(0.0).state()), settings(96, names), names, rows, ("m",) * 24)
    null.save(tmp_path / "null.jsonl")
    common = {"data": toy_images(), "null": tmp_path / "null.jsonl", "templates": template(tmp_path)}
    finding = scan(model=toy_clip(6.0), **common)
    assert finding["weighed"] == list(names) and finding["p_value"] == pytest.approx(1 / 25)
    tune = {"lr": 3e-2, "epochs": 2, "samples": 48, "validation": 48, "test": toy_images(), "out": tmp_path / "cure"}
    result = unlearn_scan(finding=finding, model=toy_clip(6.0), force=True, **tune, **common)
    (row,) = result["rounds"]
    assert row["backdoored"] is False and result["left"] is None
    again = json.loads((tmp_path / "cure" / "round-1" / "scan" / "finding.json").read_text())
    assert again["weighed"] == ["patch"] and [row["name"] for row in again["inverters"]] == list(names)


def test_unlearn_refuses_another_model_and_an_unclear_finding(tmp_path: Path) -> None:
    finding = toy_finding(6.0, tmp_path)
    common = {"data": toy_images(), "test": toy_images(), "out": tmp_path / "cure"}
    with pytest.raises(InputError, match="give --force"):
        unlearn_scan(finding={**finding, "backdoored": None}, model=toy_clip(6.0), **common)
    with pytest.raises(InputError, match="weights differ"):
        unlearn_scan(finding=finding, model=toy_clip(5.0), **common)
    assert not (tmp_path / "cure").exists()


def test_unlearn_takes_the_recovered_backdoor_out_without_labels(tmp_path: Path) -> None:
    clip, images = toy_clip(6.0), toy_images()
    result = unlearn_scan(
        finding=toy_finding(6.0, tmp_path),
        model=clip,
        data=images,
        test=images,
        out=tmp_path / "cure",
        rounds=1,
        lr=3e-2,
        epochs=80,
        samples=48,
        validation=48,
        templates=template(tmp_path),
    )
    (row,) = result["rounds"]
    assert row["target"] == NAMES[TARGET]
    asr = row["recovered_asr"]
    assert asr["before"]["value"] > 0.9 and asr["after"]["value"] < 0.1
    family = row["family"]
    assert family["inverter"] == "patch" and family["before"]["turned"]["value"] > 0.9
    assert family["before"]["natural"] is None, "no origin is known"
    assert row["not_whole"] is None and family["left"] <= LEFT
    assert result["whole"] == (row["short_of"] is None)
    # The toy's few numbers serve the backdoor and everything else, so that clean answers suffer here.
    assert row["agreement"]["n"] == len(images)
    assert "clean_accuracy" not in result, "there are no labels to measure it with"
    assert float(clip.state()["visual.strength"][0]) < 6.0
    for name in ("result.json", "manifest.json", "round-1/report.html", "round-1/scan/finding.json"):
        assert (tmp_path / "cure" / name).exists(), name
    hashes = json.loads((tmp_path / "cure" / "manifest.json").read_text())["hashes"]
    assert hashes["weights_after"] == state_hash(clip.state()) != hashes["weights_before"]
    assert hashes["train_data"] == hashes["test_data"] == images.content_hash()


def story(
    backdoored: bool | None, target: str, *others: str, p_value: float | None = 0.04, strength: float | None = 1.0
) -> dict[str, object]:
    """The part of a finding that decides what is cured next."""
    trigger = {"spec": "badnets:size=2,pattern=white", "inverter": "patch"}
    rows = [{"target": name, "spec": trigger["spec"], "inverter": "patch", "p_value": 0.04} for name in others]
    share = {"value": strength, "n": 16, "interval": [0.8, 1.0]}
    return {
        "backdoored": backdoored,
        "target": {"name": target},
        "trigger": {**trigger, "strength": share},
        "others": rows,
        "inverters": [{"name": "patch"}],
        "weights": state_hash(toy_clip(6.0).state()),
        "model_reference": "toy",
        "images": 96,
        "false_alarm_rate": 0.05,
        "p_value": p_value,
        "message": "",
    }


def reaches(left: int) -> Any:
    """In the place of `reach`: 16 of 16 held pictures before a cure, so many after it."""

    def reach(*given: Any) -> Reach:
        before = given[4]
        return Reach(("badnets:size=2,pattern=white",), (9.0,), None, (16 if before is None else left, 16))

    return reach


def quiet(target: str) -> dict[str, object]:
    """Of a scan that finds nothing, far from the limit."""
    return story(False, target, p_value=0.5)


@pytest.mark.parametrize("state", ["whole", "short", "not whole"])
@pytest.mark.parametrize(
    ("first", "scans", "working", "rounds", "cured", "left"),
    [
        (story(True, "cow"), [quiet("ant")], {"ant"}, 3, ["cow"], None),
        (story(True, "cow", "bee"), [quiet("ant")] * 2, {"bee"}, 3, ["cow", "bee"], None),
        (story(True, "cow", "bee"), [quiet("ant")], set(), 3, ["cow"], None),
        (story(True, "cow", "bee"), [story(True, "ant"), quiet("elk")], set(), 3, ["cow", "ant"], None),
        (
            story(True, "cow", "bee", "dog"),
            [story(True, "bee", "ant"), quiet("cow"), quiet("cow")],
            {"bee", "ant"},
            3,
            ["cow", "bee", "ant"],
            None,
        ),
        (story(True, "cow", "bee"), [quiet("ant")], {"bee"}, 1, ["cow"], "bee"),
        (story(True, "cow"), [story(True, "cow")] * 2, set(), 2, ["cow", "cow"], "cow"),
        (story(True, "cow"), [story(None, "bee", p_value=0.09), quiet("elk")], set(), 3, ["cow", "bee"], None),
        (story(True, "cow"), [story(False, "bee", p_value=0.14), quiet("elk")], set(), 3, ["cow", "bee"], None),
        (story(False, "cow"), [story(False, "bee", p_value=0.14)], set(), 3, ["cow"], None),
        (story(True, "cow"), [story(None, "bee", p_value=0.04, strength=0.2)], set(), 3, ["cow"], None),
        (story(True, "cow"), [story(None, "bee", p_value=0.04, strength=None)], set(), 3, ["cow"], None),
        (story(True, "cow"), [story(None, "bee", p_value=None)], set(), 3, ["cow"], None),
    ],
    ids=[
        "quiet",
        "hidden",
        "no longer works",
        "new",
        "named again and more",
        "rounds run out",
        "louder again",
        "near the limit",
        "still suspected",
        "never suspected",
        "too weak",
        "nothing to turn",
        "no null",
    ],
)
def test_rounds_go_on_while_a_named_class_is_left(
    first: dict[str, object],
    scans: list[dict[str, object]],
    working: set[str],
    rounds: int,
    cured: list[str],
    left: str | None,
    state: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []
    told = {"chosen": state != "short", "message": None if state != "short" else "no α satisfies both limits"}
    monkeypatch.setattr(unlearn_scan_module, "reach", reaches(8 if state == "not whole" else 1))

    def cure(**options: object) -> dict[str, object]:
        done.append(str(options["target"]))
        rates = {"ca": 1.0, "asr": 0.0, "n": {"ca": 96, "asr": 80}, "interval": {"ca": [0, 1], "asr": [0, 1]}}
        return {"target": done[-1], "trigger": "", "alpha": 1.0, "before": rates, "after": rates, "report": "", **told}

    def still(subject: object, trigger: object, target: int) -> bool:
        return NAMES[target] in working

    monkeypatch.setattr(unlearn_scan_module, "unlearn", cure)
    monkeypatch.setattr(unlearn_scan_module, "scan", lambda **options: scans[len(done) - 1])
    monkeypatch.setattr("unbackdoor.unlearning.unknown.source", lambda suspect, subject, lead: Mixed.of([lead.trigger]))
    monkeypatch.setattr("unbackdoor.unlearning.unknown.works", still)
    monkeypatch.setattr("unbackdoor.clip.handle.Clip.save", lambda self, folder: None)
    common = {"model": toy_clip(6.0), "data": toy_images(), "test": toy_images(), "templates": template(tmp_path)}
    result = unlearn_scan(finding=first, force=True, rounds=rounds, out=tmp_path / "cure", **common)
    assert done == cured and result["left"] == left
    # What the scan called clean has no family to be whole of.
    whole = state == "whole" or (state == "not whole" and first["backdoored"] is False)
    assert result["quiet"] == (whole and left is None and scans[len(done) - 1]["backdoored"] is False)
    assert result["whole"] == whole
    assert [row["short_of"] for row in result["rounds"]] == [told["message"]] * len(done)
    said = [row["not_whole"] for row in result["rounds"]]
    assert all(("still turns 50% of 16" in (text or "")) == (state == "not whole" and not whole) for text in said)
    assert all((row["family"] is None) == (first["backdoored"] is False) for row in result["rounds"])
    printed = "\n".join(lines(result))
    assert ("not whole: something of what was found is left" in printed) == (not whole)
    assert all(text in printed for text in said if text)
    assert BlindCureResult.read(tmp_path / "cure").rounds == result.rounds
    page = (tmp_path / "cure" / "report.html").read_text()
    assert page.count("<h3>Round ") == len(done) and ("Not whole:" in page) == (not whole)
    assert ("Not done: " in page) == (left is not None) and ("found apart turn" in page) == bool(first["backdoored"])


def counted(steps: list[str], killed: str, name: str) -> int:
    """Note a step as "NAME NUMBER" and return its number; the one that is to be `killed` is interrupted once."""
    number = 1 + sum(s.startswith(name) for s in steps if not s.endswith("!"))
    if f"{name} {number}" == killed and f"{killed}!" not in steps:
        steps.append(f"{killed}!")
        raise KeyboardInterrupt
    steps.append(f"{name} {number}")
    return number


@pytest.mark.parametrize(
    "killed", ["source 1", "reach 1", "cure 1", "left 1", "scan 1", "source 2", "reach 2", "left 2", "scan 2"]
)
def test_killed_rounds_go_on_behind_what_is_done(killed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    scans = [story(True, "bee"), quiet("elk")]

    step = partial(counted, steps, killed)

    def cure(**options: object) -> dict[str, object]:
        step("cure")
        rates = {"ca": 1.0, "asr": 0.0, "n": {"ca": 96, "asr": 80}, "interval": {"ca": [0, 1], "asr": [0, 1]}}
        told = {"chosen": True, "message": None, "report": "", "trigger": "", "alpha": 1.0}
        return {"target": options["target"], "before": rates, "after": rates, **told}

    def made(clip: object, subject: object, lead: Lead, *_: object, **how: object) -> object:
        step("source")
        return Mixed.of([lead.trigger])

    def look(*given: Any) -> Reach:
        step("left" if given[4] else "reach")
        return Reach(("badnets:size=2,pattern=white",), (9.0,), None, (1 if given[4] else 16, 16))

    taken: list[str] = []
    monkeypatch.setattr(unlearn_scan_module, "reach", look)
    monkeypatch.setattr(unlearn_scan_module, "unlearn", cure)
    monkeypatch.setattr(unlearn_scan_module, "scan", lambda **options: scans[step("scan") - 1])
    monkeypatch.setattr("unbackdoor.unlearning.unknown.source", made)
    monkeypatch.setattr("unbackdoor.unlearning.unknown.works", lambda *_: False)
    monkeypatch.setattr(unlearn_scan_module, "_take_weights", lambda clip, folder: taken.append(folder.parent.name))
    monkeypatch.setattr("unbackdoor.clip.handle.Clip.save", lambda self, folder: None)

    def run() -> dict[str, Any]:
        common = {"data": toy_images(), "test": toy_images(), "templates": template(tmp_path)}
        return unlearn_scan(finding=story(True, "cow"), model=toy_clip(6.0), out=tmp_path / "cure", **common)

    with pytest.raises(Interrupted):
        run()
    result = run()
    names = ("source", "reach", "cure", "left", "scan")
    assert [s for s in steps if not s.endswith("!")] == [f"{n} {i}" for i in (1, 2) for n in names]
    assert [row["target"] for row in result["rounds"]] == ["cow", "bee"] and result["quiet"]
    second = ["round-1", "round-2"]
    kept = {"left 1": ["round-1"], "scan 1": ["round-1"], "source 2": ["round-1"], "reach 2": ["round-1"]}
    assert taken == {**kept, "left 2": second, "scan 2": second}.get(killed, [])
    assert not (tmp_path / "cure" / ".work").exists()


@pytest.mark.parametrize("killed", ["", "cure 1", "left 1", "cure 2", "left 2", "scan 1"])
def test_a_cure_that_is_not_whole_is_made_again_in_its_round(
    killed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    more = Mixed.of([parse_trigger("badnets:size=2,pattern=white"), parse_trigger("blended:ratio=0.2")])

    step = partial(counted, steps, killed)

    def cure(**options: Any) -> dict[str, object]:
        folder = Path(options["out"])
        assert (options["trigger"] == more) == (step("cure") == 2) == (folder.name == "again")
        assert not (folder / "result.json").exists(), "a folder that holds another run's result is refused"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").write_text("{}")
        assert options["model"].image_parameters()["visual.strength"][0].item() == 6.0, "from the suspect, each time"
        with torch.no_grad():
            options["model"].image_parameters()["visual.strength"][0] = 1.0
        rates = {"ca": 1.0, "asr": 0.0, "n": {"ca": 96, "asr": 80}, "interval": {"ca": [0, 1], "asr": [0, 1]}}
        told = {"chosen": True, "message": None, "report": "", "trigger": options["trigger"].spec(), "alpha": 1.0}
        return {"target": options["target"], "before": rates, "after": rates, **told}

    def look(*given: Any) -> Reach:
        turned = 16 if given[4] is None else 8 if step("left") == 1 else 1
        return Reach(("badnets:size=2,pattern=white",), (9.0,), None, (turned, 16))

    def scanned(**options: object) -> dict[str, object]:
        step("scan")
        return quiet("elk")

    def take(clip: Clip, folder: Path) -> None:
        with torch.no_grad():
            clip.image_parameters()["visual.strength"][0] = 1.0

    monkeypatch.setattr(unlearn_scan_module, "reach", look)
    monkeypatch.setattr(unlearn_scan_module, "unlearn", cure)
    monkeypatch.setattr(unlearn_scan_module, "scan", scanned)
    monkeypatch.setattr(unlearn_scan_module, "_take_weights", take)
    monkeypatch.setattr("unbackdoor.unlearning.unknown.source", lambda *_: Mixed.of([more.triggers[0]]))
    monkeypatch.setattr("unbackdoor.unlearning.unknown._wider", lambda *_: more)
    monkeypatch.setattr("unbackdoor.unlearning.unknown.works", lambda *_: False)
    monkeypatch.setattr("unbackdoor.clip.handle.Clip.save", lambda self, folder: None)

    def run() -> dict[str, Any]:
        common = {"data": toy_images(), "test": toy_images(), "templates": template(tmp_path)}
        return unlearn_scan(finding=story(True, "cow"), model=toy_clip(6.0), out=tmp_path / "cure", **common)

    if killed:
        with pytest.raises(Interrupted):
            run()
    result = run()
    assert [s for s in steps if not s.endswith("!")] == ["cure 1", "left 1", "cure 2", "left 2", "scan 1"]
    (row,) = result["rounds"]
    assert row["trigger"] == more.spec() and row["not_whole"] is None and result["whole"]


def test_a_killed_scan_goes_on_with_the_inverters_that_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["patch", "colour", "wave"]
    common = {"data": toy_images(), "inverters": names, "templates": template(tmp_path)}
    whole = scan(model=toy_clip(6.0), out=tmp_path / "whole", **common)
    ran: list[str] = []
    from unbackdoor.scan import examine as module

    found = module.inverter

    def counted(name: str) -> object:
        def invert(subject: Any) -> Any:
            if name == "wave" and "wave" not in ran:
                ran.append("wave")
                raise KeyboardInterrupt
            ran.append(name)
            return found(name).invert(subject)

        return replace(found(name), invert=invert)

    monkeypatch.setattr(module, "inverter", counted)
    with pytest.raises(Interrupted):
        scan(model=toy_clip(6.0), out=tmp_path / "broken", **common)
    broken = scan(model=toy_clip(6.0), out=tmp_path / "broken", **common)
    assert ran == ["patch", "colour", "wave", "wave"], "what was found before is read back"

    def lasting(result: Any) -> dict[str, Any]:
        rows = result.as_dict()
        for row in (*rows["inverters"], rows["trigger"]):
            row.pop("seconds", None), row.pop("picture", None)
        return {key: value for key, value in rows.items() if key not in ("seconds", "report")}

    assert lasting(whole) == lasting(broken)
    assert not (tmp_path / "broken" / ".work").exists()


def test_an_output_of_another_run_is_refused(tmp_path: Path) -> None:
    common = {"data": toy_images(), "inverters": ["colour"], "templates": template(tmp_path)}
    out = tmp_path / "finding"
    first = scan(model=toy_clip(6.0), out=out, **common)
    assert scan(model=toy_clip(6.0), out=out, **common)["target"] == first["target"], "the same run may be made again"
    for change in ({"seed": 1}, {"model": toy_clip(5.0)}, {"data": toy_images(80)}):
        with pytest.raises(InputError, match=r"another run \(scan, begun .*\); give another name"):
            scan(**{"model": toy_clip(6.0), **common, **change, "out": out})
    assert json.loads((out / "finding.json").read_text())["seed"] == 0
    (out / "manifest.json").write_text("[]")
    with pytest.raises(InputError, match="another program's files"):
        scan(model=toy_clip(6.0), out=out, **common)
    null = tmp_path / "null.jsonl"
    calibrate(models=[toy_clip(0.0)], out=null, **common)
    with pytest.raises(InputError, match="another run"):
        calibrate(models=[toy_clip(0.0)], out=null, **{**common, "seed": 1})
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="is there already"):
        calibrate(models=[toy_clip(0.0)], out=tmp_path / "mine.txt", **common)
