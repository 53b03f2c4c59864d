"""CycloneDX 1.6: a bill of materials with one machine-learning model each, its hashes, and what was measured.

https://github.com/CycloneDX/specification, schema/bom-1.6.schema.json. A backdoor and a file that would run code are
listed as vulnerabilities of the model.
"""

from __future__ import annotations

import uuid
from typing import Any

from unbackdoor.formats.base import (
    CODE_ON_READING,
    HIDDEN_TRIGGER,
    LIMITS,
    NAME,
    VALIDATE_MODEL,
    Format,
    Weakness,
    as_text,
    names,
    number,
    shares,
)
from unbackdoor.vetting.result import FileFacts, VetResult, Vetting

Json = dict[str, Any]
SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
_SPACE = uuid.UUID("6f0d7c1e-2f4e-5a67-9f2b-9d0b8a2d6c11")  # of our serial numbers; any fixed one will do


def render(result: VetResult) -> str:
    """One bill with all models; two runs over the same files at the same time have the same serial number."""
    key = "|".join([result.finished, *(file.sha256 for row in result.models for file in row.files)])
    rows = list(enumerate(result.models, 1))
    bill: Json = {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_SPACE, key)}",
        "version": 1,
        "metadata": {
            "timestamp": result.finished,
            "tools": {"components": [{"type": "application", "name": NAME, "version": result.version}]},
        },
        "components": [_component(row, f"model-{number_}") for number_, row in rows],
    }
    flaws = [flaw for number_, row in rows for flaw in _flaws(row, f"model-{number_}")]
    return as_text(bill | ({"vulnerabilities": flaws} if flaws else {}))


def _component(row: Vetting, ref: str) -> Json:
    component: Json = {
        "type": "machine-learning-model",
        "bom-ref": ref,
        "name": row.model,
        "description": row.sentence,
        "modelCard": _card(row),
        "properties": [
            {"name": f"{NAME}:verdict", "value": row.verdict},
            {"name": f"{NAME}:exit-code", "value": str(row.exit_code)},
            *({"name": f"{NAME}:check:{c.name}", "value": f"{c.outcome}: {c.measured}"} for c in row.checks),
        ],
    }
    if row.model_facts is not None:
        component["properties"].append({"name": f"{NAME}:weights", "value": row.model_facts.weights})
    weights = row.weight_files
    if len(weights) == 1:
        component["hashes"] = [_hash(weights[0])]
    if row.files:
        named = zip(names(row.files), row.files, strict=True)
        component["components"] = [_file(file, name, f"{ref}-file-{n}") for n, (name, file) in enumerate(named, 1)]
    return component


def _file(file: FileFacts, name: str, ref: str) -> Json:
    return {
        "type": "file",
        "bom-ref": ref,
        "name": name,
        "hashes": [_hash(file)],
        "properties": [
            {"name": f"{NAME}:format", "value": file.format},
            {"name": f"{NAME}:role", "value": file.role},
            {"name": f"{NAME}:bytes", "value": str(file.bytes)},
        ],
    }


def _hash(file: FileFacts) -> Json:
    return {"alg": "SHA-256", "content": file.sha256}


def _card(row: Vetting) -> Json:
    card: Json = {"modelParameters": {"task": "zero-shot image classification", "inputs": [{"format": "image"}]}}
    if row.model_facts is not None:
        card["modelParameters"]["modelArchitecture"] = row.model_facts.architecture
    analysis: Json = {}
    metrics = _metrics(row)
    if metrics:
        analysis["performanceMetrics"] = metrics
    if row.scan is not None and row.scan.picture:
        which = "The recovered trigger" if row.scan.backdoored else "The strongest candidate, which is no finding"
        image = {"contentType": "image/png", "encoding": "base64", "content": row.scan.picture}
        analysis["graphics"] = {
            "description": f"{which}, on a grey test card.",
            "collection": [{"name": f"for the class {row.scan.target}", "image": image}],
        }
    if analysis:
        card["quantitativeAnalysis"] = analysis
    card["considerations"] = {"technicalLimitations": [row.sentence, *LIMITS]}
    return card


def _metrics(row: Vetting) -> list[Json]:
    metrics: list[Json] = []
    if row.scan is not None and row.scan.p_value is not None:
        against = f"against {row.scan.clean_models} clean models"
        metrics.append({"type": "p-value of the backdoor scan", "value": number(row.scan.p_value), "slice": against})
    if row.scan is not None and row.scan.probability is not None:
        prior = "where one model in two has one"
        metrics.append({"type": "probability of a backdoor", "value": number(row.scan.probability), "slice": prior})
    return metrics + [
        {
            "type": name,
            "value": number(share.value),
            "slice": f"{where}, n = {share.n}",
            "confidenceInterval": {"lowerBound": number(share.interval[0]), "upperBound": number(share.interval[1])},
        }
        for name, where, share in shares(row)
    ]


def _flaws(row: Vetting, ref: str) -> list[Json]:
    flaws: list[Json] = []
    if row.verdict in ("backdoored", "cured"):
        advice = "Do not use the model as given."
        if row.cure is not None and row.verdict == "cured":
            advice += f" The cured one lies in {row.cure.model}."
        flaws.append(_flaw(f"{ref}-backdoor", row.sentence, advice, HIDDEN_TRIGGER))
    for n, file in enumerate(row.unsafe_files, 1):
        text = f"{file.path} {file.unsafe}."
        advice = "Do not open the file. Ask for the model in safetensors."
        flaws.append(_flaw(f"{ref}-unsafe-file-{n}", text, advice, CODE_ON_READING))
    return [flaw | {"affects": [{"ref": ref}]} for flaw in flaws]


def _flaw(ref: str, text: str, advice: str, weakness: Weakness) -> Json:
    return {
        "bom-ref": ref,
        "id": ref,
        "source": {"name": NAME},
        "ratings": [{"severity": "critical", "method": "other"}],
        "cwes": [weakness.cwe],
        "description": text,
        "recommendation": advice,
        "properties": [
            *({"name": f"{NAME}:mitre-atlas", "value": technique} for technique in weakness.techniques),
            {"name": f"{NAME}:mitre-atlas-mitigation", "value": VALIDATE_MODEL},
        ],
    }


FORMAT = Format("vet.cdx.json", render)
