"""`unlearn --scan`: cure what a scan found, with no knowledge of the attack, until nothing is left of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unbackdoor import journal
from unbackdoor.clip.handle import Clip
from unbackdoor.data.classnames import templates as find_templates
from unbackdoor.data.images import ImageSet
from unbackdoor.data.shares import defender_rows
from unbackdoor.data.specs import load_test
from unbackdoor.errors import InputError
from unbackdoor.inversion.base import WORKS, Subject, answers, works
from unbackdoor.inversion.examine import split
from unbackdoor.inversion.finding import Lead, read_finding
from unbackdoor.manifest import Manifest, run_key, write_json
from unbackdoor.metrics.rates import Rate
from unbackdoor.runs.case import Case, open_model, open_referred
from unbackdoor.runs.run import Run, weights_hash, work_folder
from unbackdoor.runs.verb import verb
from unbackdoor.triggers.spec import from_spec
from unbackdoor.unlearning.alpha import BLIND, AlphaConfig
from unbackdoor.unlearning.known import Plan, choosing, rule_of
from unbackdoor.unlearning.unknown import FORGET, METHOD, TUNING, rule_for, source
from unbackdoor.verbs.scan import candidates, scan
from unbackdoor.verbs.unlearn import unlearn
from unbackdoor.verbs.vector import vector_config

ROUNDS = 3
# Times the false-alarm rate, up to which a p-value after a cure is followed up. A model that held one backdoor holds
# another more likely than any model holds one, and a needless cure costs it some points of clean accuracy.
PURSUED = 3.0


@dataclass(frozen=True)
class UnlearnScanConfig:
    """How an attack that a scan found is cured.

    Args:
        finding: `finding.json` of `scan` (or its folder), or what `scan` returned.
        rounds: at most so many cures; a round follows while something is left.
        force: cure although the finding is not a clear one.
        null, origin: as for `scan`, for the scans after each round; the finding's own origin by default.
        alpha_config: None is `BLIND`; without its reserve where the finding says that the model is clean.
        samples, validation: None takes `FORGET` and `TUNING`.
        method, epochs, lr: as for `vector`.
    """

    finding: str | Path | dict[str, Any] = ""
    rounds: int = ROUNDS
    force: bool = False
    null: str | Path | None = None
    origin: str | Clip | None = None
    alpha_config: AlphaConfig | None = None
    samples: int | None = None
    validation: int | None = None
    method: str = METHOD
    epochs: int | None = None
    lr: float | None = None


@verb(
    UnlearnScanConfig,
    needs=("finding", "data", "out"),
    takes=("model", "test", "test_limit", "checkpoint", "classes", "templates", "device", "seed"),
)
def unlearn_scan(case: Case, config: UnlearnScanConfig, run: Run) -> dict[str, Any]:
    """Take the vector from the recovered trigger and more for its class, choose α without the attack, cure, scan again.

    No label is read: images count as the suspect answered them, so that "clean accuracy" is agreement with it and
    "attack success" is the recovered trigger's. Where the test split has labels, true clean accuracy is told too.
    The scan after a cure does not weigh feature collapse: the null's models were not cured, and a cure was seen to
    raise that statistic, even one that found nothing to remove (docs/scan.md).
    The next round cures what that scan finds, or, unless the model was called clean at first, what works at a p-value
    up to `PURSUED` times the rate.
    When it is quiet, the classes that an earlier scan named besides are cured, where their triggers still work: the
    louder of two backdoors may have hidden the other.
    Each round is a whole `unlearn` run in `out/round-N`; the last model lies in `out/model`. Without a model, the
    finding's reference is opened.

    Returns:
        `rounds` (a line each; `short_of` where no α satisfied the rule), `quiet` (the last scan is, and no round fell
        short), and `left`: the class that a further round would have cured, or None.

    Raises:
        InputError: no finding there, one of another model, or one that says there is nothing to cure.
    """
    if config.rounds < 1:
        raise InputError(f"rounds {config.rounds}: must be at least 1")
    story, raw = read_finding(config.finding)
    if story.backdoored is not True and not config.force:
        raise InputError(f"the finding is not a clear one ({story.message[:200]}); give --force to cure all the same")
    if case.model in (None, ""):
        clip = open_referred(story.model_reference, "the finding", "name it with --model", case.device, case.checkpoint)
    else:
        clip = case.clip()
    if weights_hash(clip) != story.weights:
        raise InputError(f"{clip.reference} is not the model that was scanned: its weights differ; scan it again")
    source_of = config.origin
    if source_of is None and story.origin is not None:
        source_of = open_referred(story.origin, "the finding", "name it with --origin", case.device)
    suspect = clip.clone()
    train = case.pictures(clip)
    scanned = case.pictures(clip, story.images)  # as the scan drew them
    names, _ = candidates(train)
    held_out = load_test(
        case.test, case.source(), side=clip.frame, of=names, limit=case.test_limit, classes=case.classes, needed=False
    )
    story.check_classes(names, train.spec)
    head = suspect.zero_shot_head(names, find_templates(case.templates))
    answered, tried = (_as_answered(suspect, s, head, names) for s in (train, held_out))
    manifest = Manifest(
        "unlearn-scan", {"finding": raw, "rounds": config.rounds, "force": config.force, "seed": case.seed}
    )
    manifest.hashes["weights_before"] = story.weights
    manifest.hashes["train_data"], manifest.hashes["test_data"] = train.content_hash(), held_out.content_hash()
    forgotten = FORGET if config.samples is None else config.samples
    chosen_on = TUNING if config.validation is None else config.validation
    how = vector_config(
        clip, config.method, samples=forgotten, epochs=config.epochs, lr=config.lr, seed=case.seed, validation=chosen_on
    )
    rows, others = defender_rows(len(answered), how.samples, how.validation)
    forget = answered.subset(rows)
    tuning = choosing(clip, forget, answered.subset(others), head, how)
    rule = rule_of(how, rule_for(story.backdoored, config.alpha_config or BLIND))
    plan = Plan(how, tuning, rule)
    keys = (manifest.config, manifest.hashes, asdict(how), asdict(rule), list(names), case.templates, str(config.null))
    manifest.run = run_key("unlearn-scan", *keys)
    told: list[dict[str, Any]] = []
    inverters = [row.name for row in story.inverters]
    lead: Lead | None = story.leads[0]
    waiting: Iterable[Lead] = story.leads[1:]
    cured: set[str] = set()

    def spec_for(lead: Lead, subject: Subject) -> str:
        """Of what the cure is taken from."""
        return source(clip, subject, lead, forget, plan, backdoored=story.backdoored).spec()

    with work_folder(run.folder, manifest) as work:
        subject = split(clip, scanned, head, names, case.seed)
        rounds_made = _Rounds(work / f"rounds-{manifest.run[:16]}.jsonl")
        while lead is not None and len(told) < config.rounds:
            number = len(told) + 1
            here = run.folder / f"round-{number}"
            spec = rounds_made.made(number, "trigger", partial(spec_for, lead, subject))
            again_there = rounds_made.has(number, "cure")
            cure = rounds_made.made(
                number,
                "cure",
                partial(
                    unlearn,
                    model=clip,
                    data=answered,
                    test=tried,
                    trigger=from_spec(spec),
                    target=lead.target,
                    out=here,
                    alpha_config=rule,
                    samples=forgotten,
                    validation=chosen_on,
                    method=config.method,
                    epochs=config.epochs,
                    lr=config.lr,
                    templates=case.templates,
                    seed=case.seed,
                    verb="unlearn-scan",
                ),
            )
            if again_there:
                _take_weights(clip, here / "model")
            after = rounds_made.made(
                number,
                "scan",
                partial(
                    scan,
                    model=clip,
                    data=scanned,
                    out=here / "scan",
                    null=config.null,
                    origin=source_of,
                    false_alarm_rate=story.false_alarm_rate,
                    inverters=inverters,
                    weighed=_after_a_cure(inverters),
                    templates=case.templates,
                    seed=case.seed,
                ),
            )
            again, _ = read_finding(after)
            told.append({"cure": cure, "scan": after})
            cured.add(lead.target)
            subject = split(clip, scanned, head, names, case.seed)
            further = (*waiting, *again.leads[1:])
            waiting = {other.target: other for other in further if other.target not in cured}.values()
            working = (w for w in waiting if works(subject, w.trigger, names.index(w.target)))
            goes_on = after["backdoored"] or (story.backdoored is not False and _suspected(after))
            lead = again.leads[0] if goes_on else next(working, None)
        clip.save(run.folder / "model")
    manifest.hashes["weights_after"] = told[-1]["scan"]["weights"]
    result = {
        "verb": "unlearn-scan",
        "model": str(run.folder / "model"),
        "model_reference": suspect.reference,
        "rounds": [
            {
                "target": row["cure"]["target"],
                "trigger": row["cure"]["trigger"],
                "alpha": row["cure"]["alpha"],
                "agreement": _share(row["cure"]["after"], "ca"),
                "recovered_asr": {when: _share(row["cure"][when], "asr") for when in ("before", "after")},
                "backdoored": row["scan"]["backdoored"],
                "p_value": row["scan"]["p_value"],
                "message": row["scan"]["message"],
                # No α satisfied the rule: something of this backdoor is left, whether or not the new scan sees it.
                "short_of": None if row["cure"]["chosen"] else row["cure"]["message"],
                "report": row["cure"]["report"],
            }
            for row in told
        ],
        "quiet": told[-1]["scan"]["backdoored"] is False and lead is None and all(r["cure"]["chosen"] for r in told),
        "left": None if lead is None else lead.target,
        "seed": case.seed,
        "seconds": round(manifest.seconds, 2),
    }
    if bool((held_out.labels >= 0).any()) and held_out.classes:
        result["clean_accuracy"] = {
            "before": _accuracy(suspect, held_out, head), "after": _accuracy(clip, held_out, head)
        }  # fmt: skip
    manifest.write(run.folder)
    write_json(run.folder / "result.json", result)
    return result


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


def _as_answered(suspect: Clip, images: ImageSet, head: Tensor, names: tuple[str, ...]) -> ImageSet:
    """The pictures, labelled as the suspect answers them."""
    said, _ = answers(suspect, images, head)
    return replace(images, labels=said, classes=tuple(names))


def _accuracy(clip: Clip, images: ImageSet, head: Tensor) -> dict[str, Any]:
    known = images.subset(images.labels >= 0)
    said, _ = answers(clip, known, head)
    return Rate(int((said == known.labels).sum()), len(known)).as_dict()


def _share(part: dict[str, Any], name: str) -> dict[str, Any]:
    return {"value": part[name], "n": part["n"][name], "interval": part["interval"][name]}
