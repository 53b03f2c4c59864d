"""What the verbs return, but for `scan` (a `Finding`, `scan/finding.py`) and `vet` (`vetting/result.py`)."""

from __future__ import annotations

from unbackdoor.verbs.results.cures import BlindCureResult, CureResult, DemoResult, VectorResult
from unbackdoor.verbs.results.files import AdapterResult, ArithmeticResult, InspectResult
from unbackdoor.verbs.results.grids import GridResult, ZooResult
from unbackdoor.verbs.results.maps import LocateResult, MapResult
from unbackdoor.verbs.results.measures import DataInfo, EvaluateResult, ModelInfo, NullResult, TriggerInfo
from unbackdoor.verbs.results.plants import ConvertResult, CraftResult, PlantResult, PushResult

__all__ = [
    "AdapterResult",
    "ArithmeticResult",
    "BlindCureResult",
    "ConvertResult",
    "CraftResult",
    "CureResult",
    "DataInfo",
    "DemoResult",
    "EvaluateResult",
    "GridResult",
    "InspectResult",
    "LocateResult",
    "MapResult",
    "ModelInfo",
    "NullResult",
    "PlantResult",
    "PushResult",
    "TriggerInfo",
    "VectorResult",
    "ZooResult",
]
