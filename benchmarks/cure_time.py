"""Wall time of a whole cure, `unlearn` from opening the model to the report, by one method against another in one run.

    python benchmarks/cure_time.py --model SUSPECT --data parquet:PATH --target airplane
    python benchmarks/cure_time.py --model random:ViT-B-32 --data parquet:PATH --target airplane --methods lora

The random model answers nothing, so that its cure is worth nothing; it takes the steps that a real one takes. Opening
and decoding the data is not counted (`--test-limit` images are measured before and after, which is).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

import unbackdoor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--trigger", default="badnets:size=6,position=bottom-right,pattern=checker")
    parser.add_argument("--target", required=True)
    parser.add_argument("--methods", default="lora,distilled,anchored")
    parser.add_argument("--test-limit", type=int, default=512)
    args = parser.parse_args()
    side = unbackdoor.load(args.model).image_size
    train = unbackdoor.load_images(args.data, side=side, split="train", limit=4096)
    test = unbackdoor.load_images(args.data, side=side, split="test", limit=args.test_limit)
    seconds = {}
    for method in args.methods.split(","):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            found = unbackdoor.unlearn(
                model=args.model, data=train, test=test, trigger=args.trigger, target=args.target,
                method=method, out=Path(folder) / "cure",
            )  # fmt: skip
            seconds[method] = time.perf_counter() - began
        told = {when: {k: round(found[when][k], 4) for k in ("ca", "asr")} for when in ("before", "after")}
        row = {"method": method, "seconds": round(seconds[method], 1), "vector": found["vector"]["vector_seconds"]}
        print(json.dumps({**row, "alpha": found["alpha"], "points": len(found["curve"]), **told}), flush=True)
    first, *rest = seconds
    for other in rest:
        print(f"{other} takes {seconds[other] / seconds[first]:.2f} times as long as {first}")
    print(f"{torch.get_num_threads()} threads; {args.test_limit} test images, before and after")


if __name__ == "__main__":
    main()
