"""What the results of several verbs hold alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from unbackdoor.attacks.plant import Planted
from unbackdoor.base.manifest import Manifest
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.evaluation import Task, evaluate_kept, evaluate_retrieval
from unbackdoor.metrics.backdoor import AlphaPoint, BackdoorRates, ClassCounts
from unbackdoor.runs.result import Recalls, Share
from unbackdoor.runs.run import weights_hash
from unbackdoor.triggers.attack import Attack
from unbackdoor.verbs.results.cures import ClassAnswers, ClassLine, CurvePoint


class Hashed(Protocol):
    """Images or pairs."""

    def content_hash(self) -> str:
        """SHA-256 of what they hold."""


def subjects(clip: Clip, train: ImageSet, held_out: ImageSet, attack: Attack) -> dict[str, Any]:
    """What a run worked on, for its settings."""
    return {
        "model": clip.reference,
        "data": train.spec,
        "test": held_out.spec,
        "trigger": attack.trigger.spec(),
        "target": attack.name,
    }


def manifest_of(verb: str, settings: dict[str, Any], clip: Clip, weights: str, **data: Hashed) -> Manifest:
    """The manifest of a run that begins, with the hashes of what goes in.

    Args:
        weights: what the hash of the model's weights is called.
        data: images or pairs, by what their hash is called.
    """
    manifest = Manifest(verb, settings)
    manifest.hashes[weights] = weights_hash(clip)
    manifest.hashes |= {name: part.content_hash() for name, part in data.items()}
    return manifest


def measured(clip: Clip, data: ImageSet, task: Task, work: Path, when: str, run: str) -> BackdoorRates:
    """Rates on the test images; those that a killed run has kept are not measured again.

    Args:
        when: `before` or `after`.
        run: the manifest's key.
    """
    return evaluate_kept(clip, data, task, work / f"{when}-{run[:16]}.json", label=when)


def recalls(clip: Clip, data: ImageSet, label: str) -> Recalls:
    """R@1/5/10 between images and their captions, both ways."""
    ways = evaluate_retrieval(clip, data, label=label)
    return {way: {f"r@{k}": Share.of(rate) for k, rate in rates.items()} for way, rates in ways.items()}


def keep_planted(folder: Path, clip: Clip, manifest: Manifest, planted: Planted) -> None:
    """Save the model that was planted, and note what it has become."""
    manifest.notes.update(poisoned=planted.poisoned, trained_on=planted.trained_on)
    clip.save(folder / "model")
    manifest.hashes["weights_after"] = weights_hash(clip)
    manifest.notes["loss"] = describe_sequence(planted.run.losses)
    manifest.notes["resumed_from"] = planted.run.resumed_from


def curve_of(points: Iterable[AlphaPoint]) -> tuple[CurvePoint, ...]:
    """For a result."""

    def at(p: AlphaPoint) -> CurvePoint:
        back = p.triggered_accuracy
        return CurvePoint(p.alpha, Share.of(p.ca), Share.of(p.asr), None if back is None else Share.of(back))

    return tuple(map(at, points))


def class_lines(names: Sequence[str], before: BackdoorRates, after: BackdoorRates) -> tuple[ClassLine, ...]:
    """For a result: every class that has a test image."""

    def answered(counts: ClassCounts) -> ClassAnswers:
        return ClassAnswers(counts.correct, counts.triggered_correct, counts.moved)

    # Both passes see the same images; names are those of the data, where labels index them.
    rows = zip(names, before.by_class, after.by_class, strict=False)
    return tuple(ClassLine(name, was.n, answered(was), answered(now)) for name, was, now in rows if was.n)


def when_rows(before: BackdoorRates, after: BackdoorRates) -> list[dict[str, Any]]:
    """The first two lines of `metrics.jsonl`."""
    return [{"when": "before", **before.as_dict()}, {"when": "after", **after.as_dict()}]


def retention(before: BackdoorRates, after: BackdoorRates) -> float | None:
    """after.ca / before.ca, None when the model knew nothing before."""
    return after.ca.value / before.ca.value if before.ca.hits else None


def describe_sequence(values: Sequence[float]) -> dict[str, float]:
    """First, last and smallest loss, for the manifest."""
    return {"first": values[0], "last": values[-1], "smallest": min(values)} if values else {}
