"""Adapters, merged as PEFT merges them: a table of configurations, each trained, saved, read and compared."""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unbackdoor import InputError, load
from unbackdoor.weights.adapters import CONFIG, WEIGHTS, read_adapter, read_config
from unbackdoor.weights.patterns import Patterns

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 12)
        self.square = nn.Linear(8, 8, bias=False)
        self.norm = nn.LayerNorm(8)
        self.attn = nn.MultiheadAttention(8, 2)


class Toy(nn.Module):
    """A module of every kind that PEFT wraps."""

    def __init__(self) -> None:
        super().__init__()
        from transformers.pytorch_utils import Conv1D

        self.embedding = nn.Embedding(11, 8)
        self.patches = nn.Conv2d(3, 8, (3, 2))
        self.point = nn.Conv2d(8, 6, 1)
        self.line = nn.Conv1d(8, 6, 3)
        self.gpt = Conv1D(12, 8)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return x


def toy() -> Toy:
    torch.manual_seed(0)
    return Toy().eval()


def trained(model: nn.Module, config: Any, name: str = "default") -> Any:
    """PEFT's model after a few steps: every trainable parameter has moved."""
    torch.manual_seed(1)
    wrapped = peft.get_peft_model(model, config, adapter_name=name)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return wrapped.eval()


def assert_merged(folder: Path, base: Mapping[str, Tensor], merged: Mapping[str, Tensor]) -> None:
    delta = read_adapter(folder, base)
    ours = {name: t + delta[name] if name in delta else t for name, t in base.items()}
    assert set(ours) == set(merged)
    assert any(not torch.equal(merged[name], t) for name, t in base.items()), "PEFT changed nothing"
    for name, t in merged.items():
        torch.testing.assert_close(ours[name], t, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


CONFIGS: dict[str, dict[str, Any]] = {
    "linear": {"target_modules": ["fc", "square"]},
    "rank 1": {"target_modules": ["fc"], "r": 1},
    "alpha of a half": {"target_modules": ["fc"], "lora_alpha": 0.5},
    "rank-stabilised": {"target_modules": ["fc"], "use_rslora": True},
    "a regex of modules": {"target_modules": r"blocks\.\d\.(fc|square)"},
    "an embedding": {"target_modules": ["embedding"]},
    "a convolution": {"target_modules": ["patches"]},
    "a convolution of points": {"target_modules": ["point"]},
    "a convolution in one dimension": {"target_modules": ["line"]},
    "GPT-2's linear module": {"target_modules": ["gpt"], "fan_in_fan_out": True},
    "fused attention": {"target_modules": ["attn"]},
    "fused attention, rank-stabilised": {"target_modules": ["attn"], "use_rslora": True, "r": 3},
    "fused attention, patterns": {
        "target_modules": ["attn"], "rank_pattern": {"blocks.1.attn": 2}, "alpha_pattern": {"blocks.1.attn": 32},
    },
    "everything": {"target_modules": ["fc", "square", "embedding", "patches", "point", "line", "attn", "head"]},
    "rank pattern by name": {"target_modules": ["fc"], "rank_pattern": {"blocks.1.fc": 2}},
    "patterns by their ends": {
        "target_modules": ["fc", "square"], "rank_pattern": {"fc": 2}, "alpha_pattern": {"square": 1},
    },
    "patterns with repeats": {
        "target_modules": ["fc", "square"],
        "rank_pattern": {r".*\.square": 2, r"blocks\.\d+\.fc": 3},
        "alpha_pattern": {r"^blocks.0.*": 5, "(1.fc|2.fc)": 9},
    },
    "patterns of whole names": {
        "target_modules": ["fc", "square"], "alpha_pattern": {r"^blocks\.0\.fc$": 5, "square|1.fc": 9},
    },
    "rank-stabilised patterns": {"target_modules": ["fc"], "use_rslora": True, "rank_pattern": {"blocks.0.fc": 2}},
    "biases of adapted modules": {"target_modules": ["fc", "head"], "bias": "lora_only"},
    "all biases": {"target_modules": ["fc", "square"], "bias": "all"},
    "a bias of its own": {"target_modules": ["fc", "patches", "line"], "lora_bias": True},
    "saved modules": {"target_modules": ["fc"], "modules_to_save": ["head", "norm"]},
    "saved modules alone": {"target_modules": ["fc"], "modules_to_save": ["blocks.1.norm"]},
    "excluded modules": {"target_modules": ["fc"], "exclude_modules": ["blocks.0.fc"]},
    "layers of some": {"target_modules": ["fc"], "layers_to_transform": [1], "layers_pattern": "blocks"},
    "init random": {"target_modules": ["fc", "attn"], "init_lora_weights": False},
    "init gaussian": {"target_modules": ["fc", "patches"], "init_lora_weights": "gaussian"},
    "init orthogonal": {"target_modules": ["fc"], "init_lora_weights": "orthogonal"},
    "init EVA": {"target_modules": ["fc"], "init_lora_weights": "eva"},
    "init MiCA": {"target_modules": ["fc"], "init_lora_weights": "mica"},
    "init PiSSA": {"target_modules": ["fc", "square"], "init_lora_weights": "pissa"},
    "init PiSSA, rank-stabilised": {"target_modules": ["fc"], "init_lora_weights": "pissa", "use_rslora": True},
    "init PiSSA, patterns": {
        "target_modules": ["fc"], "init_lora_weights": "pissa", "rank_pattern": {"blocks.0.fc": 2},
    },
    "init OLoRA": {"target_modules": ["fc", "square"], "init_lora_weights": "olora"},
    "init OLoRA, alpha": {"target_modules": ["fc"], "init_lora_weights": "olora", "lora_alpha": 3},
    "VeLoRA": {"target_modules": ["fc"], "velora_config": {"num_groups": 4}},
}  # fmt: skip


@pytest.mark.parametrize("settings", CONFIGS.values(), ids=CONFIGS)
def test_a_table_of_configurations(tmp_path: Path, settings: dict[str, Any]) -> None:
    base = {name: t.clone() for name, t in toy().state_dict().items()}
    wrapped = trained(toy(), peft.LoraConfig(**{"r": 4, "lora_alpha": 8, **settings}))
    wrapped.save_pretrained(tmp_path)
    assert_merged(tmp_path, base, wrapped.merge_and_unload().state_dict())
    again = peft.PeftModel.from_pretrained(toy(), str(tmp_path)).eval()
    assert_merged(tmp_path, base, again.merge_and_unload().state_dict())


def test_an_alpha_of_nought_changes_nothing(tmp_path: Path) -> None:
    trained(toy(), peft.LoraConfig(r=4, lora_alpha=0, target_modules=["fc"])).save_pretrained(tmp_path)
    assert all(not delta.any() for delta in read_adapter(tmp_path, toy().state_dict()).values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_factors_in_half_types(tmp_path: Path, dtype: torch.dtype) -> None:
    trained(toy(), peft.LoraConfig(r=4, target_modules=["fc", "attn", "patches"])).save_pretrained(tmp_path)
    whole = read_adapter(tmp_path, toy().state_dict())
    tensors = load_file(tmp_path / WEIGHTS)
    save_file({name: t.to(dtype) for name, t in tensors.items()}, tmp_path / WEIGHTS)
    for name, delta in read_adapter(tmp_path, toy().state_dict()).items():
        assert delta.dtype == torch.float32
        torch.testing.assert_close(delta, whole[name], atol=0.01, rtol=0.02)


def test_an_embedding_that_is_saved_beside_its_factors(tmp_path: Path) -> None:
    trained(toy(), peft.LoraConfig(r=4, target_modules=["embedding"])).save_pretrained(tmp_path)
    base = toy().state_dict()
    plain = read_adapter(tmp_path, base)["embedding.weight"]
    tensors = load_file(tmp_path / WEIGHTS)
    own = base["embedding.weight"] + 1
    save_file({**tensors, "base_model.model.embedding.base_layer.weight": own}, tmp_path / WEIGHTS)
    torch.testing.assert_close(read_adapter(tmp_path, base)["embedding.weight"], plain + 1)


def test_files_of_older_versions(tmp_path: Path) -> None:
    """`adapter_model.bin`, the adapter's name in every key, and few settings."""
    wrapped = trained(toy(), peft.LoraConfig(r=4, lora_alpha=8, target_modules=["fc"]))
    wrapped.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    (tmp_path / WEIGHTS).unlink()
    torch.save(
        {re.sub(r"(lora_[AB])", r"\1.mine", name): t for name, t in tensors.items()}, tmp_path / "adapter_model.bin"
    )
    (tmp_path / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "enable_lora": None}))
    assert_merged(tmp_path, toy().state_dict(), wrapped.merge_and_unload().state_dict())


def test_an_adapter_with_a_name_lies_in_a_folder_of_its_own(tmp_path: Path) -> None:
    wrapped = trained(toy(), peft.LoraConfig(r=4, target_modules=["fc"]), name="mine")
    wrapped.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"name one of the adapters in it \(mine\)"):
        read_config(tmp_path)
    assert_merged(tmp_path / "mine", toy().state_dict(), wrapped.merge_and_unload().state_dict())


REFUSED: dict[str, dict[str, Any]] = {
    "DoRA": {"target_modules": ["fc"], "use_dora": True},
    "aLoRA": {"target_modules": ["fc"], "alora_invocation_tokens": [1]},
    "BD-LoRA": {"target_modules": ["fc"], "use_bdlora": {"target_modules_bd_a": ["fc"], "nblocks": 4}},
    "KaSA": {"target_modules": ["fc"], "kasa_config": {}},
    "Monteclora": {"target_modules": ["fc"], "monteclora_config": {"num_samples": 2}},
    "parameters": {"target_modules": [], "target_parameters": ["head.weight"]},
    "tokens": {"target_modules": ["fc"], "trainable_token_indices": {"embedding": [1, 2]}},
    "PiSSA by steps": {"target_modules": ["fc"], "init_lora_weights": "pissa_niter_2"},
}


@pytest.mark.parametrize("settings", REFUSED.values(), ids=REFUSED)
def test_kinds_that_are_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    """What PEFT itself saves of them."""
    trained(toy(), peft.LoraConfig(**{"r": 4, **settings})).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"adapter_config\.json: \w+ is (set|'pissa_niter_2')"):
        read_adapter(tmp_path, toy().state_dict())


METHODS: dict[str, dict[str, Any]] = {
    "IA3Config": {"feedforward_modules": []}, "OFTConfig": {"oft_block_size": 4}, "BOFTConfig": {"boft_block_size": 4},
    "LoHaConfig": {}, "LoKrConfig": {}, "VeraConfig": {}, "RandLoraConfig": {},
}  # fmt: skip


@pytest.mark.parametrize("kind", METHODS)
def test_other_methods_are_refused(tmp_path: Path, kind: str) -> None:
    config = getattr(peft, kind)(target_modules=["square"], **METHODS[kind])
    peft.get_peft_model(toy(), config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="peft_type is not LORA"):
        read_adapter(tmp_path, toy().state_dict())


FC = "base_model.model.blocks.0.fc"
PAIR = {f"{FC}.lora_A.weight": torch.ones(2, 8), f"{FC}.lora_B.weight": torch.ones(12, 2)}


def written(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    (folder / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2, **config}))
    save_file(dict(tensors), folder / WEIGHTS)
    return folder


@pytest.mark.parametrize(
    ("config", "change", "told"),
    [
        ({"init_lora_weights": "corda"}, {}, "is 'corda'"),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, {}, "is 'loftq'"),
        ({"init_lora_weights": "lora_ga"}, {}, "is 'lora_ga'"),
        ({"init_lora_weights": "PISSA"}, {}, "is 'PISSA'"),
        ({"init_lora_weights": 5}, {}, "init_lora_weights"),
        ({"layer_replication": [[0, 2]]}, {}, "layer_replication is set"),
        ({"use_qalora": True}, {}, "use_qalora is set"),
        ({"arrow_config": {"top_k": 1}}, {}, "arrow_config is set"),
        ({"megatron_config": {"a": 1}}, {}, "megatron_config is set"),
        ({"something_new": 0.5}, {}, "something_new is set"),
        ({"fan_in_fan_out": "yes"}, {}, "fan_in_fan_out"),
        ({"r": 4}, {}, "rank 2, and .* says 4"),
        ({"r": 2.5}, {}, r"r\b"),
        ({"lora_alpha": 10**39}, {}, "NaN or infinite"),
        ({"rank_pattern": ["fc"]}, {}, "rank_pattern"),
        ({"rank_pattern": {"fc": 3}}, {}, "says 3"),
        ({"rank_pattern": {"fc": 3, "0.fc": 4}}, {}, "says 3 or 4"),
        ({"alpha_pattern": {"fc": 3, "0.fc": 4}}, {}, "says several things of blocks.0.fc"),
        ({"alpha_pattern": {"(a+)+b": 1}}, {}, "not followed in"),
        ({"init_lora_weights": "pissa", "lora_alpha": -1}, {}, "no kind that pissa starts from"),
        ({}, {f"{FC}.lora_C.weight": torch.ones(2, 2)}, "no factor"),
        ({}, {f"{FC}.lora_A.other.weight": torch.ones(2, 8)}, "twice|several"),
        ({}, {f"{FC.replace('0', '1')}.lora_A.x.weight": torch.ones(2, 8)}, "several adapters"),
        ({}, {f"{FC}.bias": torch.ones(12)}, "no factor"),
        ({}, {f"{FC}.lora_B.weight": torch.ones(12, 2, 3, 3)}, "do not fit"),
        ({}, {f"{FC}.lora_B.weight": torch.ones(12, 2).int()}, "no floating-point"),
        ({}, {f"{FC}.lora_A.weight": torch.ones(2, 7)}, "no place in the base"),
        ({}, {f"{FC}.lora_A.weight": torch.ones(2, 0)}, "do not fit"),
        ({}, {f"{FC}.lora_B.bias": torch.ones(11)}, "a bias that does not fit"),
        ({}, {f"{FC}.lora_A.bias": torch.ones(2)}, "more than two"),
        ({"bias": "all"}, {f"{FC}.bias": torch.ones(11)}, "no place in the base"),
        ({"modules_to_save": ["head"]}, {}, "lacks head"),
        ({"modules_to_save": ["head"]}, {"base_model.model.head.weight": torch.ones(3, 3)}, "no place in the base"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, config: Any, change: dict[str, Tensor], told: str) -> None:
    with pytest.raises(InputError, match=told) as error:
        read_adapter(written(tmp_path, config, PAIR | change), toy().state_dict())
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_nothing_larger_than_the_base_is_computed(tmp_path: Path) -> None:
    """Two factors of half a megabyte, whose product has fourteen gigabytes."""
    large = {f"{FC}.lora_A.weight": torch.ones(1, 60_000), f"{FC}.lora_B.weight": torch.ones(60_000, 1)}
    began = time.monotonic()
    with pytest.raises(InputError, match="no place in the base"):
        read_adapter(written(tmp_path, {"r": 1}, large), toy().state_dict())
    assert time.monotonic() - began < 5


def test_the_transposed_flag_decides_by_shape(tmp_path: Path) -> None:
    """PEFT takes it back for linear modules; only of a square one nothing tells."""
    plain = read_adapter(written(tmp_path, {}, PAIR), toy().state_dict())
    flagged = read_adapter(written(tmp_path, {"fan_in_fan_out": True}, PAIR), toy().state_dict())
    assert torch.equal(plain["blocks.0.fc.weight"], flagged["blocks.0.fc.weight"])
    square = {n.replace("fc", "square"): t[:8] for n, t in PAIR.items()}
    with pytest.raises(InputError, match="may be transposed"):
        read_adapter(written(tmp_path, {"fan_in_fan_out": True}, square), toy().state_dict())


# --- towers by themselves, and models within others ---


class Two(nn.Module):
    """Two towers of the same make, as many CLIPs have them."""

    def __init__(self, vision: str, text: str) -> None:
        super().__init__()
        for name in (vision, text):
            if name:
                self.add_module(name, toy())
            else:
                self.fc, self.blocks = nn.Linear(8, 8), toy().blocks  # OpenCLIP's text tower has no name of its own


def tower_adapter(folder: Path, trained_in: str | None) -> Path:
    mapping = {} if trained_in is None else {"auto_mapping": {"base_model_class": trained_in, "parent_library": "x"}}
    return written(folder, mapping, PAIR)


@pytest.mark.parametrize(
    ("towers", "trained_in", "place"),
    [
        (("vision_model", "text_model"), "CLIPVisionModel", "vision_model."),
        (("vision_model", "text_model"), "CLIPTextModel", "text_model."),
        (("vision_model", "text_model"), "ViTModel", "vision_model."),
        (("vision_model", "text_model"), "BertModel", "text_model."),
        (("visual", ""), "VisionTransformer", "visual."),
        (("visual", ""), "CLIP", ""),
        (("visual", ""), None, ""),
        (("visual", "text"), "TextTransformer", "text."),
    ],
)
def test_an_adapter_of_one_tower(tmp_path: Path, towers: tuple[str, str], trained_in: str | None, place: str) -> None:
    base = Two(*towers).state_dict()
    assert set(read_adapter(tower_adapter(tmp_path, trained_in), base)) == {f"{place}blocks.0.fc.weight"}


@pytest.mark.parametrize(
    ("towers", "trained_in"),
    [
        (("vision_model", "text_model"), None),
        (("vision_model", "text_model"), "MyTower"),
        (("visual", ""), "Transformer"),
        (("one", "another"), "CLIPVisionModel"),
    ],
)
def test_a_tower_that_could_be_either_is_refused(
    tmp_path: Path, towers: tuple[str, str], trained_in: str | None
) -> None:
    with pytest.raises(InputError, match="does not tell what tower is meant"):
        read_adapter(tower_adapter(tmp_path, trained_in), Two(*towers).state_dict())


@pytest.mark.parametrize("prefix", ["model.", "module.", "clip.", "model.clip.", "_orig_mod."])
def test_a_model_within_another(tmp_path: Path, prefix: str) -> None:
    tensors = {n.replace("blocks", f"{prefix}blocks"): t for n, t in PAIR.items()}
    assert set(read_adapter(written(tmp_path, {}, tensors), toy().state_dict())) == {"blocks.0.fc.weight"}


@pytest.mark.parametrize("part", ["vision_model", "text_model"])
def test_a_tower_of_hugging_face(tmp_path: Path, part: str) -> None:
    """Trained by PEFT in the tower alone, and opened on the whole model."""
    from transformers import CLIPModel

    from tests.weights.test_lora import hf

    folder = hf(tmp_path)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "fc1"])
    wrapped = trained(copy.deepcopy(getattr(CLIPModel.from_pretrained(folder), part)), config)
    wrapped.save_pretrained(tmp_path / "a")
    merged = {f"{part}.{name}": t for name, t in wrapped.merge_and_unload().state_dict().items()}
    state = load(f"adapter:{tmp_path / 'a'}@{folder}").state()
    changed = 0
    for name, t in load(str(folder)).state().items():
        torch.testing.assert_close(state[name], merged.get(name, t), atol=1e-5, rtol=1e-5)
        changed += int(not torch.equal(state[name], t))
    assert changed == 4


# --- patterns ---

NAMES = (
    "a.fc",
    "b.fc",
    "layers.0.fc",
    "layers.10.fc",
    "layers.0.fc1",
    "fc",
    "layersX0.fc",
    "q_proj",
    "x.q_proj",
    "xfc",
)


@pytest.mark.parametrize(
    "pattern",
    [
        "fc", "layers.0.fc", r"layers\.0\.fc", "^fc", "^layers.0.fc$", r".*\.fc", r"layers\.\d+\.fc", "layers.[0-9].fc",
        "layers.[0-9]+.fc", "(q|v)_proj", "(?:a|b).fc", "a.fc|b.fc", "^a.fc|fc1", ".*", "", "f.?c", "layers.*fc1?",
        r"\w+_proj", "(a|layers.0).(fc|fc1)", "x*fc", "x+fc", "^.*0.fc", "fc$", r"q\_proj",
    ],
)  # fmt: skip
def test_patterns_match_as_pefts_do(pattern: str) -> None:
    if pattern == "":
        with pytest.raises(ValueError):
            Patterns({pattern: 1})
        return
    for name in NAMES:
        theirs = re.match(rf"(.*\.)?({pattern})$", name) is not None
        assert bool(Patterns({pattern: 1}).values(name)) == theirs, name


def test_all_patterns_that_match_are_told() -> None:
    assert (
        Patterns({"fc": 1, "a.fc": 2, "b.fc": 3}).values("a.fc") == {1, 2} and Patterns({"x": 1}).values("fc") == set()
    )


@pytest.mark.parametrize(
    "pattern",
    [
        "(", ")", "(a", "(a+)+b", "(a|a)*b", "(ab)+", "(ab)?c", "((a))", "a{3}", "(a){3}", "[z-a]", "[^a]", "[]", "*",
        "a**", "(?i)a", "(?=a)b", r"\b", r"a\Zb", r"(a)\1", "a" * 301, "(a|b)" * 7, "(?P<x>a)", "a|b(c)", "\\", "a\\",
        "(?#", "[a", "a^b", "a$b",
    ],
)  # fmt: skip
def test_patterns_that_are_not_followed(pattern: str) -> None:
    with pytest.raises(ValueError):
        Patterns({pattern: 1})


def test_patterns_take_no_time() -> None:
    hostile = Patterns({".*a" * 90 + "b": 1, ".?" * 100 + "c": 2, ".+.*" * 60 + "d": 3})
    began = time.monotonic()
    assert hostile.values("a" * 120) == set()
    assert time.monotonic() - began < 2
    with pytest.raises(ValueError, match="more than 64"):
        Patterns({f"a{i}.*": i for i in range(65)})


def test_the_base_is_left_as_it_is(tmp_path: Path) -> None:
    wrapped: Callable[..., Any] = trained(
        toy(), peft.LoraConfig(r=4, target_modules=["fc"], init_lora_weights="pissa", modules_to_save=["head"])
    )
    wrapped.save_pretrained(tmp_path)  # type: ignore[attr-defined]
    base = toy().state_dict()
    read_adapter(tmp_path, base)
    assert all(torch.equal(base[name], t) for name, t in toy().state_dict().items())
