"""What `vet` returns: one line of facts and judgement for each model, and the worst of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from unbackdoor.runs.result import Result, Share, numbers, optional, plain
from unbackdoor.vetting.policy import Policy

Outcome = Literal["pass", "fail", "cannot-tell", "warn", "not-run"]
Verdict = Literal["clean", "backdoored", "cured", "cannot-tell", "unsafe", "error"]


@dataclass(frozen=True)
class Import:
    """A name that a pickle would import if it were run.

    Args:
        risk: `dangerous` where it is known to be, else `unknown`.
    """

    name: str
    risk: Literal["dangerous", "unknown"]


@dataclass(frozen=True)
class FileFacts:
    """A file of the model as it lies on disk.

    Args:
        path: as the model was named, with the file's name.
        role: what it is for.
        format: `safetensors`, `torch` (of torch.save, read as plain tensors), `pickle`, `torchscript`, `json`,
            `python`, or the file's suffix.
        sha256: of its bytes.
        imports: what its pickles would import, as far as that is not known to be harmless.
        unsafe: why opening it as usual would run code; None where it would not.
    """

    path: str
    role: Literal["weights", "adapter", "base", "configuration", "code"]
    format: str
    bytes: int
    sha256: str
    imports: tuple[Import, ...] = ()
    unsafe: str | None = None


@dataclass(frozen=True)
class ModelFacts:
    """The opened model.

    Args:
        kind: the library's form.
        parameters: how many.
        image_size: pixels a side.
        weights: hash of the tensors in memory, names and types included; it does not depend on the file's format.
    """

    kind: str
    architecture: str
    parameters: int
    image_size: int
    embed_dim: int
    weights: str


@dataclass(frozen=True)
class ScanFacts:
    """What the scan came to; all of it stands in `finding.json`.

    Args:
        backdoored: None means that it cannot be told.
        target: the likeliest class.
        trigger: spec of the recovered trigger; a candidate where nothing was found.
        strength: held-out pictures that it turns.
        picture: PNG in base64 of the trigger on a test card.
        report: the scan's page, seen from the model's folder.
    """

    backdoored: bool | None
    message: str
    p_value: float | None
    probability: float | None
    false_alarm_rate: float
    clean_models: int
    target: str
    confidence: float
    inverter: str
    trigger: str
    strength: Share
    others: tuple[str, ...]
    picture: str
    data: str
    images: int
    seconds: float
    report: str | None = None


@dataclass(frozen=True)
class CureFacts:
    """What the cure came to; all of it stands in the cure's `result.json`.

    Args:
        model: folder of the cured model, seen from the model's folder.
        files: its weight files.
        rounds: cures.
        whole: the last scan found nothing, and no round fell short.
        left: the class that a further round would have cured.
        before, after: clean accuracy; without labels, the share of answers that stay.
        labels: the accuracy was measured with labels.
        loss: percentage points that it fell by; without labels, at most so many.
        strength: of the recovered trigger on the cured model, in the last round.
        report: the last round's page.
    """

    model: str
    files: tuple[FileFacts, ...]
    rounds: int
    whole: bool
    left: str | None
    before: Share
    after: Share
    labels: bool
    loss: float
    strength: Share
    seconds: float
    report: str


@dataclass(frozen=True)
class Check:
    """One line of the policy, and what was measured.

    Args:
        wanted: what the policy says.
        measured: in words.
    """

    name: Literal["opens", "safe-files", "no-backdoor", "cure", "time"]
    outcome: Outcome
    wanted: str
    measured: str


@dataclass(frozen=True, kw_only=True)
class Vetting:
    """One model.

    Args:
        model: as it was named.
        folder: of its own outputs, seen from the run's; empty where they are the run's.
        verdict: what it was found to be.
        exit_code: what a run of this model alone ends with.
        sentence: the verdict in words.
        error: why it could not be vetted.
        model_facts: None where it was not opened.
        scan: None where it was not scanned.
        cure: None where it was not cured.
    """

    model: str
    folder: str = ""
    verdict: Verdict
    exit_code: int
    sentence: str
    checks: tuple[Check, ...]
    error: str | None = None
    files: tuple[FileFacts, ...] = ()
    model_facts: ModelFacts | None = None
    scan: ScanFacts | None = None
    cure: CureFacts | None = None
    finished: str
    seconds: float

    @property
    def weight_files(self) -> tuple[FileFacts, ...]:
        """The files that hold numbers of the model."""
        return tuple(file for file in self.files if file.role in ("weights", "adapter", "base"))

    @property
    def unsafe_files(self) -> tuple[FileFacts, ...]:
        """The files that would run code."""
        return tuple(file for file in self.files if file.unsafe is not None)


@dataclass(frozen=True, eq=False, kw_only=True)
class VetResult(Result):
    """What `vet` has come to.

    Args:
        exit_code: of the run; of several models the worst one's, in the order 1, 3, 2, 4, 0.
        sentence: the verdict in words.
        version: of unbackdoor.
        data: its spec.
        origin: the clean model that was named.
        policy: what the models were held against.
        models: one each, in the order in which they were named.
        finished: when, in UTC.
        seconds: wall time; of models that were vetted before, none.
        outputs: files of the formats that were asked for.
        report: the page.
    """

    verb: Literal["vet"] = "vet"
    exit_code: int
    sentence: str
    version: str
    data: str
    origin: str | None
    policy: Policy
    models: tuple[Vetting, ...]
    seed: int
    finished: str
    seconds: float
    outputs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    report: str | None = optional()

    def only(self, row: Vetting) -> VetResult:
        """The result as if this were the only model."""
        alone = (replace(row, folder=""),)
        return replace(self, models=alone, exit_code=row.exit_code, sentence=row.sentence, outputs={}, report=None)

    def measured(self) -> dict[str, Any]:
        """Its numbers; of one model, those of the model, too."""
        own = numbers(plain(self.models[0])) if len(self.models) == 1 else {}
        return {**own, **super().measured()}
