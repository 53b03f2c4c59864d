"""The paper's own setting on a model whose weights you have: plant, cure, compare, as `paper.md`. See README.md here.

    python recipes/paper/run.py ViT-B-32:openai --data-root DATA --out runs/b32
    python recipes/paper/run.py ViT-L-14:openai --data-root DATA --out runs/l14

Run it again after a kill: what is finished is read, and the training that was under way goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import unbackdoor
from blind import METHODS, Suspects, cure_blind
from cost import GPU_TFLOPS, blind_cost, grid_cost, model_cost, sentences
from page import write_page
from planning import LARGE, PARTS, Order, Part, planned, start_model
from streamed import InProcess, run_cell
from unbackdoor.base.disk import write_text
from unbackdoor.base.errors import InputError
from unbackdoor.base.manifest import write_jsonl
from unbackdoor.bench.grid import collect, run_grid
from unbackdoor.bench.recipe import Json
from unbackdoor.bench.store import read_result
from unbackdoor.bench.tables import as_markdown
from unbackdoor.clip.handle import Clip
from unbackdoor.clip.load import load
from unbackdoor.runs.run import weights_hash
from unbackdoor.verbs.bench import grid_folder, tell

HERE = Path(__file__).parent


def parse(argv: Sequence[str] | None) -> Order:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", metavar="MODEL", help="reference, such as ViT-B-32:openai or local-dir:PATH")
    parser.add_argument("--out", type=Path, required=True, help="folder of everything that is written")
    parser.add_argument("--data-root", type=Path, help="folder that holds sun397/, cifar100/, imagenet-1k/, cc3m/")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=SPEC", help="one of them, elsewhere")
    parser.add_argument("--part", action="append", choices=PARTS, help="by default all three; repeatable")
    parser.add_argument("--only", action="append", default=[], metavar="KEY=VALUE", help="as of unbackdoor bench")
    parser.add_argument("--checkpoint", type=Path, help="file of the weights, where MODEL names an architecture")
    parser.add_argument("--recipes", type=Path, default=HERE, help="folder of other copies of the two recipes")
    parser.add_argument("--images", type=int, default=100_000, help=f"training images drawn of {LARGE}")
    parser.add_argument("--workers", type=int, default=1, help="cells of the first part at once, memory times as many")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tflops", type=float, default=GPU_TFLOPS, help="of your device, for the expected time")
    parser.add_argument("--online", action="store_true", help="weights and data may be fetched")
    parser.add_argument("--dry-run", action="store_true", help="say what it will take, write the page, run nothing")
    options = vars(parser.parse_args(argv))
    return Order(**{**options, "part": options["part"] or list(PARTS)})


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 2 bad input or a cell that failed."""
    order = parse(argv)
    try:
        failed = follow(order)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return 2 if failed else 0


def follow(order: Order) -> list[str]:
    """Everything in order; the lines of what failed.

    Raises:
        InputError: anything unusable in the order.
    """
    if order.images < 1 or not order.tflops > 0:
        raise InputError("--images and --tflops must be above 0")
    model = start_model(order)
    clip = load(str(model), device="cpu")
    parts = planned(order, model, weights_hash(clip))
    foresee(parts, order, clip)
    failed: list[str] = []
    if not order.dry_run:
        for part in parts:
            if part.name in order.part and part.chosen:
                failed += run_part(part, order)
                write_page(order.out, order.model)
        if "unknown" in order.part:
            failed += run_unknown(parts, order)
    print(write_page(order.out, order.model))
    return failed


def foresee(parts: list[Part], order: Order, clip: Clip) -> None:
    """Print what is left to run, and what that will take."""
    cost = model_cost(clip)
    for part in parts:
        left = [
            cell["config"]
            for suspect, cures in part.chosen
            for cell in (suspect, *cures)
            if read_result(order.out / part.name, cell["config"]) is None
        ]
        if part.name in order.part:
            workers = order.workers if part.name == PARTS[0] else 1
            print(sentences(part.name, grid_cost(left, cost, workers), order.tflops), flush=True)
    if "unknown" in order.part:
        every = [suspect["config"] for part in parts for suspect, _ in part.chosen]
        print(sentences("unknown", blind_cost(every, len(METHODS), cost), order.tflops, "suspects"), flush=True)


def run_part(part: Part, order: Order) -> list[str]:
    """Run what is not finished of a grid; the lines of what failed."""
    out = order.out / part.name
    if part.name == "single-task":
        result = unbackdoor.bench(
            recipe=part.recipe, out=out, only=order.only, workers=order.workers, device=order.device,
            online=order.online,
        )  # fmt: skip
        rows = list(result["failed"])
    else:
        with grid_folder(out, "bench", alone=True):
            errors = run_grid(part.chosen, out, lambda: InProcess(out, order.device, run_cell), tell)
            state = collect(part.cells, out, errors)
            write_jsonl(out / "results.jsonl", state.rows)
            write_text(out / "tables.md", as_markdown(state.rows))
        rows = state.failed
    return [_line({"part": part.name, **row}) for row in rows]


def run_unknown(parts: list[Part], order: Order) -> list[str]:
    """Scan and cure the suspects of both grids that are finished; the lines of what failed."""
    suspects = [Suspects(p.name, order.out / p.name, p.chosen, dict(p.grid.data)) for p in parts]
    failed = []
    for row in cure_blind(suspects, order.out / "unknown", order.device):
        print(f"unknown · {_line(row)}", file=sys.stderr, flush=True)
        if "error" in row:
            failed.append(_line(row))
    return failed


def _line(row: Json) -> str:
    where = " · ".join(str(row[k]) for k in ("part", "data", "attack", "defence", "method", "seed") if k in row)
    return f"{where}: {row['error']}" if "error" in row else f"{where}: mask {row['mask']:.4f}, {row['target']}"


if __name__ == "__main__":
    sys.exit(main())
