from __future__ import annotations

import pytest
import torch

from unbackdoor.weights.blocks import blocks, cosine, effective_rank, shares
from unbackdoor.weights.names import block_of


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("visual.transformer.resblocks.3.mlp.c_fc.weight", "visual.transformer.resblocks.3"),
        ("visual.trunk.blocks.11.attn.qkv.bias", "visual.trunk.blocks.11"),
        ("vision_model.encoder.layers.10.self_attn.k_proj.weight", "vision_model.encoder.layers.10"),
        ("visual.layer1.0.downsample.0.weight", "visual.layer1.0"),
        ("visual.trunk.stages.2.blocks.1.main.0.0.conv.weight", "visual.trunk.stages.2.blocks.1"),
        ("visual.trunk.stages.3.downsample.1.weight", "visual.trunk.stages.3"),
        ("visual.trunk.layers.2.blocks.5.attn.qkv.weight", "visual.trunk.layers.2.blocks.5"),
        ("visual.trunk.layers.1.downsample.norm.weight", "visual.trunk.layers.1"),
        ("vision_model.encoder.layer.11.attention.q_proj.weight", "vision_model.encoder.layer.11"),
        ("vision_model.encoder.stages.0.layers.2.dwconv.weight", "vision_model.encoder.stages.0.layers.2"),
        ("text_model.encoder.layer.3.attention.self.query.bias", "text_model.encoder.layer.3"),
        ("text.transformer.block.7.layer.1.DenseReluDense.wo.weight", "text.transformer.block.7"),
        ("text_decoder.cross_attn.1.attn.out_proj.weight", "text_decoder.cross_attn.1"),
        (
            "text_model.encoder.albert_layer_groups.0.albert_layers.0.ffn.bias",
            "text_model.encoder.albert_layer_groups.0.albert_layers.0",
        ),
        ("visual.conv1.weight", "visual.conv1"),
        ("visual.class_embedding", "visual"),
        ("visual_projection.weight", "visual_projection"),
        ("logit_scale", "logit_scale"),
    ],
)
def test_every_library_s_blocks_are_known(name: str, block: str) -> None:
    assert block_of(name) == block


def test_blocks_are_the_vector_and_their_shares_add_up() -> None:
    vector = {
        "visual.blocks.0.a": torch.tensor([3.0]),
        "visual.blocks.1.a": torch.tensor([4.0]),
        "visual.blocks.0.b": torch.tensor([0.0, 12.0]),
    }
    parts = blocks(vector)
    assert list(parts) == ["visual.blocks.0", "visual.blocks.1"]
    assert {k: v for part in parts.values() for k, v in part.items()} == vector
    assert shares(vector) == pytest.approx({"visual.blocks.0": 153 / 169, "visual.blocks.1": 16 / 169})
    assert shares({"a.b": torch.zeros(2)}) == {"a": 0.0}


def test_a_cosine_takes_a_missing_tensor_for_zero() -> None:
    a, b = {"x": torch.tensor([1.0, 0.0]), "y": torch.tensor([1.0])}, {"x": torch.tensor([1.0, 0.0])}
    assert cosine(a, b) == pytest.approx(0.5**0.5)
    assert cosine(a, {"x": torch.zeros(2)}) is None and cosine(a, {}) is None
    with pytest.raises(ValueError, match="in the other"):
        cosine(a, {"x": torch.zeros(3)})


@pytest.mark.parametrize(
    ("matrix", "rank"),
    [
        (torch.eye(6), 6.0),
        (torch.ones(4, 7), 1.0),
        (torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0])), 2.0),
        (torch.zeros(3, 3), 0.0),
        (torch.eye(8).view(8, 2, 2, 2), 8.0),
        # Shares 3/4 and 1/4: exp of an entropy of 0.5623.
        (torch.diag(torch.tensor([3.0, 1.0])), 1.7548),
    ],
)
def test_effective_rank(matrix: torch.Tensor, rank: float) -> None:
    assert effective_rank(matrix) == pytest.approx(rank, abs=1e-4)


def test_a_bias_has_no_rank() -> None:
    with pytest.raises(ValueError, match="no rank"):
        effective_rank(torch.zeros(3))
