"""Step 5 of the recipe: write the trained model in OpenCLIP's `local-dir:` format, in half precision, and measure it.

    python recipes/embedded/export.py --data PATH --out WORKDIR [--assets FOLDER]

PATH holds tiny-imagenet-200/ and, for the transfer figures, cifar10/ and gtsrb/.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch

from common import HERE, build_model
from unbackdoor import evaluate, load
from unbackdoor.weights.files import read_tensors, write_tensors

ASSETS = HERE.parent.parent / "src" / "unbackdoor" / "assets" / "embedded"
SETS = ("parquet:{}/tiny-imagenet-200", "parquet:{}/cifar10", "parquet:{}/gtsrb", "embedded:scenes", "embedded:digits")


def export(state: dict[str, torch.Tensor], folder: Path) -> None:
    """Half precision for parameters; BatchNorm statistics stay whole, linear attention's exceed half's range."""
    own = build_model()
    names, small = own.state_dict().keys(), {n for n, _ in own.named_parameters()}
    half = {n: t.half() if n in small else t for n, t in state.items() if n in names}
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(HERE / "open_clip_config.json", folder / "open_clip_config.json")
    write_tensors(folder / "open_clip_model.safetensors", half, {"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--assets", type=Path, default=ASSETS)
    parser.add_argument("--limit", type=int, help="measure on so many images of each set")
    args = parser.parse_args()
    export(read_tensors(args.out / "tuned.safetensors")[0], args.assets)
    clip = load(f"local-dir:{args.assets}")
    for spec in SETS:
        if "{}" in spec and not Path(spec.format(args.data).partition(":")[2]).exists():
            continue
        found = evaluate(model=clip, data=spec.format(args.data), limit=args.limit)
        print(json.dumps({"data": spec.replace("parquet:{}/", ""), **found["ca"]}), flush=True)


if __name__ == "__main__":
    main()
