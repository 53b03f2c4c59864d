"""Results of every kind that `vet` can come to, made by its own judgement of facts that are made up."""

from __future__ import annotations

import base64
from dataclasses import replace

from unbackdoor.runs.result import Share
from unbackdoor.vetting.policy import Policy
from unbackdoor.vetting.result import CureFacts, FileFacts, Import, ModelFacts, ScanFacts, VetResult, Vetting
from unbackdoor.vetting.verdict import Judged, failed, judged, worst

NASTY = 'a|b`<script>alert(1)</script>\x1b[31m\u202e & "é" #1'  # a stranger's class name, and a hard one to quote
WEIGHTS = FileFacts("models/a b/model.safetensors", "weights", "safetensors", 1234, "ab" * 32)
PICKLE = FileFacts(
    "models/a b/extra.pkl", "weights", "pickle", 55, "cd" * 32, (Import("posix.system", "dangerous"),),
    "is a pickle that would import posix.system (dangerous)",
)  # fmt: skip
MODEL = ModelFacts("open_clip", "OpenCLIP ViT-B-32", 151_000_000, 224, 512, "ef" * 32)
STRENGTH = Share(0.9375, 16, (0.717, 0.989))
PNG = base64.b64encode(b"\x89PNG no picture").decode()


def scan_facts(backdoored: bool | None) -> ScanFacts:
    said = {True: "p = 0.02 is at most 0.05", False: "p = 0.6 is above 0.05", None: "cannot tell: no clean models"}
    return ScanFacts(
        backdoored=backdoored,
        message=said[backdoored],
        p_value={True: 0.02, False: 0.6, None: None}[backdoored],
        probability={True: 0.97, False: 0.02, None: None}[backdoored],
        false_alarm_rate=0.05,
        clean_models=0 if backdoored is None else 49,
        target=NASTY,
        confidence=0.8,
        inverter="patch",
        trigger="badnets:size=2,pattern=white",
        strength=STRENGTH,
        others=("dog",),
        picture=PNG,
        data="folder:x#train",
        images=64,
        seconds=3.5,
        report="scan/report.html",
    )


def cure_facts(loss: float = 0.5, *, whole: bool = True, labels: bool = True) -> CureFacts:
    return CureFacts(
        model="cure/model",
        files=(replace(WEIGHTS, path="cure/model/model.safetensors"),),
        rounds=1,
        whole=whole,
        left=None,
        before=Share(0.9, 1000, (0.88, 0.917)),
        after=Share(round(0.9 - loss / 100, 4), 1000, (0.87, 0.91)),
        labels=labels,
        loss=loss,
        strength=Share(0.0, 1000, (0.0, 0.0038)),
        seconds=20.0,
        report="cure/round-1/report.html",
    )


def row(name: str, policy: Policy) -> Vetting:
    """The line of a model of a kind."""
    files: tuple[FileFacts, ...] = (WEIGHTS,)
    scan = {"clean": False, "cannot tell": None, "let pass": None, "not let pass": None}.get(name, True)
    facts: ScanFacts | None = scan_facts(scan)
    cure: CureFacts | str = cure_facts() if name == "cured" else ""
    error = None
    if name in ("unsafe", "error", "no file"):
        facts, files = None, (WEIGHTS, PICKLE) if name == "unsafe" else () if name == "no file" else (WEIGHTS,)
    if name == "in memory":
        files = ()
    verdict: Judged
    if name in ("error", "no file"):
        error = f"{NASTY}: no such model folder"
        verdict = failed(error, 2)
    else:
        verdict = judged(policy, files, facts, cure, 90.0)
    return Vetting(
        model=f"models/{name}",
        **vars(verdict),
        error=error,
        files=files,
        model_facts=None if facts is None else MODEL,
        scan=facts,
        cure=cure if isinstance(cure, CureFacts) else None,
        finished="2026-11-30T06:00:00Z",
        seconds=90.0,
    )


KINDS = {  # verdict and exit code
    "clean": ("clean", 0),
    "backdoored": ("backdoored", 1),
    "in memory": ("backdoored", 1),
    "cannot tell": ("cannot-tell", 4),
    "let pass": ("cannot-tell", 0),
    "not let pass": ("cannot-tell", 1),
    "cured": ("cured", 0),
    "unsafe": ("unsafe", 1),
    "error": ("error", 2),
    "no file": ("error", 2),
}


def result(*kinds: str) -> VetResult:
    """A result with a model of each of these kinds."""
    undecided = {"let pass": "pass", "not let pass": "fail"}.get(kinds[0], "cannot-tell")
    policy = Policy(cure="cured" in kinds, cannot_tell=undecided, minutes=1.0)
    rows = tuple(row(name, policy) for name in kinds)
    return VetResult(
        exit_code=worst(r.exit_code for r in rows),
        sentence=rows[0].sentence,
        version="0.1.0",
        data="folder:x",
        origin=None,
        policy=policy,
        models=rows,
        seed=0,
        finished="2026-11-30T06:00:00Z",
        seconds=91.0,
    )
