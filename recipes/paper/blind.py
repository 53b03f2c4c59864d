"""The unknown attack: DECREE inverts a trigger, the model is cured of what it inverted, the true trigger is measured.

`unlearn --scan` does more than the paper tells of: it looks for more triggers of the same class and rehearses the cure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

import unbackdoor
from streamed import clean_pairs, measured
from unbackdoor.base.errors import InputError
from unbackdoor.base.manifest import write_json, write_jsonl
from unbackdoor.base.untrusted import read_json
from unbackdoor.bench.material import images_of
from unbackdoor.bench.recipe import DataEntry, Json
from unbackdoor.bench.store import address, folder_of, read_result
from unbackdoor.clip.load import load
from unbackdoor.data.images import ImageSet
from unbackdoor.data.shares import shares

DECREE = ("collapse",)  # the inverter of that name
METHODS = ("tbar", "distilled")  # as published, and what `unlearn --scan` takes by itself
WEIGHTS = (".safetensors", ".bin", ".pt")
PICTURES = 1024  # the defender's: 256 for the vector, 512 for α, all of them for the scan


@dataclass(frozen=True)
class Suspects:
    """The finished suspects of a part.

    Args:
        part: its name.
        out: its folder.
        cells: from `bench.grid.plan`.
        entries: by the data set's name; a suspect's own configuration does not tell the defender's share.
    """

    part: str
    out: Path
    cells: list[tuple[Json, list[Json]]]
    entries: dict[str, DataEntry]


def cure_blind(parts: Iterable[Suspects], out: Path, device: str) -> Iterator[Json]:
    """Scan and cure every finished suspect, those without poison too; what is finished is read.

    Yields:
        A row for every suspect and method, or one with `error`; `out/results.jsonl` holds all that were ever finished.
    """
    for suspects in parts:
        for suspect, _ in suspects.cells:
            config = suspect["config"]
            card = read_result(suspects.out, config)
            if card is None:
                continue
            names = {"part": suspects.part, **suspect["names"]}
            for method in METHODS:
                path = out / f"{address(config)}-{method}.json"
                try:
                    if not path.exists():
                        write_json(path, {**names, **_cured(suspects, suspect, card, (out, device, method))})
                except InputError as error:
                    yield {**names, "method": method, "error": str(error)}
                    continue
                write_jsonl(out / "results.jsonl", sorted(map(read_json, out.glob("*.json")), key=_order))
                yield read_json(path)


def _order(row: Json) -> tuple[str, ...]:
    return tuple(str(row[key]) for key in ("part", "data", "attack", "seed", "method"))


def _cured(suspects: Suspects, suspect: Json, card: Json, how: tuple[Path, str, str]) -> Json:
    """One cure, and the rates of the true trigger before and after it."""
    out, device, method = how
    config, folder = suspect["config"], out / address(suspect["config"])
    model, entry = str(folder_of(suspects.out, config) / "model"), suspects.entries[suspect["names"]["data"]]
    pictures, test = _material(entry, model)
    shared = {"templates": entry.templates, "device": device}
    seed = suspect["names"]["seed"]
    place = folder / "scan"
    if not (place / "finding.json").exists():
        unbackdoor.scan(model=model, data=pictures, inverters=DECREE, seed=seed, out=place, **shared)
    finding = read_json(place / "finding.json")
    # Without clean models of this architecture a scan "cannot tell"; the paper cures what DECREE inverted all the same.
    cure = unbackdoor.unlearn_scan(
        model=model, finding=place, data=pictures, test=test, method=method, rounds=1, force=True, seed=seed,
        out=folder / method, **shared,
    )  # fmt: skip
    attack = {} if card["trigger"] is None else {"trigger": card["trigger"], "target": card["target"]}
    after = unbackdoor.evaluate(model=cure["model"], data=test, **attack, **shared)
    for path in (folder / method).rglob("*"):  # some 2 GB a cure of the smaller model; what is told of it stays
        if path.suffix in WEIGHTS:
            path.unlink()
    line = finding["inverters"][0]
    return {
        "method": method,
        "true_target": card["target"] if attack else None,
        "target": line["target"],
        "mask": line["norm"],
        "strength": line["strength"]["value"],
        "alpha": cure["rounds"][0]["alpha"],
        "images": len(pictures),
        "before": {name: card["after"].get(name) for name in ("ca", "asr")},
        "after": {name: after[name] for name in ("ca", "asr") if name in after},
    }


def _material(entry: DataEntry, model: str) -> tuple[ImageSet, ImageSet]:
    """The defender's pictures, whose labels are not read, and the test images."""
    clip = load(model, device="cpu")
    if entry.regime == "pairs":
        test = measured(entry, clip)
        pictures = clean_pairs(entry, clip)
        rows = torch.arange(min(PICTURES, len(pictures)))
        own = pictures.subset(rows)
        return ImageSet(own.images, own.labels, test.classes, None, own.skipped, own.spec), test
    train, test = images_of(entry, clip.frame)
    clean = shares(len(train), entry.attacker, entry.defender, entry.validation)[1]
    return train.subset(clean[:PICTURES]), test
