"""SARIF 2.1.0 (OASIS): a result for each model that is not clean, at its weight file.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html. A clean model has no result, since some readers show
every result as an alert; that it was looked at stands under `artifacts` and `invocations`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from unbackdoor.formats.base import (
    CODE_ON_READING,
    HIDDEN_TRIGGER,
    NAME,
    VALIDATE_MODEL,
    Format,
    Weakness,
    address,
    as_text,
)
from unbackdoor.vetting.result import FileFacts, VetResult, Vetting

Json = dict[str, Any]
SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
BACKDOOR, UNSAFE, UNDECIDED, FAILED = "UB001", "UB002", "UB003", "UB004"
_MOST_LOCATIONS = 10
_CODES = {
    0: "all models pass",
    1: "a model fails the policy",
    2: "a model could not be vetted: bad input",
    3: "a model could not be vetted: internal error",
    4: "of a model it cannot be told",
}


def render(result: VetResult) -> str:
    """One run with all models."""
    files = {file.path: file for row in result.models for file in row.files}
    places = {path: index for index, path in enumerate(files)}
    ended = result.exit_code in (0, 1, 4)
    invocation: Json = {
        "executionSuccessful": ended,
        "exitCode": result.exit_code,
        "exitCodeDescription": _CODES[result.exit_code],
        "endTimeUtc": result.finished,
    }
    errors = [_notification(row) for row in result.models if row.verdict == "error"]
    if errors:
        invocation["toolExecutionNotifications"] = errors
    run = {
        "tool": {
            "driver": {
                "name": NAME,
                "version": result.version,
                "semanticVersion": result.version,
                "rules": _rules(),
            }
        },
        "automationDetails": {"id": f"{NAME}-vet/"},
        "columnKind": "unicodeCodePoints",
        "invocations": [invocation],
        "artifacts": [_artifact(file) for file in files.values()],
        "results": [entry for row in result.models for entry in _results(row, places)],
    }
    return as_text({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]})


def _rules() -> list[Json]:
    return [
        _rule(
            BACKDOOR,
            "BackdooredModel",
            "A trigger in the picture makes the model answer one class.",
            "Do not use the model. Take one from another source, or cure it: unbackdoor vet with cure: true.",
            ("error", 9.0),
            _tags(HIDDEN_TRIGGER),
        ),
        _rule(
            UNSAFE,
            "UnsafeFile",
            "Opening this file as usual would run code.",
            "Do not open it. Ask for the model in safetensors, without code beside it.",
            ("error", 9.5),
            _tags(CODE_ON_READING),
        ),
        _rule(
            UNDECIDED,
            "CannotTell",
            "The scan has no answer for this model.",
            "Name the clean model that this one was made from with --origin, or calibrate with clean models.",
            ("warning", 4.0),
            (VALIDATE_MODEL,),
        ),
        _rule(
            FAILED,
            "NotVetted",
            "The model could not be opened or scanned.",
            "Read the message; mend the file or the command.",
            ("error", 4.0),
            (VALIDATE_MODEL,),
        ),
    ]


def _tags(weakness: Weakness) -> tuple[str, ...]:
    return (*weakness.techniques, VALIDATE_MODEL, f"external/cwe/cwe-{weakness.cwe}")


def _rule(id: str, name: str, about: str, remedy: str, weight: tuple[str, float], tags: Sequence[str]) -> Json:
    level, severity = weight
    return {
        "id": id,
        "name": name,
        "shortDescription": {"text": about},
        "fullDescription": {"text": about},
        "help": {"text": remedy},
        "defaultConfiguration": {"level": level},
        "properties": {"tags": ["security", *tags], "security-severity": f"{severity:.1f}"},
    }


def _results(row: Vetting, places: dict[str, int]) -> list[Json]:
    """What is to be said of a model: at most one result for the model, and one for each unsafe file."""
    level = {0: "note", 4: "warning"}.get(row.exit_code, "error")
    entries = [
        _result(
            UNSAFE, "error" if row.verdict == "unsafe" else "warning", f"{file.path} {file.unsafe}.", [file], places
        )
        for file in row.unsafe_files
    ]
    rules = {"backdoored": BACKDOOR, "cured": BACKDOOR, "cannot-tell": UNDECIDED, "error": FAILED}
    if row.verdict in rules:
        # The file that was given is backdoored, whatever became of its copy.
        severity = "error" if row.verdict == "cured" else level
        one = _result(rules[row.verdict], severity, f"{row.model}: {row.sentence}", list(row.weight_files), places)
        if not row.weight_files:
            one["locations"] = [_place(row.model, None)]
        if row.scan is not None:
            one["properties"] = {
                "pValue": row.scan.p_value,
                "probability": row.scan.probability,
                "target": row.scan.target,
                "trigger": row.scan.trigger[:1000],
            }
        entries.append(one)
    return entries


def _result(rule: str, level: str, text: str, files: list[FileFacts], places: dict[str, int]) -> Json:
    key = hashlib.sha256("|".join([rule, *(file.sha256 for file in files)]).encode()).hexdigest()
    index = {BACKDOOR: 0, UNSAFE: 1, UNDECIDED: 2, FAILED: 3}[rule]
    return {
        "ruleId": rule,
        "ruleIndex": index,
        "level": level,
        "message": {"text": text},
        "locations": [_place(file.path, places[file.path]) for file in files[:_MOST_LOCATIONS]],
        "partialFingerprints": {"weights/v1": key},
    }


def _place(path: str, index: int | None) -> Json:
    """The file as a whole; readers that show a line show the first."""
    artifact: Json = {"uri": address(path)} | ({} if index is None else {"index": index})
    return {"physicalLocation": {"artifactLocation": artifact, "region": {"startLine": 1}}}


def _artifact(file: FileFacts) -> Json:
    return {
        "location": {"uri": address(file.path)},
        "length": file.bytes,
        "roles": ["analysisTarget"],
        "hashes": {"sha-256": file.sha256},
        "properties": {"format": file.format, "role": file.role},
    }


def _notification(row: Vetting) -> Json:
    return {
        "level": "error",
        "message": {"text": f"{row.model}: {row.error}"},
        "descriptor": {"id": "bad-input" if row.exit_code == 2 else "internal-error"},
    }


FORMAT = Format("vet.sarif", render)
