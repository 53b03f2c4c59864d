"""`zoo`: make a population of models, examine it, and tell how well detection and cure do on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unbackdoor.bench.cells import address, folder_of, read_result
from unbackdoor.bench.engine import ENGINES
from unbackdoor.bench.grid import narrow, run_grid
from unbackdoor.disk import write_text
from unbackdoor.errors import InputError
from unbackdoor.inversion import inverter_names
from unbackdoor.inversion.detection import Origin, architecture
from unbackdoor.inversion.examine import settings
from unbackdoor.manifest import Manifest, write_json
from unbackdoor.printable import markdown
from unbackdoor.runs.case import Case
from unbackdoor.runs.run import Run
from unbackdoor.runs.verb import verb
from unbackdoor.untrusted import read_text
from unbackdoor.verbs.bench import grid_folder, recipe_model, tell
from unbackdoor.verbs.configs.grids import STAGES, ZOO, ZooConfig
from unbackdoor.verbs.scan import find_null
from unbackdoor.weights.files import state_hash
from unbackdoor.zoo.cells import FILE, collect
from unbackdoor.zoo.recipe import CLEAN, classes_of, examination, members, read_zoo, recovery
from unbackdoor.zoo.tables import as_markdown, cures, detection, false_alarms
from unbackdoor.zoo.verdicts import Row, Verdict, judge_rows


@verb(ZOO)
def zoo(case: Case, config: ZooConfig, run: Run) -> dict[str, Any]:
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
    plan = read_zoo(path, None if config.data_root is None else Path(config.data_root), online=config.online)
    base = recipe_model(plan.model, config.online)
    weights = state_hash(base.state())
    population = members(plan, weights, classes_of(plan))
    kind, identity = architecture(base.state()), settings(plan.images, inverter_names(), weights)
    first, other = next(iter(plan.halves)), find_null(base, config.null)
    if other is not None and other.settings != identity:
        if config.null is not None:
            raise InputError(
                f"{config.null}: made with other inverters or another number of images than this zoo, or another origin"
            )
        other = None
    manifest = Manifest("zoo", {"recipe": read_text(path), "engine": config.engine, "workers": config.workers})
    origin = Origin(plan.model, weights)
    manifest.hashes[f"weights of {plan.model}"] = weights
    errors: dict[str, str] = {}

    def work_through(cells: list[tuple[dict[str, Any], list[dict[str, Any]]]]) -> None:
        if not config.dry_run:
            errors.update(run_grid(cells, out, lambda: ENGINES[config.engine](out, case.device, config.workers), tell))

    with grid_folder(out, "zoo", alone=not config.dry_run):
        picked = narrow(
            [(m, [] if config.stage == "make" else [examination(plan, m)]) for m in population], config.only
        )
        work_through(picked)
        asked = {address(m["config"]) for m, _ in picked}
        rows = collect(out, plan, population)
        write_json(out / "members.json", {"members": [_card(out, row) for row in rows]})
        result: dict[str, Any] = {
            "verb": "zoo",
            "recipe": str(config.recipe),
            "members": len(population),
            "made": len(rows),
            "examined": sum(row["seen"] is not None for row in rows),
            "failed": [{"address": key, "error": error} for key, error in errors.items()],
            "halves": {},
        }
        seen = [row for row in rows if row["seen"] is not None]
        if config.null is None and any(row["half"] == first and row["family"] == CLEAN for row in seen):
            other = None
        own, judged = judge_rows(seen, list(plan.halves), kind, identity, config.false_alarm_rate, origin, other)
        if own.rows:
            own.save(out / "null.jsonl")
        if own.rows or other is not None:
            for half, verdicts in judged.items():
                wanted = [v for v in verdicts if v.judgement.backdoored or v.truth is False]
                cells = [(v, recovery(plan, v.row["member"], v.judgement)) for v in wanted]
                if config.stage == "cure":
                    work_through([(cell, []) for v, cell in cells if address(v.row["member"]["config"]) in asked])
                done = [(v, found) for v, c in cells if (found := read_result(out, c["config"])) is not None]
                cured = {address(v.row["member"]["config"]): found for v, found in done}
                result["halves"][half] = {
                    "detection": detection(verdicts),
                    "false_alarms": false_alarms(verdicts, config.false_alarm_rate),
                    "cures": cures(done),
                    "members": [_line(v, cured.get(address(v.row["member"]["config"]))) for v in verdicts],
                }
            result["null"] = str(out / "null.jsonl") if other is None else str(config.null or "shipped")
        text = "\n".join(f"## {markdown(half)}\n\n{as_markdown(found)}" for half, found in result["halves"].items())
        write_text(out / "tables.md", text or "nothing to judge yet\n")
        result["seconds"] = round(manifest.seconds, 2)
        manifest.write(out)
        write_json(out / "result.json", result)
    return {**result, "tables": str(out / "tables.md")}


def _card(out: Path, row: Row) -> dict[str, Any]:
    """What is known of a member, and where it lies."""
    card = row["card"]
    return {
        **{k: row[k] for k in ("half", "number", "family", "data", "regime")},
        "file": str(folder_of(out, row["member"]["config"]).relative_to(out) / FILE),
        "address": address(row["member"]["config"]),
        **{k: card[k] for k in ("trigger", "target", "poisoned", "images", "steps", "lr", "weights", "size")},
        "after": card["after"],
    }


def _line(v: Verdict, cured: dict[str, Any] | None) -> dict[str, Any]:
    return {
        **{k: v.row[k] for k in ("number", "family", "data", "regime")},
        "p_value": v.p_value,
        "score": round(v.score, 4),
        "backdoored": v.judgement.backdoored,
        "target": v.judgement.target,
        "true_target": v.row["card"]["target"] or None,
        "shown": v.judgement.shown,
        "others": [other.target for other in v.judgement.others],
        "statistics": {n: found["statistic"] for n, found in v.row["seen"]["inverters"].items()},
        "targets": {n: found["target"] for n, found in v.row["seen"]["inverters"].items()},
        "asr": (v.row["card"]["after"].get("asr") or {}).get("value"),
        "cured": cured,
    }
