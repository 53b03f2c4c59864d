"""Every format of `vet`, for every kind of verdict, against its official schema (tests/schemas), without a network."""

from __future__ import annotations

import base64
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import xmlschema
import yaml
from huggingface_hub import parse_eval_result_entries
from jsonschema import Draft4Validator, Draft7Validator, Draft202012Validator, ValidationError
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

from tests.formats.results import KINDS, NASTY, PNG, WEIGHTS, result
from unbackdoor.formats import FORMATS
from unbackdoor.formats.card import summary
from unbackdoor.triggers.base import shorten
from unbackdoor.verbs.schemas import FOLDER
from unbackdoor.vetting.result import VetResult

SCHEMAS = Path(__file__).parent.parent / "schemas"
ALL = [k for k in KINDS if "let pass" not in k]


def schema(name: str) -> Any:
    return json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))


@cache
def cyclonedx_validator() -> Draft7Validator:
    """With the schemas that it refers to by their files' names."""
    whole = schema("bom-1.6")
    base = whole["$id"].rpartition("/")[0]
    parts = [(f"{base}/{n}.schema.json", DRAFT7.create_resource(schema(n))) for n in ("spdx", "jsf-0.82")]
    registry: Registry[Any] = Registry().with_resources([*parts, (whole["$id"], Resource.from_contents(whole))])
    return Draft7Validator(whole, registry=registry)


def check_json(text: str) -> None:
    Draft202012Validator(json.loads((FOLDER / "vet.json").read_text(encoding="utf-8"))).validate(json.loads(text))
    again = VetResult.read(json.loads(text))
    assert FORMATS.get("json").render(again) == text


def check_sarif(text: str) -> None:
    Draft4Validator(schema("sarif-2.1.0")).validate(json.loads(text))


def check_cyclonedx(text: str) -> None:
    cyclonedx_validator().validate(json.loads(text))
    refs = re.findall(r'"bom-ref": "([^"]+)"', text)
    assert len(set(refs)) == len(refs), "every bom-ref is unique"


def check_intoto(text: str) -> None:
    Draft202012Validator(schema("intoto")).validate(json.loads(text))


def check_junit(text: str) -> None:
    xmlschema.XMLSchema(str(SCHEMAS / "junit-10.xsd")).validate(text)


def check_card(text: str) -> None:
    """No tag, no code and no control character of a stranger is left as such; a table's rows have its columns."""
    assert not re.search(r"(?<!\\)[<`]|[\x00-\x09\x0b-\x1f\u202a-\u202e]", text)
    width = 0
    for line in text.splitlines():
        bars = len(re.findall(r"(?<!\\)\|", line))
        assert not width or bars in (0, width), line
        width = bars


def check_hub(text: str) -> None:
    entries = parse_eval_result_entries(yaml.safe_load(text))
    assert entries and all(0 <= entry.value <= 1 and entry.date.endswith("Z") for entry in entries)


CHECKS = {
    "json": check_json,
    "sarif": check_sarif,
    "cyclonedx": check_cyclonedx,
    "intoto": check_intoto,
    "junit": check_junit,
    "model-card": check_card,
    "eval-results": check_hub,
}
# What has nothing to say, and writes no file then.
SILENT = {
    "intoto": {"in memory", "no file"},
    "eval-results": {"cannot tell", "let pass", "not let pass", "unsafe", "error", "no file"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FORMATS.names())
def test_a_format_keeps_to_its_schema(name: str, kind: str) -> None:
    one = result(kind)
    assert (one.models[0].verdict, one.exit_code) == KINDS[kind]
    text = FORMATS.get(name).render(one)
    assert (text is None) == (kind in SILENT.get(name, ()))
    if text is not None:
        CHECKS[name](text)


SILENT_SARIF = ("clean", "unsafe")  # no result, and one that names the file


@pytest.mark.parametrize("name", [n for n in FORMATS.names() if not FORMATS.get(n).each])
def test_many_models_are_one_file(name: str) -> None:
    text = FORMATS.get(name).render(result(*ALL))
    assert text is not None and all(f"models/{k}" in text for k in ALL if name != "sarif" or k not in SILENT_SARIF)
    CHECKS[name](text)


def test_every_format_has_its_check_and_its_own_file() -> None:
    assert set(CHECKS) == set(FORMATS.names())
    assert len({FORMATS.get(name).file for name in FORMATS.names()}) == len(CHECKS)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("sarif", lambda form: form["runs"][0]["results"][0].pop("message")),
        ("cyclonedx", lambda form: form["components"][0].update(type="model")),
        ("cyclonedx", lambda form: form["components"][0].update(licenses=[{"license": {"id": "No-Such-Licence"}}])),
        ("intoto", lambda form: form["subject"][0].pop("digest")),
        ("intoto", lambda form: form["predicate"].update(result="GOOD")),
        ("json", lambda form: form["models"][0].update(verdict="fine")),
    ],
)
def test_a_schema_can_be_broken(name: str, change: Any) -> None:
    form = json.loads(FORMATS.get(name).render(result("backdoored")) or "")
    change(form)
    with pytest.raises(ValidationError):
        CHECKS[name](json.dumps(form))


def test_the_xsd_can_be_broken() -> None:
    text = FORMATS.get("junit").render(result("clean")) or ""
    with pytest.raises(xmlschema.XMLSchemaValidationError):
        check_junit(text.replace("<testcase ", "<case ").replace("</testcase>", "</case>"))


# (rule, level) of the results, and the run's exit code and success.
SARIF = {
    "clean": ([], 0, True),
    "backdoored": ([("UB001", "error")], 1, True),
    "in memory": ([("UB001", "error")], 1, True),
    "cannot tell": ([("UB003", "warning")], 4, True),
    "let pass": ([("UB003", "note")], 0, True),
    "not let pass": ([("UB003", "error")], 1, True),
    "cured": ([("UB001", "error")], 0, True),
    "unsafe": ([("UB002", "error")], 1, True),
    "error": ([("UB004", "error")], 2, False),
    "no file": ([("UB004", "error")], 2, False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_sarif(kind: str) -> None:
    (run,) = json.loads(FORMATS.get("sarif").render(result(kind)) or "")["runs"]
    rules = run["tool"]["driver"]["rules"]
    invocation = run["invocations"][0]
    found = [(r["ruleId"], r["level"]) for r in run["results"]]
    assert (found, invocation["exitCode"], invocation["executionSuccessful"]) == SARIF[kind]
    for one in run["results"]:
        assert rules[one["ruleIndex"]]["id"] == one["ruleId"]
        assert len(one["partialFingerprints"]["weights/v1"]) == 64
        for place in one["locations"]:
            uri = place["physicalLocation"]["artifactLocation"]["uri"]
            assert uri.startswith("models/") and " " not in uri
            index = place["physicalLocation"]["artifactLocation"].get("index")
            assert index is None or run["artifacts"][index]["location"]["uri"] == uri
        assert one["locations"], "GitLab refuses results without a place"
    for artifact, file in zip(run["artifacts"], result(kind).models[0].files, strict=True):
        assert artifact["hashes"] == {"sha-256": file.sha256}
    tags = {rule["id"]: rule["properties"]["tags"] for rule in rules}
    assert {"AML.T0018.000", "AML.T0043.004", "AML.M0008", "external/cwe/cwe-506"} <= set(tags["UB001"])
    assert {"AML.T0010.003", "AML.M0008", "external/cwe/cwe-502"} <= set(tags["UB002"])
    assert all("AML.M0008" in t and len(t) <= 10 for t in tags.values())


def test_fingerprints_follow_the_weights_alone() -> None:
    def prints(*kinds: str) -> list[str]:
        (run,) = json.loads(FORMATS.get("sarif").render(result(*kinds)) or "")["runs"]
        return [r["partialFingerprints"]["weights/v1"] for r in run["results"]]

    assert prints("backdoored") == prints("cured") and len({*prints("backdoored"), *prints("cannot tell")}) == 2


def test_cyclonedx_tells_what_was_measured() -> None:
    form = json.loads(FORMATS.get("cyclonedx").render(result("cured")) or "")
    (model,) = form["components"]
    assert model["type"] == "machine-learning-model" and model["hashes"] == [
        {"alg": "SHA-256", "content": WEIGHTS.sha256}
    ]
    metrics = {m["type"]: m for m in model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]}
    strength = metrics["strength of the recovered trigger"]
    assert strength["value"] == "0.9375" and strength["confidenceInterval"] == {
        "lowerBound": "0.717",
        "upperBound": "0.989",
    }
    assert metrics["p-value of the backdoor scan"]["value"] == "0.02"
    assert metrics["clean accuracy, after the cure"]["value"] == "0.895"
    (graphic,) = model["modelCard"]["quantitativeAnalysis"]["graphics"]["collection"]
    assert graphic["image"]["content"] == PNG and base64.b64decode(PNG)
    assert any("no proof" in text for text in model["modelCard"]["considerations"]["technicalLimitations"])
    (flaw,) = form["vulnerabilities"]
    assert flaw["affects"] == [{"ref": model["bom-ref"]}] and flaw["cwes"] == [506]
    assert "vulnerabilities" not in json.loads(FORMATS.get("cyclonedx").render(result("clean")) or "")


@pytest.mark.parametrize(
    ("kind", "outcome", "failing"),
    [
        ("clean", "WARNED", []),  # it took longer than the policy's minute
        ("backdoored", "FAILED", ["no-backdoor"]),
        ("cured", "FAILED", ["no-backdoor"]),
        ("cannot tell", "WARNED", []),
        ("let pass", "WARNED", []),
        ("not let pass", "FAILED", ["no-backdoor"]),
        ("unsafe", "FAILED", ["safe-files"]),
        ("error", "FAILED", ["opens"]),
    ],
)
def test_in_toto_speaks_of_the_files_that_were_given(kind: str, outcome: str, failing: list[str]) -> None:
    form = json.loads(FORMATS.get("intoto").render(result(kind)) or "")
    assert (form["predicate"]["result"], form["predicate"]["failedTests"]) == (outcome, failing)
    assert form["subject"][0] == {"name": "model.safetensors", "digest": {"sha256": WEIGHTS.sha256}}
    assert kind == "clean" or "no-backdoor" not in form["predicate"]["passedTests"]
    policy = json.loads(base64.b64decode(form["predicate"]["configuration"][0]["content"]))
    assert policy == result(kind).policy.as_dict()


JUNIT = {  # failures, errors, skipped
    "clean": (0, 0, 1), "backdoored": (1, 0, 1), "in memory": (1, 0, 2), "cannot tell": (0, 1, 1),
    "let pass": (0, 0, 1), "not let pass": (1, 0, 1),
    "cured": (0, 0, 1), "unsafe": (1, 0, 2), "error": (0, 1, 0), "no file": (0, 1, 0),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_junit_stops_ci_where_the_exit_code_does(kind: str) -> None:
    from xml.etree import ElementTree

    whole = ElementTree.fromstring(FORMATS.get("junit").render(result(kind)) or "")
    suite = whole[0]
    assert tuple(int(suite.get(k, "")) for k in ("failures", "errors", "skipped")) == JUNIT[kind]
    stops = int(whole.get("failures", "")) + int(whole.get("errors", ""))
    assert (stops > 0) == (KINDS[kind][1] != 0)
    assert int(suite.get("tests", "")) == len(suite.findall("testcase")) == len(result(kind).models[0].checks)


def test_a_card_names_the_target_as_text() -> None:
    text = FORMATS.get("model-card").render(result("backdoored")) or ""
    assert "⛔" in text and "\\<script\\>" in text and shorten("badnets:size=2") in text
    assert NASTY not in text and WEIGHTS.path not in text, "a path of this machine is nobody's business"


def test_a_table_of_many_models() -> None:
    text = summary(result(*ALL))
    check_card(text)
    assert text.count("\n") == len(ALL) + 4 and "| models/clean | clean | 0 | 0.6 | – |" in text


def test_the_hub_is_told_no_strength_of_what_is_no_finding() -> None:
    def tasks(kind: str) -> set[str]:
        return {e["dataset"]["task_id"] for e in yaml.safe_load(FORMATS.get("eval-results").render(result(kind)) or "")}

    assert "recovered-trigger-strength" in tasks("backdoored") and tasks("clean") == {
        "backdoor-p-value",
        "backdoor-probability",
    }
