"""`zoo`: make a population of models, examine it, and tell how well detection and cure do on it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from unbackdoor.base.disk import write_text
from unbackdoor.base.errors import InputError
from unbackdoor.base.manifest import Manifest, write_json
from unbackdoor.base.printable import markdown
from unbackdoor.base.untrusted import as_type, read_text
from unbackdoor.bench.engine import ENGINES
from unbackdoor.bench.grid import narrow, run_grid
from unbackdoor.bench.recipe import Json
from unbackdoor.bench.store import address, folder_of, read_result
from unbackdoor.bench.zoo.cells import FILE, collect
from unbackdoor.bench.zoo.recipe import CLEAN, Zoo, classes_of, examination, members, read_zoo, recovery
from unbackdoor.bench.zoo.tables import as_markdown, cures, detection, false_alarms
from unbackdoor.bench.zoo.verdicts import Row, Verdict, judge_rows
from unbackdoor.runs.case import Case
from unbackdoor.runs.result import plain
from unbackdoor.runs.run import Run, finish
from unbackdoor.runs.verb import verb
from unbackdoor.scan.detection import Null, Origin, architecture
from unbackdoor.scan.examine import settings
from unbackdoor.scan.inverters import inverter_names
from unbackdoor.verbs.bench import grid_folder, recipe_model, tell
from unbackdoor.verbs.configs.grids import STAGES, ZOO, ZooConfig
from unbackdoor.verbs.results import ZooResult
from unbackdoor.verbs.results.grids import FailedMember, Half
from unbackdoor.verbs.scan import find_null
from unbackdoor.weights.files import state_hash


@verb(ZOO)
def zoo(case: Case, config: ZooConfig, run: Run) -> ZooResult:
    """Make the members of a recipe, examine each, cure those found, and tabulate half by half.

    The null is that of the first half's clean members. Members of the other halves are judged under it; those of the
    first, on which inverters may have been tuned, under the null of all clean ones but themselves. Cells resume as
    those of `bench`. Writes `null.jsonl`, `members.json`, `tables.md`, `result.json` and `manifest.json`.

    Raises:
        InputError: a recipe, stage, engine or null that cannot be used, or another run in `out`.
    """
    if config.engine not in ENGINES:
        raise InputError(f"engine {config.engine!r} is none of {', '.join(ENGINES)}")
    if config.stage not in STAGES:
        raise InputError(f"stage {config.stage!r} is none of {', '.join(STAGES)}")
    out, path = run.folder, Path(config.recipe)
    ready = _ready(config)
    plan, population = ready.plan, ready.population
    manifest = Manifest("zoo", {"recipe": read_text(path), "engine": config.engine, "workers": config.workers})
    manifest.hashes[f"weights of {plan.model}"] = ready.origin.weights
    errors: dict[str, str] = {}

    def work_through(cells: list[tuple[Json, list[Json]]]) -> None:
        if not config.dry_run:
            errors.update(run_grid(cells, out, lambda: ENGINES[config.engine](out, case.device, config.workers), tell))

    with grid_folder(out, "zoo", alone=not config.dry_run):
        picked = narrow(
            [(m, [] if config.stage == "make" else [examination(plan, m)]) for m in population], config.only
        )
        work_through(picked)
        rows = collect(out, plan, population)
        write_json(out / "members.json", {"members": [_card(out, row) for row in rows]})
        examined = [row for row in rows if row["seen"] is not None]
        failed = tuple(FailedMember(key, error) for key, error in errors.items())  # before any cure
        other = None if _holds_clean(config, plan, examined) else ready.other
        own, judged = ready.judged(examined, config.false_alarm_rate, other)
        if own.rows:
            own.save(out / "null.jsonl")
        halves: dict[str, Half] = {}
        null = None
        if own.rows or other is not None:
            asked = {address(m["config"]) for m, _ in picked}
            for half, verdicts in judged.items():
                cells = _cures(plan, verdicts)
                if config.stage == "cure":
                    work_through([(cell, []) for v, cell in cells if address(v.row["member"]["config"]) in asked])
                halves[half] = _half(out, verdicts, cells, config.false_alarm_rate)
            null = str(out / "null.jsonl") if other is None else str(config.null or "shipped")
        text = "\n".join(f"## {markdown(name)}\n\n{as_markdown(plain(half))}" for name, half in halves.items())
        write_text(out / "tables.md", text or "nothing to judge yet\n")
        result = ZooResult(
            recipe=str(config.recipe),
            members=len(population),
            made=len(rows),
            examined=len(examined),
            failed=failed,
            halves=halves,
            null=null,
            seconds=round(manifest.seconds, 2),
        )
        finish(out, manifest, result)
    return replace(result, tables=str(out / "tables.md"))


@dataclass(frozen=True)
class _Ready:
    """What a zoo is made of and judged by.

    Args:
        population: its members.
        origin: the clean model that they are made from.
        kind, identity: fingerprints of its architecture and of how members are examined.
        other: a null besides the zoo's own.
    """

    plan: Zoo
    population: list[Json]
    origin: Origin
    kind: str
    identity: str
    other: Null | None

    def judged(
        self, examined: list[Row], false_alarm_rate: float, other: Null | None
    ) -> tuple[Null, dict[str, list[Verdict]]]:
        """The zoo's own null, and every examined member judged, by half; see `judge_rows`."""
        halves = list(self.plan.halves)
        return judge_rows(examined, halves, self.kind, self.identity, false_alarm_rate, self.origin, other)


def _ready(config: ZooConfig) -> _Ready:
    """Read the recipe and open its model.

    Raises:
        InputError: a recipe or null that cannot be used.
    """
    root = None if config.data_root is None else Path(config.data_root)
    plan = read_zoo(Path(config.recipe), root, online=config.online)
    base = recipe_model(plan.model, config.online)
    weights = state_hash(base.state())
    classes = classes_of(plan)
    population = members(plan, weights, classes)
    identity = settings(plan.images, inverter_names(), weights, max(map(len, classes.values())))
    other = find_null(base, config.null)
    if other is not None and other.settings != identity:
        if config.null is not None:
            raise InputError(
                f"{config.null}: made with other inverters or another number of images than this zoo, or another origin"
            )
        other = None
    return _Ready(plan, population, Origin(plan.model, weights), architecture(base.state()), identity, other)


def _holds_clean(config: ZooConfig, plan: Zoo, examined: list[Row]) -> bool:
    """Whether the zoo can be judged by itself, where no null is named: a clean member of its first half is examined."""
    first = next(iter(plan.halves))
    return config.null is None and any(row["half"] == first and row["family"] == CLEAN for row in examined)


def _cures(plan: Zoo, verdicts: list[Verdict]) -> list[tuple[Verdict, Json]]:
    """The cells that cure members found, and clean ones."""
    wanted = [v for v in verdicts if v.judgement.backdoored or v.truth is False]
    return [(v, recovery(plan, v.row["member"], v.judgement)) for v in wanted]


def _half(out: Path, verdicts: list[Verdict], cells: list[tuple[Verdict, Json]], false_alarm_rate: float) -> Half:
    """How well detection and the cures that are finished do on one half."""
    done = [(v, cure) for v, c in cells if (cure := read_result(out, c["config"])) is not None]
    cured = {address(v.row["member"]["config"]): cure for v, cure in done}
    lines = {
        "detection": detection(verdicts),
        "false_alarms": false_alarms(verdicts, false_alarm_rate),
        "cures": cures(done),
        "members": [_line(v, cured.get(address(v.row["member"]["config"]))) for v in verdicts],
    }
    return as_type(lines, Half, "the zoo")


def _card(out: Path, row: Row) -> Json:
    """What is known of a member, and where it lies."""
    card = row["card"]
    return {
        **{k: row[k] for k in ("half", "number", "family", "data", "regime")},
        "file": str(folder_of(out, row["member"]["config"]).relative_to(out) / FILE),
        "address": address(row["member"]["config"]),
        **{k: card[k] for k in ("trigger", "target", "poisoned", "images", "steps", "lr", "weights", "size")},
        "after": card["after"],
    }


def _line(v: Verdict, cured: Json | None) -> Json:
    return {
        **{k: v.row[k] for k in ("number", "family", "data", "regime")},
        "p_value": v.p_value,
        "score": round(v.score, 4),
        "backdoored": v.judgement.backdoored,
        "target": v.judgement.target,
        "true_target": v.row["card"]["target"] or None,
        "shown": v.judgement.inverter,
        "others": [other.target for other in v.judgement.others],
        "statistics": {n: answer["statistic"] for n, answer in v.row["seen"]["inverters"].items()},
        "targets": {n: answer["target"] for n, answer in v.row["seen"]["inverters"].items()},
        "asr": (v.row["card"]["after"].get("asr") or {}).get("value"),
        "cured": cured,
    }
