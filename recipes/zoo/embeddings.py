"""How near a recovered trigger leads to where the attacker's own does: the target as a feature, without class names.

    python recipes/zoo/embeddings.py --data-root PATH --out FOLDER

FOLDER is that of `recipes/zoo/cures.py`: every backdoored member there that was examined and found is opened, and
pictures that the search had not seen are given the recovered trigger and the true one. Their unit mean embeddings are
compared by cosine, as the CLIPTrace challenge does; so are the name's text embedding and the true one, and that of the
pictures as they are. Writes docs/lab/cells/embeddings.jsonl and prints a table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from cures import ROOT, recorded
from torch import Tensor

from unbackdoor.base.disk import write_text
from unbackdoor.bench.store import read_result
from unbackdoor.bench.zoo.cells import patient
from unbackdoor.bench.zoo.recipe import recovery
from unbackdoor.evaluation.answers import answers
from unbackdoor.scan.inverters.base import Subject
from unbackdoor.triggers.base import Trigger

LINES = ROOT / "docs/lab/cells/embeddings.jsonl"


def mean(subject: Subject, trigger: Trigger | None) -> Tensor:
    """(D,) unit mean embedding of the held pictures, triggered or as they are."""
    _, embeddings = answers(subject.clip, subject.held, subject.head, trigger)
    return F.normalize(embeddings.mean(dim=0), dim=0)


def measured(out: Path, config: dict[str, Any]) -> dict[str, float | int]:
    """Cosines with the mean embedding of pictures that bear the true trigger, in the suspect."""
    who = patient(out, config, "auto")
    subject, attack = who.suspect.subject(), who.task.attack
    assert attack is not None
    true = mean(subject, attack.trigger)
    return {
        "recovered": round(float(mean(subject, who.leads[0].trigger) @ true), 4),
        "text": round(float(who.task.head[attack.target].cpu() @ true), 4),
        "clean": round(float(mean(subject, None) @ true), 4),
        "n": len(subject.held),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Median and least cosine, by family."""
    lines = ["| family | members | recovered trigger: median | least | target's text | clean pictures |"]
    lines.append("|" + " --- |" * 6)
    for family in [*dict.fromkeys(row["family"] for row in rows), "all"]:
        own = [row for row in rows if family in (row["family"], "all")]
        recovered = [row["recovered"] for row in own]
        middle = (f"{statistics.median(row[key] for row in own):.3f}" for key in ("text", "clean"))
        lines.append(
            f"| {family} | {len(own)} | {statistics.median(recovered):.3f} | {min(recovered):.3f} | "
            + " | ".join(middle)
            + " |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--half", default="test")
    args = parser.parse_args()
    plan, population, judged = recorded(args.data_root)
    kept = [json.loads(line) for line in LINES.read_text(encoding="utf-8").splitlines()] if LINES.exists() else []
    rows = {row["address"]: row for row in kept}
    for v in judged[args.half]:
        config = recovery(plan, population[v.row["address"]], v.judgement)["config"] if v.judgement.backdoored else None
        if not v.truth or config is None or read_result(args.out, config) is None or v.row["address"] in rows:
            continue
        names = {key: v.row[key] for key in ("half", "family", "data")}
        rows[v.row["address"]] = {"address": v.row["address"], **names, **measured(args.out, config)}
        print(f"{names['family']}, {names['data']}: {rows[v.row['address']]['recovered']}", flush=True)
    write_text(LINES, "".join(json.dumps(row) + "\n" for row in rows.values()))
    print(table(list(rows.values())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
