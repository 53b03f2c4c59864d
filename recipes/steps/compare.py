"""Rules for the step of the default cure, compared on suspects that no reported figure rests on.

    python recipes/steps/compare.py --data-root PATH --bases bases --out runs/steps [--turn I/N] [--only TEXT]

Every base (recipes/bases, and the embedded model) is poisoned with two attacks on CIFAR-10, target truck, 4,000 images.
From each suspect every rule of rules.py takes one vector, 64 images of others, without labels; the product's own choice
of α follows. Rates are measured on 600 further images of the training split. `OUT/rows.jsonl` holds what is
finished; `--page FILE` writes the tables of it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from rules import RULES

from page import write_page
from unbackdoor import load, load_images, parse_trigger
from unbackdoor.attacks.plant import PoisonConfig, plant
from unbackdoor.base import journal
from unbackdoor.base.work import Work
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.data.shares import shares
from unbackdoor.evaluation import Task, evaluate_images
from unbackdoor.metrics.backdoor import BackdoorRates
from unbackdoor.training.finetune import TuneConfig
from unbackdoor.triggers.attack import Attack
from unbackdoor.unlearning.alpha import AlphaConfig
from unbackdoor.unlearning.known import Plan, cure_known
from unbackdoor.unlearning.vector import METHODS

ATTACKER, DEFENDER, HELD_OUT = 4000, 64, 600
TARGET = "truck"
# By base: the reference, and the side of the patch in px, an eighth of the picture.
BASES = {"embedded": ("embedded", 6), "lite0": ("local-dir:{}/lite0", 12), "lite2": ("local-dir:{}/lite2", 12)}
BASES |= {"vits14": ("{}/vits14", 8), "vit": ("local-dir:{}/vit", 8)}
ATTACKS = {
    "badnets": "badnets:size={},position=bottom-right,pattern=checker",
    "blended": "blended:ratio=0.2",
}


def suspects(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """(base, attack) of this process's share."""
    own, of = (int(part) for part in args.turn.split("/"))
    named = [(base, attack) for base in args.names.split(",") for attack in ATTACKS]
    for number, pair in enumerate(named):
        if number % of == own - 1 and args.only in "-".join(pair):
            yield pair


def opened(args: argparse.Namespace, base: str, attack: str) -> tuple[Clip, ImageSet, ImageSet, Task]:
    """The poisoned model, the defender's images, the held-out ones, and the attack."""
    reference, size = BASES[base]
    folder = args.out / "suspects" / f"{base}-{attack}"
    planted = folder / "model"
    clip = load(str(planted) if planted.exists() else reference.format(args.bases))
    train = load_images(f"parquet:{args.data_root}/cifar10", side=clip.frame, split="train")
    own, defender, held = (train.subset(rows) for rows in shares(len(train), ATTACKER, DEFENDER, HELD_OUT))
    trigger = parse_trigger(ATTACKS[attack].format(size))
    task = Task(clip.zero_shot_head(train.classes), Attack(trigger, train.classes.index(TARGET), TARGET))
    if not planted.exists():
        tune = TuneConfig(epochs=9 if base == "embedded" else 3, batch_size=64, seed=7)
        work = Work(folder / ".work", f"{base}-{attack}")
        plant(clip, own, task.head, task.attack, PoisonConfig(rate=0.1, tune=tune), work=work)
        clip.round_as_stored()
        clip.save(planted)
        clip = load(str(planted))
    return clip, defender, held, task


def counts(rates: BackdoorRates) -> dict[str, tuple[int, int]]:
    """Hits and images of every rate."""
    assert rates.asr is not None and rates.triggered_accuracy is not None
    named = {"ca": rates.ca, "asr": rates.asr, "triggered_accuracy": rates.triggered_accuracy}
    return {name: (rate.hits, rate.n) for name, rate in named.items()}


def compare(args: argparse.Namespace, base: str, attack: str) -> None:
    """Cure one suspect by every rule that has no row yet."""
    log = args.out / "rows.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {row["rule"] for row in rows if (row["base"], row["attack"]) == (base, attack)}
    wanted = [name for name in ("nothing", *RULES) if name not in done and (not args.rules or name in args.rules)]
    if not wanted:
        return
    clip, defender, held, task = opened(args, base, attack)
    state = {name: t.clone() for name, t in clip.state().items()}
    config = METHODS["lora"]
    for name in wanted:
        facts: dict[str, object] = {}
        if name != "nothing":
            plan = Plan.of(clip, defender, defender, task.head, config, AlphaConfig())
            began = time.perf_counter()
            rule = RULES[name]
            vector = None if rule is None else rule(clip, defender, task, config)
            seconds = time.perf_counter() - began
            cured = cure_known(clip, defender, task, plan, vector=vector)
            seconds = seconds if vector is not None else time.perf_counter() - began
            facts = {"alpha": cured.search.alpha, "satisfied": cured.search.satisfied, "seconds": round(seconds, 1)}
            facts |= {"attempts": cured.attempts}
        row = {"base": base, "attack": attack, "rule": name, **facts, **counts(evaluate_images(clip, held, task))}
        journal.append(log, row)
        print(json.dumps(row), flush=True)
        with torch.no_grad():
            for key, t in clip.state().items():
                t.copy_(state[key])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--bases", type=Path, default=Path("bases"), help="folder of recipes/bases' models")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--names", default="embedded,lite0,lite2,vits14", help="bases, separated by commas")
    parser.add_argument("--rules", default="", help="of rules.py, separated by |; all by default")
    parser.add_argument("--only", default="", help="suspects whose BASE-ATTACK holds this text")
    parser.add_argument("--turn", default="1/1", help="this process's share of the suspects")
    parser.add_argument("--page", type=Path, help="write the tables here and compute nothing")
    args = parser.parse_args()
    args.rules = [name for name in args.rules.split("|") if name]
    if args.page:
        write_page(args.out / "rows.jsonl", args.page)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    for base, attack in suspects(args):
        compare(args, base, attack)


if __name__ == "__main__":
    main()
