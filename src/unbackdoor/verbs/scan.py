"""`scan`: is this model backdoored? Recover triggers, weigh them against clean models, name the likely target."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from unbackdoor.base.disk import cache_folder, write_text
from unbackdoor.base.errors import InputError
from unbackdoor.base.manifest import Manifest, run_key
from unbackdoor.base.notices import tell, warn
from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.data.classnames import class_names
from unbackdoor.data.classnames import templates as find_templates
from unbackdoor.data.images import ImageSet
from unbackdoor.data.names import is_wnid
from unbackdoor.evaluation.answers import answers
from unbackdoor.metrics.rates import Rate
from unbackdoor.report.scan import Look, write_scan_report
from unbackdoor.runs.case import Case
from unbackdoor.runs.result import Share
from unbackdoor.runs.run import Run, finish, weights_hash, work_folder
from unbackdoor.runs.verb import verb
from unbackdoor.scan.alone import reading, sentence
from unbackdoor.scan.comparable import Scanned, why_not
from unbackdoor.scan.cost import Budget, cost_of, in_order
from unbackdoor.scan.detection import Null, architecture, exceeding, needed, read_null, settled
from unbackdoor.scan.examine import Examination, Examined, examine, split
from unbackdoor.scan.examine import settings as examine_settings
from unbackdoor.scan.finding import ComparedWith, Finding, InverterLine, NearText, Other, RecoveredTrigger, Target
from unbackdoor.scan.inverters import inverter_names
from unbackdoor.scan.inverters.base import Recovered, Subject
from unbackdoor.scan.judgement import Judgement, Say, judge
from unbackdoor.scan.own_null import LEAST, Making, grown, kept, key_of
from unbackdoor.scan.probability import probability
from unbackdoor.scan.relatives import Kin
from unbackdoor.scan.targets import nearest_texts
from unbackdoor.triggers import parse_trigger
from unbackdoor.verbs.common import manifest_of
from unbackdoor.verbs.configs.scan import IMAGES, SCAN, ScanConfig
from unbackdoor.verbs.craft import write_picture
from unbackdoor.verbs.origins import OpenOrigin, origin_of
from unbackdoor.weights.files import write_tensors

VOCABULARY = "imagenet-1k"
SHIPPED = Path(__file__).parent.parent / "assets" / "nulls"
PICTURES = 6


@verb(SCAN)
def scan(case: Case, config: ScanConfig, run: Run) -> Finding:
    """Examine a model of unknown history.

    The model's weights do not change; labels are not read. `classes` are candidate class names, whatever the data calls
    its own; without either, the nearest of ImageNet's thousand are tried. Writes `finding.json`, `trigger.txt`,
    `trigger.png`, `trigger.safetensors` (`embedding`, (D,) unit: where triggered pictures are pulled to),
    `manifest.json` and `report.html` into `out`, where one is named; without a finding the trigger's files are called
    `candidate`. A killed scan goes on.

    Returns:
        `target` and `trigger` are the strongest candidate's where no backdoor was found or nothing can be told.
        `backdoored` (true, false, or null for "cannot tell"), `p_value`, `false_alarm_rate`, `target` {name,
        confidence}, `trigger` {spec, picture}, `others` (further classes that would each be a finding by itself),
        `alone` (how far the target stands out among the model's own classes, where there is no p-value),
        `twin_agreement` (of the clean twin with the suspect, where there is an origin), `message`, `inverters` (a line
        each), `seconds`, …

    Raises:
        InputError: anything unusable in the above.
    """
    if not 0 < config.false_alarm_rate < 1:
        raise InputError(f"false-alarm rate {config.false_alarm_rate}: must lie between 0 and 1")
    clip = case.clip()
    images = case.pictures(clip, case.limit)
    if len(images) < 8:
        raise InputError(f"{images.spec}: {len(images)} images are too few to scan with; give at least 8")
    names, vocabulary = candidates(images)
    head = clip.zero_shot_head(names, find_templates(case.templates))
    known = config.null if isinstance(config.null, Null) else find_null(clip, config.null)
    chosen = list(config.inverters or (known.inverters if known else inverter_names()))
    source = origin_of(clip, config.origin, known, case.device)
    clean, rests = (source.clip, source.record) if source else (None, None)
    if rests is not None and rests.weights == weights_hash(clip) and config.inverters is None:
        # The weights alone answer. One search shows what comes nearest to a trigger; nothing is compared.
        chosen, clean, known = in_order(chosen)[:1], None, None
    settings: dict[str, Any] = {
        "model": clip.reference,
        "data": images.spec,
        "images": len(images),
        "classes": len(names),
        "vocabulary": vocabulary,
        "inverters": chosen,
        "weighed": None if config.weighed is None else list(config.weighed),
        "null": None if known is None else {"models": len(known.rows), "settings": known.settings},
        "origin": rests.reference if rests else None,
        "relatives": config.relatives,
        **({} if config.budget is None else {"budget": config.budget}),
        "false_alarm_rate": config.false_alarm_rate,
        "templates": case.templates,
        "seed": case.seed,
    }
    manifest = manifest_of("scan", settings, clip, "weights", data=images)
    if rests is not None:
        manifest.hashes["origin"] = rests.weights
    manifest.run = run_key("scan", settings, manifest.hashes)
    out = None if run.out is None else run.folder
    scanned = Scanned(chosen, len(images), rests.weights if rests else None, len(names))
    makes = _makes_own(config) and not _is_origin(manifest) and bool(why_not(known, scanned, IMAGES))
    most = _most(config) if makes else 0
    budget = _budgeted(split(clip, images, head, names, case.seed, clean), chosen, most, config.budget)
    with nullcontext(None) if out is None else work_folder(out, manifest) as work:
        how = Examination(chosen, case.seed, budget)
        examined = examine(clip, images, head, names, how, origin=clean, work=Work(work, manifest.run))
        manifest.notes["seconds_by_inverter"] = examined.seconds
        ran, left_out = [row.inverter for row in examined.recovered], examined.left_out
        compared: ComparedWith = "shipped" if config.null is None else "given"
        if source is not None and makes:
            known, short = own_null(examined, source, config, budget, Work(work, manifest.run))
            left_out += short
            manifest.notes["null"] = (
                None if known is None else {"models": list(known.models), "settings": known.settings}
            )
            compared = "relatives"
        reason = why_not(known, replace(scanned, inverters=ran), IMAGES)
        finding = _weighed(examined, manifest, *_parts(known, config.weighed, ran), reason)
        finding = replace(finding, compared_with=None if reason else compared)
        finding = _without(finding, left_out)
        return finding if out is None else _written(out, finding, manifest, examined)


def _budgeted(subject: Subject, inverters: Sequence[str], most: int, minutes: float | None) -> Budget | None:
    """Say what the scan will take, and make the budget that it is kept to.

    Raises:
        InputError: the budget is too small for any scan.
    """
    began = time.monotonic()
    cost = cost_of(subject, inverters)
    tell(cost.line(inverters, most))
    if minutes is None:
        return None
    budget = Budget(60 * minutes, cost, most, began)
    if budget.least(inverters) > budget.seconds:
        raise InputError(
            f"budget {minutes:g} min: the least scan of this model takes about {budget.least(inverters) / 60:.2g} min "
            "on this machine; give more"
        )
    if not budget.fits(in_order(inverters)[0]):
        budget.relatives = 0  # not one inverter can be run on all relatives: the time is the suspect's
    return budget


def _parts(
    known: Null | None, weighed: Sequence[str] | None, ran: Sequence[str]
) -> tuple[Null | None, list[str] | None]:
    """The null, and what is weighed, by the inverters that ran; each scores alike, whichever others run beside it."""
    both = [] if known is None else [name for name in known.inverters if name in ran]
    part = known.select(both) if known is not None and both else known
    return part, None if weighed is None else [name for name in weighed if name in ran]


def _without(finding: Finding, left_out: tuple[str, ...]) -> Finding:
    """The finding that says what was left out."""
    if not left_out:
        return finding
    message = f"{finding.message}; the budget left no time for {', '.join(left_out)}"
    return replace(finding, left_out=left_out, message=message)


def _most(config: ScanConfig) -> int:
    return needed(config.false_alarm_rate) if config.relatives is None else config.relatives


def candidates(images: ImageSet) -> tuple[tuple[str, ...], bool]:
    """Class names of the data, or a vocabulary's and True where they are none that a model could be asked for."""
    names = images.classes
    if len(names) > 1 and not any(is_wnid(name) for name in names):
        return names, False
    if names:
        few = ", ".join(repr(name[:40]) for name in names[:3])
        warn(
            f"{images.spec}: its classes ({few}) are not what a model could be asked for; {VOCABULARY} is tried; name "
            "others with --classes FILE"
        )
    return class_names(VOCABULARY), True


def find_null(clip: Clip, path: str | Path | None) -> Null | None:
    """The null of a file, or the one shipped for the model's architecture, or None.

    Raises:
        InputError: the file is none, or was made on another architecture.
    """
    own = architecture(clip.state())
    if path is not None:
        null = read_null(Path(path))
        if null.architecture != own:
            raise InputError(
                f"{path}: made on another architecture than {clip.reference}; make one with scan --calibrate"
            )
        return null
    shipped = SHIPPED / f"{own}.jsonl"
    return read_null(shipped) if shipped.exists() else None


def _makes_own(config: ScanConfig) -> bool:
    """Whether relatives are wanted: they take long, and whoever names an origin asks for them."""
    return config.origin is not None and config.null is None and config.relatives != 0


def own_null(
    examined: Examined, source: OpenOrigin, config: ScanConfig, budget: Budget | None, work: Work
) -> tuple[Null | None, tuple[str, ...]]:
    """Clean relatives of the suspect, made from its origin, as many as it takes to answer, and what was left out.

    None where the budget left no time for any.
    """
    subject, images = examined.subject, examined.images
    by_labels = images.classes == subject.names and bool((images.labels >= 0).all())
    labels = images.labels if by_labels else answers(subject.clip, images, subject.head)[0]
    inverters = tuple(row.inverter for row in examined.recovered)
    blank = Null(
        architecture(source.clip.state()),
        examine_settings(len(images), inverters, source.record.weights, len(subject.names)),
        inverters,
        (),
        (),
        source.record,
    )
    making = Making(subject.names, Examination(inverters, subject.seed), blank)
    kin = Kin(source.clip, images, labels, subject.head, subject.seed)
    store = cache_folder() / "nulls" / f"{key_of(kin, making, by_labels)}.jsonl"
    making, most = replace(making, store=store), _most(config)
    left = most - len(kept(making).rows)
    if left > 0:
        minutes = sum(examined.seconds.values()) * left / 60
        warn(
            f"no clean models are on record to compare with: up to {left} clean relatives are made from "
            f"{source.record.reference}, at least {max(1, round(minutes))} min in all, and kept in {store}"
        )
    says = _says(examined)

    def decided(null: Null) -> bool:
        weighed = [name for name in config.weighed or null.inverters if name in null.inverters]
        answer = judge(says, null.select(weighed), config.false_alarm_rate)
        assert answer.p_value is not None
        return settled(exceeding(answer.p_value, len(null.rows)), config.false_alarm_rate)

    null = grown(kin, making, most, decided, budget.room if budget else lambda taken: True, work)
    whole = len(null.rows) >= most or (len(null.rows) >= LEAST and decided(null))
    short = () if whole else (f"{most - len(null.rows)} of {most} clean relatives",)
    return (null if null.rows else None), short


def _says(examined: Examined) -> dict[str, Say[int]]:
    return {row.inverter: Say(row.scores, row.works) for row in examined.recovered}


def _weighed(
    examined: Examined, manifest: Manifest, known: Null | None, weighed: Sequence[str] | None, reason: str
) -> Finding:
    """What was recovered, held against the null."""
    subject, settings = examined.subject, manifest.config
    usable = None if reason or known is None else known.select(weighed or known.inverters)
    recovered = {row.inverter: row for row in examined.recovered}
    answer = _of_origin(judge(_says(examined), usable, settings["false_alarm_rate"], reason), manifest)
    name, twin = subject.names[answer.target], subject.origin is not None
    alone = None if answer.alone is None else reading(answer.alone, name, twin)
    return Finding(
        model_reference=settings["model"],
        backdoored=answer.backdoored,
        p_value=answer.p_value,
        probability=None if answer.score is None or _is_origin(manifest) else round(probability(answer.score), 4),
        false_alarm_rate=settings["false_alarm_rate"],
        clean_models=0 if usable is None else len(usable.rows),
        score=answer.score,
        clean_scores=answer.clean,
        message=answer.message if alone is None else f"{answer.message}; {sentence(alone)}",
        alone=alone,
        target=_target(subject, answer, recovered[answer.inverter], settings["vocabulary"]),
        twin_agreement=_agreement(subject),
        trigger=_trigger(recovered[answer.inverter]),
        others=tuple(
            Other(
                target=subject.names[other.target],
                p_value=other.p_value,
                inverter=other.inverter,
                spec=recovered[other.inverter].trigger.spec(),
                strength=Share.of(recovered[other.inverter].strength),
            )
            for other in answer.others
        ),
        inverters=tuple(
            _line(row, subject, answer.excess.get(name), examined.seconds[name]) for name, row in recovered.items()
        ),
        origin=settings["origin"],
        weighed=() if usable is None else usable.inverters,
        data=examined.images.spec,
        images=len(examined.images),
        seed=settings["seed"],
        weights=manifest.hashes["weights"],
        seconds=round(manifest.seconds, 2),
    )


def _is_origin(manifest: Manifest) -> bool:
    """Whether the suspect holds the weights of the model that counts as clean, bit for bit."""
    return manifest.hashes.get("origin") == manifest.hashes["weights"]


def _of_origin(answer: Judgement[int], manifest: Manifest) -> Judgement[int]:
    """The answer, or what follows from the weights alone: whoever names a clean origin says that they are clean.

    On data that it was not made for, an origin may well stand out among models that were tuned to theirs.
    """
    if not _is_origin(manifest):
        return answer
    message = f"these are the weights of {manifest.config['origin']} itself, bit for bit, which counts as clean"
    return replace(answer, backdoored=False, message=message, others=(), alone=None)


def _target(subject: Subject, answer: Judgement[int], row: Recovered, vocabulary: bool) -> Target:
    """The likely target; `row` holds the trigger that speaks for it best."""
    near = nearest_texts(row.embedding, subject.head, subject.names)
    return Target(
        name=subject.names[answer.target],
        confidence=round(answer.confidence, 4),
        nearest_texts=tuple(NearText(text, cosine) for text, cosine in near),
        from_="vocabulary" if vocabulary else "classes",
    )


def _trigger(row: Recovered) -> RecoveredTrigger:
    return RecoveredTrigger(
        spec=row.trigger.spec(), inverter=row.inverter, norm=round(row.norm, 5), strength=Share.of(row.strength)
    )


def _line(row: Recovered, subject: Subject, excess: float | None, seconds: float) -> InverterLine:
    return InverterLine(
        name=row.inverter,
        target=subject.names[row.target],
        statistic=round(row.statistic, 4),
        norm=round(row.norm, 5),
        strength=Share.of(row.strength),
        trigger=row.trigger.spec(),
        facts=row.facts,
        excess=None if excess is None else round(excess, 3),
        seconds=seconds,
    )


def _agreement(subject: Subject) -> Share | None:
    """Held pictures to which the twin answers as the suspect does, None without a twin: how much its costs say."""
    if subject.twin is None:
        return None
    alike = subject.twin.held_own == subject.held_own
    return Share.of(Rate(int(alike.sum()), len(alike)))


def _written(out: Path, finding: Finding, manifest: Manifest, examined: Examined) -> Finding:
    """The finding with the names of the files that are written beside it."""
    trigger = parse_trigger(finding.trigger.spec)
    held = examined.subject.held
    rows = torch.arange(min(PICTURES, len(held)))
    clean = held.float_batch(rows)
    triggered = trigger(clean, keys=rows)
    strip = torch.cat([torch.cat(list(clean), dim=2), torch.cat(list(triggered), dim=2)], dim=1)
    # What is no finding must not look like one.
    name, other = ("trigger", "candidate") if finding.backdoored else ("candidate", "trigger")
    for suffix in (".png", ".txt", ".safetensors"):
        (out / f"{other}{suffix}").unlink(missing_ok=True)
    write_picture(out / f"{name}.png", strip)
    write_text(out / f"{name}.txt", trigger.spec() + "\n")
    (row,) = (row for row in examined.recovered if row.inverter == finding.trigger.inverter)
    write_tensors(out / f"{name}.safetensors", {"embedding": row.embedding.float().cpu()})
    page = out / "report.html"
    finding = replace(finding, trigger=replace(finding.trigger, picture=str(out / f"{name}.png")), report=str(page))
    looks = [Look((a * 255).round().byte(), (b * 255).round().byte()) for a, b in zip(clean, triggered, strict=True)]
    finish(out, manifest, finding, report=partial(write_scan_report, page, looks=looks), name=Finding.file)
    return finding
