"""What `vector`, `unlearn`, `unlearn --scan` and `demo` return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from unbackdoor.runs.result import RateTable, Result, Share, optional, spread


@dataclass(frozen=True)
class CurvePoint:
    """Rates on the images for choosing, at one α."""

    alpha: float
    ca: Share
    asr: Share
    triggered_accuracy: Share | None = optional()


@dataclass(frozen=True)
class ClassAnswers:
    """How many images of a class one model answers so.

    Args:
        correct: with their class, as they are.
        triggered_correct: with their class, when triggered.
        moved: with the target, when triggered.
    """

    correct: int
    triggered_correct: int
    moved: int


@dataclass(frozen=True)
class ClassLine:
    """What a trigger does to the images of one class, before and after a cure.

    Args:
        name: of the class.
        n: test images of it.
    """

    name: str
    n: int
    before: ClassAnswers
    after: ClassAnswers


@dataclass(frozen=True)
class VectorFacts:
    """Where a vector came from: of a file its name and the suspect's hash, or how it was taken.

    Args:
        file: as it was named.
        origin: hash of the suspect that it was taken from, where the file tells.
        method: by which it was taken; what follows comes with it.
        samples: triggered images.
        steps: of the optimizer.
        lr: peak learning rate.
        toward: where triggered images were led, `clean` or `target`.
        anchor, guard, rank, trigger_scale: see `unbackdoor.unlearning.vector.VectorConfig`.
        norm: of the vector.
        relative_norm: as a share of the image tower's.
        vector_seconds: that taking it took.
        attempts: vectors that were taken until one was good enough on held-out views; this is the best of them.
    """

    file: str | None = optional()
    origin: str | None = optional(null=True)
    method: str | None = optional()
    samples: int | None = optional()
    steps: int | None = optional()
    lr: float | None = optional(null=True)
    toward: str | None = optional()
    anchor: float | None = optional()
    guard: float | None = optional()
    rank: int | None = optional()
    trigger_scale: float | None = optional(null=True)
    norm: float | None = optional()
    relative_norm: float | None = optional(null=True)
    vector_seconds: float | None = optional()
    attempts: int | None = optional()

    @property
    def absent(self) -> set[str]:
        """What a vector of this kind does not tell."""
        taken = {"lr", "trigger_scale", "relative_norm"} if self.method is None else set[str]()
        return taken | ({"origin"} if self.file is None else set())


@dataclass(frozen=True, eq=False, kw_only=True)
class VectorResult(Result):
    """A vector that `vector` took; the facts are those of `VectorFacts`.

    Args:
        vector: its file.
    """

    verb: Literal["vector"] = "vector"
    vector: str
    trigger: str
    target: str
    data: str
    method: str
    samples: int
    steps: int
    lr: float | None
    toward: str
    anchor: float
    guard: float
    rank: int
    trigger_scale: float | None
    norm: float
    relative_norm: float | None
    vector_seconds: float
    seed: int
    seconds: float


@dataclass(frozen=True, eq=False, kw_only=True)
class CureResult(Result):
    """A cure of a known attack, by `unlearn`.

    Args:
        verb: that was called; a round of `unlearn --scan` calls itself so.
        model: folder of the cured one.
        model_reference: the suspect's.
        trigger: its spec.
        target: name of the class.
        alpha: that was subtracted.
        chosen: α satisfies the rule.
        labels_used: for choosing α; without them "CA" there is agreement with the suspect.
        rule: in a sentence.
        message: what there is to say of the choice.
        nothing_to_remove: the trigger does not work on the suspect.
        retention: CA after, as a share of that before.
        before, after: rates on the test images.
        by_class: of the test images with labels, class by class; a class without any is left out. The target's own
            images count in none of the triggered rates above.
        curve: what was measured while α was chosen.
        tolerance: largest ASR that counts as cured.
        ca_floor: lowest CA on the images for choosing.
        vector: where it came from.
        original: of a demo: rates of the model before it was poisoned.
        suspect: of a demo: its folder.
        extra: what the caller of `unlearn` adds.
        report: the page.
    """

    verb: str
    model: str
    model_reference: str
    data: str
    test: str
    trigger: str
    target: str
    alpha: float
    chosen: bool
    labels_used: bool
    rule: str
    message: str | None
    nothing_to_remove: bool
    retention: float | None
    before: RateTable
    after: RateTable
    by_class: tuple[ClassLine, ...] | None = optional()
    curve: tuple[CurvePoint, ...]
    tolerance: float
    ca_floor: float | None
    vector: VectorFacts
    seed: int
    original: RateTable | None = optional()
    suspect: str | None = optional()
    extra: dict[str, Any] = spread()
    report: str
    seconds: float


@dataclass(frozen=True, eq=False, kw_only=True)
class DemoResult(CureResult):
    """The story of `demo`: the cure, the model before it was poisoned, and the time of it all.

    Args:
        cure_seconds: the cure's share of `seconds`.
    """

    verb: Literal["demo"]
    original: RateTable
    suspect: str
    cure_seconds: float


@dataclass(frozen=True)
class WhenShares:
    """A share before and after."""

    before: Share
    after: Share


@dataclass(frozen=True)
class FamilyReach:
    """How far triggers that the cure is not taken from reach in a model.

    Args:
        turned: held-out pictures that they turn, all together.
        pulls: by how much each raises the log odds of the class, a mean over held-out pictures.
        natural: the same in the clean twin; None where no origin is known.
    """

    turned: Share
    pulls: tuple[float, ...]
    natural: tuple[float, ...] | None


@dataclass(frozen=True)
class FamilyLeft:
    """What a cure left of triggers that it was not taken from.

    Args:
        inverter: that found the trigger which was cured.
        triggers: specs; the found one is the first.
        left: the most that any of them still pulls above nature, as a share of what it pulled; more than a tenth is not
            whole.
    """

    inverter: str
    triggers: tuple[str, ...]
    before: FamilyReach
    after: FamilyReach
    left: float


@dataclass(frozen=True)
class Round:
    """A round of `unlearn --scan`.

    Args:
        target: class whose trigger was cured.
        trigger: spec of the one that the vector was taken from.
        agreement: answers as before.
        recovered_asr: of that trigger.
        backdoored: what the scan after it says.
        message: why.
        short_of: no α satisfied the rule, and why; something of this backdoor is left.
        report: the cure's page.
        not_whole: triggers that the cure was not taken from still pull, and how far.
        family: what was measured of it; None where the scan called the model clean.
    """

    target: str
    trigger: str
    alpha: float
    agreement: Share
    recovered_asr: WhenShares
    backdoored: bool | None
    p_value: float | None
    message: str
    short_of: str | None
    report: str
    not_whole: str | None = None
    family: FamilyLeft | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class BlindCureResult(Result):
    """A cure of what a scan found, by `unlearn --scan`.

    Args:
        quiet: the last scan is, no round fell short, and the cure is whole.
        whole: of no class that was cured anything is known to be left: neither `short_of` nor `not_whole` was said of
            its last cure.
        left: the class that a further round would have cured.
        clean_accuracy: where the test images have labels.
        report: the page of all rounds.
    """

    verb: Literal["unlearn-scan"] = "unlearn-scan"
    model: str
    model_reference: str
    rounds: tuple[Round, ...]
    quiet: bool
    whole: bool = True
    left: str | None
    seed: int
    seconds: float
    clean_accuracy: WhenShares | None = optional()
    report: str | None = optional()
