"""One model of `vet`: look at its files, open it, scan it, cure it where the policy says so, and judge it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from unbackdoor.base.errors import InputError
from unbackdoor.base.manifest import write_json
from unbackdoor.base.printable import terminal
from unbackdoor.base.untrusted import is_there
from unbackdoor.clip.handle import Clip
from unbackdoor.metrics.rates import Rate
from unbackdoor.report.pictures import address
from unbackdoor.runs.case import Case
from unbackdoor.runs.result import Share
from unbackdoor.scan.finding import Finding
from unbackdoor.triggers.spec import from_spec
from unbackdoor.verbs.configs.vet import VetConfig
from unbackdoor.verbs.results import BlindCureResult
from unbackdoor.verbs.scan import scan
from unbackdoor.verbs.unlearn_scan import AGAIN, unlearn_scan
from unbackdoor.vetting.files import files_of
from unbackdoor.vetting.policy import Policy
from unbackdoor.vetting.result import CureFacts, FileFacts, ModelFacts, ScanFacts, Vetting
from unbackdoor.vetting.verdict import Judged, failed, is_refused, judged

_LARGEST_CARD = 96  # pixels a side of the picture of a trigger
_SHADES, _SQUARE = (0.4, 0.6), 8


@dataclass(frozen=True)
class Place:
    """Where one model's outputs lie.

    Args:
        folder: None writes nothing.
        key: of the run, which names what a killed one has kept in `folder/.work`.
    """

    folder: Path | None
    key: str


def vet_model(case: Case, config: VetConfig, policy: Policy, place: Place) -> Vetting:
    """Vet one model; a killed run does not scan again.

    Args:
        case: with the model.

    Raises:
        InputError: it cannot be opened, or not be scanned.
    """
    began = time.perf_counter()
    files = _files(case)
    if is_refused(policy, files):
        seconds = time.perf_counter() - began
        return _row(case, judged(policy, files, None, "", seconds), files, seconds)
    clip = case.clip()
    finding = _scanned(case, config, policy, clip, place)
    scan_facts = _scan_facts(finding, clip, place)
    cure, why_not = None, ""
    if finding.backdoored and policy.cure and place.folder is not None:
        try:
            cure = _cured(case, config, finding, clip, place.folder)
        except InputError as error:  # what was found stands, whatever keeps it from being cured
            why_not = str(error)
    seconds = time.perf_counter() - began
    row = _row(case, judged(policy, files, scan_facts, cure or why_not, seconds), files, seconds)
    return replace(row, model_facts=_model_facts(clip, finding), scan=scan_facts, cure=cure)


def not_vetted(case: Case, error: str, code: int) -> Vetting:
    """The line of a model that could not be vetted, with what can be said of its files.

    Args:
        code: 2 for bad input, 3 for an internal error.
    """
    try:
        files = _files(case)
    except InputError:
        files = ()
    return _row(case, failed(error, code), files, 0.0, error)


def now() -> str:
    """The time in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _files(case: Case) -> tuple[FileFacts, ...]:
    return files_of(str(case.model), case.checkpoint) if isinstance(case.model, str | Path) else ()


def _row(
    case: Case, verdict: Judged, files: tuple[FileFacts, ...], seconds: float, error: str | None = None
) -> Vetting:
    return Vetting(
        model=terminal(case.model.reference if isinstance(case.model, Clip) else str(case.model)),
        **vars(verdict),
        error=error,
        files=files,
        finished=now(),
        seconds=round(seconds, 2),
    )


def _scanned(case: Case, config: VetConfig, policy: Policy, clip: Clip, place: Place) -> Finding:
    """The finding, or the one that a killed run has kept."""
    kept = None if place.folder is None else place.folder / ".work" / f"finding-{place.key[:16]}.json"
    if kept is not None and is_there(kept):
        return Finding.read(kept)
    finding = scan(
        budget=policy.minutes,
        model=clip,
        data=case.data,
        null=config.null,
        origin=config.origin,
        relatives=config.relatives,
        inverters=config.inverters,
        false_alarm_rate=policy.false_alarm_rate,
        limit=case.limit,
        classes=case.classes,
        templates=case.templates,
        device=case.device,
        seed=case.seed,
        out=None if place.folder is None else place.folder / "scan",
    )
    if kept is not None:
        write_json(kept, finding)
    return finding


def _cured(case: Case, config: VetConfig, finding: Finding, clip: Clip, folder: Path) -> CureFacts:
    result = unlearn_scan(
        finding=finding.as_dict(),
        model=clip.clone(),
        data=case.data,
        test=case.test,
        null=config.null,
        origin=config.origin,
        test_limit=case.test_limit,
        classes=case.classes,
        templates=case.templates,
        device=case.device,
        seed=case.seed,
        out=folder / "cure",
    )
    return _cure_facts(result, folder)


def _cure_facts(result: BlindCureResult, folder: Path) -> CureFacts:
    """The cure in short, its places seen from the model's folder."""
    last, known = result.rounds[-1], result.clean_accuracy
    if known is not None and known.before.value is not None and known.after.value is not None:
        before, after = known.before, known.after
    else:  # an answer that stays is as right as it was: accuracy falls by no more than the answers that change
        n = last.agreement.n
        before, after = Share.of(Rate(n, n)), last.agreement
    place, page = "cure/model", f"round-{len(result.rounds)}"
    if Path(last.report).parent.name == AGAIN:
        page = f"{page}/{AGAIN}"
    return CureFacts(
        model=place,
        files=tuple(replace(f, path=f"{place}/{Path(f.path).name}") for f in files_of(str(folder / place))),
        rounds=len(result.rounds),
        whole=result.quiet,
        left=result.left,
        before=before,
        after=after,
        labels=known is not None,
        loss=round(100 * ((before.value or 0.0) - (after.value or 0.0)), 2),
        strength=last.recovered_asr.after,
        seconds=result.seconds,
        report=f"cure/{page}/report.html",
    )


def _scan_facts(finding: Finding, clip: Clip, place: Place) -> ScanFacts:
    return ScanFacts(
        backdoored=finding.backdoored,
        message=finding.message,
        p_value=finding.p_value,
        probability=finding.probability,
        false_alarm_rate=finding.false_alarm_rate,
        clean_models=finding.clean_models,
        target=terminal(finding.target.name),  # a class name of a stranger
        confidence=finding.target.confidence,
        inverter=finding.trigger.inverter,
        trigger=finding.trigger.spec,
        strength=finding.trigger.strength,
        others=tuple(terminal(row.target) for row in finding.others),
        picture=trigger_card(finding.trigger.spec, clip.image_size),
        data=finding.data,
        images=finding.images,
        seconds=finding.seconds,
        report=None if place.folder is None else "scan/report.html",
    )


def _model_facts(clip: Clip, finding: Finding) -> ModelFacts:
    facts: dict[str, Any] = clip.info()
    return ModelFacts(
        kind=facts["kind"],
        architecture=facts["architecture"],
        parameters=facts["parameters"]["total"],
        image_size=facts["image_size"],
        embed_dim=facts["embed_dim"],
        weights=finding.weights,
    )


def trigger_card(spec: str, side: int) -> str:
    """A PNG in base64, of at most 96 pixels a side: a trigger on a grey test card, whose squares show a warp, too.

    Args:
        side: of the model's pictures, in pixels.
    """
    rows = torch.arange(side) // max(1, _SQUARE * side // 224 or _SQUARE)
    dark, light = _SHADES
    squares = torch.where((rows[:, None] + rows[None, :]) % 2 == 0, dark, light)
    picture = from_spec(spec)(squares.expand(1, 3, side, side).clone())
    if side > _LARGEST_CARD:
        size = (_LARGEST_CARD, _LARGEST_CARD)
        picture = torch.nn.functional.interpolate(picture, size=size, mode="bilinear", antialias=True)
    pixels = (picture[0].clamp(0, 1) * 255).round().to(torch.uint8)
    return address(pixels).partition(",")[2]
