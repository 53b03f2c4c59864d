"""`unlearn --scan`: cure what a scan found, with no knowledge of the attack, until nothing is left of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unbackdoor.base import journal
from unbackdoor.base.errors import InputError
from unbackdoor.base.manifest import Manifest, run_key
from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.data.classnames import templates as find_templates
from unbackdoor.data.images import ImageSet
from unbackdoor.data.shares import defender_rows
from unbackdoor.data.specs import load_test
from unbackdoor.evaluation.answers import answers
from unbackdoor.metrics.rates import Rate
from unbackdoor.report.rounds import write_rounds_report
from unbackdoor.runs.case import Case, open_model, open_referred
from unbackdoor.runs.result import Share, plain
from unbackdoor.runs.run import Run, finish, weights_hash, work_folder
from unbackdoor.runs.verb import verb
from unbackdoor.scan.examine import split
from unbackdoor.scan.family import Reach, left, not_whole, reach
from unbackdoor.scan.finding import Finding, Lead, read_finding
from unbackdoor.scan.inverters.base import WORKS, Subject
from unbackdoor.triggers.mixed import Mixed
from unbackdoor.triggers.spec import from_spec
from unbackdoor.unlearning.alpha import BLIND
from unbackdoor.unlearning.known import Plan
from unbackdoor.unlearning.unknown import FORGET, TUNING, Suspect, cure_class, cure_unknown, rule_for
from unbackdoor.unlearning.vector import as_answered
from unbackdoor.verbs.configs.unlearn import UNLEARN_SCAN, UnlearnScanConfig
from unbackdoor.verbs.origins import origin_of
from unbackdoor.verbs.results import BlindCureResult
from unbackdoor.verbs.results.cures import FamilyLeft, FamilyReach
from unbackdoor.verbs.scan import candidates, scan
from unbackdoor.verbs.unlearn import unlearn
from unbackdoor.verbs.vector import vector_config

# Times the false-alarm rate, up to which a p-value after a cure is followed up. A model that held one backdoor holds
# another more likely than any model holds one, and a needless cure costs it some points of clean accuracy.
PURSUED = 3.0
AGAIN = "again"  # folder, in its round's, of a cure that is made again
_CURE, _LEFT = {1: "cure", 2: "cure again"}, {1: "left", 2: "left again"}  # what is kept of a round's attempts


@verb(UNLEARN_SCAN)
def unlearn_scan(case: Case, config: UnlearnScanConfig, run: Run) -> BlindCureResult:
    """Take the vector from the recovered trigger and more for its class, choose α without the attack, cure, scan again.

    No label is read: images count as the suspect answered them, so that "clean accuracy" is agreement with it and
    "attack success" is the recovered trigger's. Where the test split has labels, true clean accuracy is told too.
    The scan after a cure does not weigh feature collapse: the null's models were not cured, and a cure was seen to
    raise that statistic, even one that found nothing to remove (docs/scan.md).
    Besides, triggers of every family that the cure is not taken from are tried before and after it (`scan/family.py`):
    where one keeps more than a tenth of its pull, the cure is made once more, of such triggers, too; where one still
    does, it is not whole, and never quiet.
    The next round cures what that scan finds, or, unless the model was called clean at first, what works at a p-value
    up to `PURSUED` times the rate.
    When it is quiet, the classes that an earlier scan named besides are cured, where their triggers still work: the
    louder of two backdoors may have hidden the other.
    Each round is a whole `unlearn` run in `out/round-N`, a cure that is made again one in `out/round-N/again`; the last
    model lies in `out/model`, the page of all rounds in `out/report.html`. Without a model, the finding's reference is
    opened.

    Returns:
        `rounds` (a line each; `short_of` where no α satisfied the rule, `not_whole` where the family that was found
        still works), `whole` (no class's last cure is either), `quiet` (the last scan is, no round fell short, and the
        cure is whole), and `left`: the class that a further round would have cured, or None.

    Raises:
        InputError: no finding there, one of another model, or one that says there is nothing to cure.
    """
    if config.rounds < 1:
        raise InputError(f"rounds {config.rounds}: must be at least 1")
    story, raw = read_finding(config.finding)
    if story.backdoored is not True and not config.force:
        raise InputError(f"the finding is not a clear one ({story.message[:200]}); give --force to cure all the same")
    ready = _ready(case, config, story)
    manifest = Manifest(
        "unlearn-scan", {"finding": raw, "rounds": config.rounds, "force": config.force, "seed": case.seed}
    )
    train, held_out, suspect = ready.train, ready.held_out, ready.suspect
    manifest.hashes["weights_before"] = story.weights
    manifest.hashes["train_data"], manifest.hashes["test_data"] = train.content_hash(), held_out.content_hash()
    how = (
        asdict(suspect.plan.config),
        asdict(suspect.plan.rule),
        list(suspect.names),
        case.templates,
        str(config.null),
    )
    manifest.run = run_key("unlearn-scan", manifest.config, manifest.hashes, *how)
    with work_folder(run.folder, manifest) as work:
        rounds = _Rounds(work / f"rounds-{manifest.run[:16]}.jsonl")
        natural = replace(ready.natural, work=Work(work, manifest.run))
        ready = replace(ready, suspect=replace(suspect, natural=natural))
        made, lead = _rounds(case, config, run, ready, rounds)
        suspect.clip.save(run.folder / "model")
    manifest.hashes["weights_after"] = made[-1].scan["weights"]
    typed = _result(run, ready, made, lead, manifest)
    finish(run.folder, manifest, typed, report=partial(write_rounds_report, run.folder / "report.html"))
    return typed


def _result(run: Run, ready: _Ready, made: list[_Round], lead: Lead | None, manifest: Manifest) -> BlindCureResult:
    """What is told of the rounds."""
    last = {row.cure["target"]: row.whole for row in made}
    over = made[-1].scan["backdoored"] is False and lead is None and all(row.cure["chosen"] for row in made)
    result = {
        "verb": "unlearn-scan",
        "model": str(run.folder / "model"),
        "model_reference": ready.as_it_came.reference,
        "rounds": [row.as_dict() for row in made],
        "quiet": over and all(last.values()),
        "whole": all(last.values()),
        "left": None if lead is None else lead.target,
        "seed": manifest.config["seed"],
        "seconds": round(manifest.seconds, 2),
        "report": str(run.folder / "report.html"),
    }
    held_out = ready.held_out
    if bool((held_out.labels >= 0).any()) and held_out.classes:
        both = {"before": ready.as_it_came, "after": ready.suspect.clip}
        result["clean_accuracy"] = {when: _accuracy(clip, held_out, ready.suspect.head) for when, clip in both.items()}
    return BlindCureResult.read(result)


@dataclass(frozen=True)
class _Ready:
    """What the rounds work with.

    Args:
        story: what the scan came to.
        suspect: the model that is cured in place, and what it is cured with.
        as_it_came: a copy that stays as it is.
        train, held_out: images to cure with, and to measure on.
        answered, tried: the same, labelled as the suspect answers them.
    """

    story: Finding
    suspect: Suspect
    as_it_came: Clip
    train: ImageSet
    held_out: ImageSet
    answered: ImageSet
    tried: ImageSet

    @property
    def natural(self) -> Subject:
        """The model as it came, for inverters; its twin shows what is natural, where an origin is known."""
        assert self.suspect.natural is not None
        return self.suspect.natural


def _ready(case: Case, config: UnlearnScanConfig, story: Finding) -> _Ready:
    """Open everything.

    Raises:
        InputError: another model than the one that was scanned, or other classes.
    """
    if case.model in (None, ""):
        clip = open_referred(story.model_reference, "the finding", "name it with --model", case.device, case.checkpoint)
    else:
        clip = case.clip()
    if weights_hash(clip) != story.weights:
        raise InputError(f"{clip.reference} is not the model that was scanned: its weights differ; scan it again")
    origin = config.origin
    if origin is None and story.origin is not None:
        origin = open_referred(story.origin, "the finding", "name it with --origin", case.device)
    clean = origin_of(clip, origin, None, case.device)
    train = case.pictures(clip)
    scanned = case.pictures(clip, story.images)  # as the scan drew them
    names, _ = candidates(train)
    held_out = load_test(
        case.test, case.source(), side=clip.frame, of=names, limit=case.test_limit, classes=case.classes, needed=False
    )
    story.check_classes(names, train.spec)
    head = clip.zero_shot_head(names, find_templates(case.templates))
    answered, tried = (replace(as_answered(clip, i, head), classes=names) for i in (train, held_out))
    how = vector_config(
        clip,
        config.method,
        samples=FORGET if config.samples is None else config.samples,
        epochs=config.epochs,
        lr=config.lr,
        seed=case.seed,
        validation=TUNING if config.validation is None else config.validation,
    )
    rows, others = defender_rows(len(answered), how.samples, how.validation)
    forget = answered.subset(rows)
    rule = rule_for(story.backdoored, config.alpha_config or BLIND)
    plan = Plan.of(clip, forget, answered.subset(others), head, how, rule)
    as_it_came = clip.clone()
    natural = split(as_it_came, scanned, head, names, case.seed, None if clean is None else clean.clip)
    suspect = Suspect(clip, scanned, names, head, forget, plan, story.backdoored, case.seed, natural)
    return _Ready(story, suspect, as_it_came, train, held_out, answered, tried)


@dataclass(frozen=True)
class _Round:
    """A cure, and the scan after it; each as its verb returned it.

    Args:
        family: what the cure left of the family that was found; None where the model was called clean.
        not_whole: why that is too much, in a sentence.
    """

    cure: dict[str, Any]
    scan: dict[str, Any]
    family: FamilyLeft | None = None
    not_whole: str | None = None

    @property
    def whole(self) -> bool:
        """Whether nothing says that something of this backdoor is left."""
        return bool(self.cure["chosen"]) and self.not_whole is None

    def as_dict(self) -> dict[str, Any]:
        """A line of the result."""
        cure, scan = self.cure, self.scan
        return {
            "target": cure["target"],
            "trigger": cure["trigger"],
            "alpha": cure["alpha"],
            "agreement": _share(cure["after"], "ca"),
            "recovered_asr": {when: _share(cure[when], "asr") for when in ("before", "after")},
            "backdoored": scan["backdoored"],
            "p_value": scan["p_value"],
            "message": scan["message"],
            # No α satisfied the rule: something of this backdoor is left, whether or not the new scan sees it.
            "short_of": None if cure["chosen"] else cure["message"],
            # The family that was found still works, whether or not the new scan sees it.
            "not_whole": self.not_whole,
            "family": None if self.family is None else plain(self.family),
            "report": cure["report"],
        }


def _rounds(
    case: Case, config: UnlearnScanConfig, run: Run, ready: _Ready, kept: _Rounds
) -> tuple[list[_Round], Lead | None]:
    """Cure and scan in turns; the rounds, and what a further one would have cured."""

    def cure(number: int, lead: Lead, trigger: Callable[[], Mixed]) -> _Round:
        spec = kept.made(number, "trigger", lambda: trigger().spec())
        return _cure_and_scan(case, config, run.folder / f"round-{number}", ready, kept, (number, lead, spec))

    def look(row: _Round) -> tuple[Lead | None, Sequence[Lead]]:
        again, _ = read_finding(row.scan)
        goes_on = again.backdoored or (ready.story.backdoored is not False and _suspected(row.scan))
        return (again.leads[0] if goes_on else None), again.leads[1:]

    return cure_unknown(ready.suspect, ready.story.leads, cure, look, config.rounds)


def _cure_and_scan(
    case: Case, config: UnlearnScanConfig, here: Path, ready: _Ready, rounds: _Rounds, turn: tuple[int, Lead, str]
) -> _Round:
    """One round, or what a killed run has kept of it.

    Args:
        here: the round's folder.
        turn: its number, what it cures, and the spec of the trigger that the vector is taken from.
    """
    number, lead, spec = turn
    inverters = [row.name for row in ready.story.inverters]
    clip, plan = ready.suspect.clip, ready.suspect.plan
    shared = {"model": clip, "templates": case.templates, "seed": case.seed}
    cure_now = partial(
        unlearn,
        **shared,
        data=ready.answered,
        test=ready.tried,
        target=lead.target,
        alpha_config=plan.rule,
        samples=plan.config.samples,
        validation=plan.config.validation,
        method=config.method,
        epochs=config.epochs,
        lr=config.lr,
        verb="unlearn-scan",
    )
    scan_now = partial(
        scan,
        **shared,
        data=ready.suspect.scanned,
        out=here / "scan",
        null=config.null,
        origin=ready.natural.origin,
        false_alarm_rate=ready.story.false_alarm_rate,
        inverters=inverters,
        weighed=_after_a_cure(inverters),
    )

    def take(attempt: int, triggers: Mixed) -> dict[str, Any]:
        what, folder = _CURE[attempt], here if attempt == 1 else here / AGAIN
        there = rounds.has(number, what)
        cure: dict[str, Any] = rounds.made(number, what, partial(cure_now, trigger=triggers, out=folder))
        if there:
            _take_weights(clip, folder / "model")
        return cure

    def reached(what: str, before: Reach | None = None) -> Reach:
        return _reached(ready, lead, partial(rounds.made, number, what), before)

    # What was found in a model that is called clean is natural.
    before = None if ready.story.backdoored is False else reached("reach")
    first = from_spec(spec)
    assert isinstance(first, Mixed)
    cure, after = cure_class(ready.suspect, lead, first, before, take, lambda n: reached(_LEFT[n], before))
    after_scan = rounds.made(number, "scan", scan_now)
    if before is None or after is None:
        return _Round(cure, after_scan)
    return _Round(cure, after_scan, _family(lead, before, after), not_whole(before, after))


def _reached(ready: _Ready, lead: Lead, kept: Callable[[Callable[[], Any]], Any], before: Reach | None) -> Reach:
    """What triggers for a class come to in the model as it is, or what a killed run has kept of that."""

    def look() -> dict[str, Any]:
        subject = ready.suspect.subject()
        return asdict(reach(subject, ready.natural, subject.names.index(lead.target), lead.trigger, before))

    row = kept(look)
    return Reach(**{key: tuple(value) if isinstance(value, list) else value for key, value in row.items()})


def _family(lead: Lead, before: Reach, after: Reach) -> FamilyLeft:
    def facts(row: Reach) -> FamilyReach:
        return FamilyReach(Share.of(Rate(*row.turned)), row.pulls, row.natural)

    return FamilyLeft(lead.inverter, before.triggers, facts(before), facts(after), round(left(before, after), 4))


@dataclass(frozen=True)
class _Step:
    """A line of what is kept of the rounds."""

    round: int
    what: str
    value: Any


class _Rounds:
    """What the rounds have come to, so that a killed cure goes on behind it."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._kept = {(row.round, row.what): row.value for row in journal.read(log, _Step)}

    def has(self, number: int, what: str) -> bool:
        """Whether it is there already."""
        return (number, what) in self._kept

    def made(self, number: int, what: str, make: Callable[[], Any]) -> Any:
        """It, made now unless it is there."""
        if (number, what) not in self._kept:
            self._kept[number, what] = make()
            journal.append(self._log, {"round": number, "what": what, "value": self._kept[number, what]})
        return self._kept[number, what]


@torch.no_grad()
def _take_weights(clip: Clip, folder: Path) -> None:
    """The weights of a round that is over; what was saved is what was measured."""
    there = open_model(str(folder), None, str(clip.device)).state()
    for name, t in clip.state().items():
        t.copy_(there[name])


def _suspected(after: dict[str, Any]) -> bool:
    """Whether a scan after a cure leaves a trigger that works, in a model that stands out a little."""
    strength = after["trigger"]["strength"]["value"] or 0.0
    low = after["p_value"] is not None and after["p_value"] <= PURSUED * after["false_alarm_rate"]
    return low and strength >= WORKS


def _after_a_cure(inverters: list[str]) -> list[str] | None:
    """The inverters whose statistics a cure leaves comparable with the null's; None, for all, where none is."""
    return [name for name in inverters if name != "collapse"] or None


def _accuracy(clip: Clip, images: ImageSet, head: Tensor) -> dict[str, Any]:
    known = images.subset(images.labels >= 0)
    labels, _ = answers(clip, known, head)
    return Rate(int((labels == known.labels).sum()), len(known)).as_dict()


def _share(part: dict[str, Any], name: str) -> dict[str, Any]:
    return {"value": part[name], "n": part["n"][name], "interval": part["interval"][name]}
