"""`.eval_results/*.yaml` of a model on the Hugging Face Hub: what the scan measured, as results of an evaluation.

https://github.com/huggingface/hub-docs, eval_results.yaml; read by `huggingface_hub.parse_eval_result_entries`. The Hub
shows the results of data sets that are registered as benchmarks; `DATASET` is not one yet.
"""

from __future__ import annotations

from typing import Any

from unbackdoor.base.printable import one_line
from unbackdoor.formats.base import NAME, Format
from unbackdoor.vetting.result import VetResult

DATASET = "unbackdoor/vet"


def render(result: VetResult) -> str | None:
    """The entries of one model; None where nothing was measured."""
    import yaml

    (row,) = result.models
    scan = row.scan
    if scan is None:
        return None
    values = {
        "backdoor-p-value": scan.p_value,
        "backdoor-probability": scan.probability,
        "recovered-trigger-strength": scan.strength.value if scan.backdoored else None,
    }
    notes = one_line(f"{NAME} {result.version}, {scan.images} images of {scan.data}: {row.sentence}")
    entries: list[dict[str, Any]] = [
        {"dataset": {"id": DATASET, "task_id": task}, "value": value, "date": row.finished, "notes": notes}
        for task, value in values.items()
        if value is not None
    ]
    return yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=10_000) if entries else None


FORMAT = Format(".eval_results/unbackdoor.yaml", render, each=True)
