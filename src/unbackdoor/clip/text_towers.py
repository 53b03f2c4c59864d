"""Hugging Face text towers that OpenCLIP builds by name: their configurations, so that no name is looked up anywhere.

A configuration names such a tower (`hf_model_name`), and OpenCLIP would fetch what that name stands for. The table
here lists the names of published models with the settings that decide on their function; a name that is not in it is
refused. The values are those of each model's `config.json` on the hub. Sizes are compared with the weights.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unbackdoor.base.errors import InputError

Json = dict[str, Any]


def _bert(words: int, **other: Any) -> Json:
    return {"model_type": "bert", "vocab_size": words, "pad_token_id": 0, **other}


def _roberta(kind: str, words: int, **other: Any) -> Json:
    return {
        "model_type": kind, "vocab_size": words, "max_position_embeddings": 514, "type_vocab_size": 1,
        "layer_norm_eps": 1e-5, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, **other,
    }  # fmt: skip


def _mt5(width: int, inner: int, heads: int, layers: int) -> Json:
    return {
        "model_type": "mt5", "vocab_size": 250112, "d_model": width, "d_ff": inner, "num_heads": heads, "d_kv": 64,
        "num_layers": layers, "num_decoder_layers": layers, "feed_forward_proj": "gated-gelu",
        "layer_norm_epsilon": 1e-6, "relative_attention_num_buckets": 32, "tie_word_embeddings": False,
        "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
    }  # fmt: skip


def _nllb(layers: int, inner: int) -> Json:
    return {
        "model_type": "m2m_100", "vocab_size": 256206, "d_model": 1024, "max_position_embeddings": 1024,
        "encoder_layers": layers, "decoder_layers": layers, "encoder_ffn_dim": inner, "decoder_ffn_dim": inner,
        "encoder_attention_heads": 16, "decoder_attention_heads": 16, "activation_function": "relu",
        "scale_embedding": True, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2,
    }  # fmt: skip


_LARGE: Json = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
}  # fmt: skip
_KNOWN: dict[str, Json] = {
    "bert-base-uncased": _bert(30522),
    "bert-large-uncased": _bert(30522, **_LARGE),
    "bert-base-cased": _bert(28996),
    "bert-base-chinese": _bert(21128),
    "bert-base-multilingual-cased": _bert(119547),
    "microsoft/BiomedNLP-PubMedBERT-base-uncased-abstract": _bert(30522),
    "microsoft/BiomedNLP-PubMedBERT-base-uncased-abstract-fulltext": _bert(30522),
    "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract": _bert(30522),
    "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext": _bert(30522),
    "emilyalsentzer/Bio_ClinicalBERT": _bert(28996),
    "roberta-base": _roberta("roberta", 50265),
    "roberta-large": _roberta("roberta", 50265, **_LARGE),
    "xlm-roberta-base": _roberta("xlm-roberta", 250002),
    "xlm-roberta-large": _roberta("xlm-roberta", 250002, **_LARGE),
    "facebook/xlm-v-base": _roberta("xlm-roberta", 901629),
    "google/mt5-small": _mt5(512, 1024, 6, 8),
    "google/mt5-base": _mt5(768, 2048, 12, 12),
    "google/mt5-large": _mt5(1024, 2816, 16, 24),
    "google/mt5-xl": _mt5(2048, 5120, 32, 24),
    "facebook/nllb-200-distilled-600M": _nllb(12, 4096),
    "facebook/nllb-200-distilled-1.3B": _nllb(24, 8192),
}
# The hub's present names of models that had none of an organisation once.
_MOVED = ("google-bert/", "FacebookAI/")


def text_config(name: str, what: str) -> Json:
    """The configuration of a text tower that is known by name.

    Raises:
        InputError: it is not.
    """
    plain = next((name.removeprefix(prefix) for prefix in _MOVED if name.startswith(prefix)), name)
    if plain not in _KNOWN:
        raise InputError(
            f"{what}: the text tower {name!r} is known by name alone, and names out of a file are looked up nowhere; "
            f"known here are {', '.join(_KNOWN)}"
        )
    return _KNOWN[plain]


def most_tokens(config: Json) -> int:
    """How many tokens a text may have."""
    rows = int(config.get("max_position_embeddings", 512))
    # Positions begin after the padding's; mT5's are relative.
    return rows - 2 if config["model_type"] in ("roberta", "xlm-roberta") else rows


@contextmanager
def written(config: Json) -> Iterator[str]:
    """A temporary folder with the configuration, which stands for the name when OpenCLIP builds the tower."""
    with tempfile.TemporaryDirectory(prefix="unbackdoor-tower-") as place:
        (Path(place) / "config.json").write_text(json.dumps(config))
        yield place
