"""Every result by the name of its JSON Schema, which lies in `assets/schemas`."""

from __future__ import annotations

import json
from pathlib import Path

from unbackdoor.runs.result import Result
from unbackdoor.runs.schema import schema_of
from unbackdoor.scan.finding import Finding
from unbackdoor.verbs import results
from unbackdoor.vetting.result import VetResult

FOLDER = Path(__file__).parent.parent / "assets" / "schemas"
RESULTS: dict[str, type[Result]] = {
    "blind-cure": results.BlindCureResult,
    "convert": results.ConvertResult,
    "craft": results.CraftResult,
    "cure": results.CureResult,
    "data-info": results.DataInfo,
    "demo": results.DemoResult,
    "evaluate": results.EvaluateResult,
    "finding": Finding,
    "grid": results.GridResult,
    "locate": results.LocateResult,
    "map": results.MapResult,
    "model-info": results.ModelInfo,
    "null": results.NullResult,
    "plant": results.PlantResult,
    "push": results.PushResult,
    "trigger-info": results.TriggerInfo,
    "vector": results.VectorResult,
    "vet": VetResult,
    "weights": results.ArithmeticResult,
    "weights-inspect": results.InspectResult,
    "weights-lora": results.AdapterResult,
    "zoo": results.ZooResult,
}


def schema_text(name: str) -> str:
    """The schema's file as it should be."""
    return json.dumps(schema_of(RESULTS[name]), indent=1, ensure_ascii=False) + "\n"
