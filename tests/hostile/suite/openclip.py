"""OpenCLIP folders whose configurations lie, point elsewhere, or ask for the machine."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from tests.hostile.suite.made import DEEP, EVALUATE, HUGE_NUMBER, Json, edited, open_clip_model, put
from tests.hostile.suite.runner import MARKER, Entry


def _edit(name: str, place: str, value: object, codes: tuple[int, ...] = (2,)) -> Entry:
    def make(folder: Path) -> list[str]:
        open_clip_model(folder / "m", lambda config: put(config, place, value))
        return ["evaluate", "--model", "local-dir:m", *EVALUATE]

    return Entry(f"open-clip {name}", make, codes)


def _text(name: str, text: str | bytes) -> Entry:
    def make(folder: Path) -> list[str]:
        open_clip_model(folder / "m", text=text)
        return ["info", "--model", "m"]

    return Entry(f"open-clip file {name}", make)


V, T, M, P = "model_cfg.vision_cfg", "model_cfg.text_cfg", "model_cfg", "preprocess_cfg"
# Each is refused before anything of that size is built.
_VALUES: list[tuple[str, str, object]] = [
    ("ten million layers", f"{T}.layers", 10**7),
    ("ten million image layers", f"{V}.layers", 10**7),
    ("layers in a long list", f"{V}.layers", [1] * 100_000),
    ("no layers", f"{T}.layers", 0),
    ("negative layers", f"{V}.layers", -3),
    ("layers in words", f"{V}.layers", "two"),
    ("layers in halves", f"{T}.layers", 2.5),
    ("layers true", f"{T}.layers", True),
    ("layers null", f"{V}.layers", None),
    ("wide text", f"{T}.width", 10**9),
    ("wide image", f"{V}.width", 10**9),
    ("negative width", f"{V}.width", -64),
    ("context of 30,000", f"{T}.context_length", 30_000),
    ("context of a billion", f"{T}.context_length", 10**9),
    ("no context", f"{T}.context_length", 0),
    ("vocabulary of fifty million", f"{T}.vocab_size", 5 * 10**7),
    ("no heads", f"{T}.heads", 0),
    ("heads that do not divide", f"{T}.heads", 7),
    ("a million heads", f"{T}.heads", 10**6),
    ("head width 0", f"{V}.head_width", 0),
    ("head width of a billion", f"{V}.head_width", 10**9),
    ("pictures of 40,000", f"{V}.image_size", 40_000),
    ("pictures of nothing", f"{V}.image_size", 0),
    ("pictures of less", f"{V}.image_size", -32),
    ("oblong pictures", f"{V}.image_size", [32, 64]),
    ("pictures in words", f"{V}.image_size", "32"),
    ("pictures of a huge number", f"{V}.image_size", 10**39),
    ("patches of nothing", f"{V}.patch_size", 0),
    ("patches larger than pictures", f"{V}.patch_size", 33),
    ("patches of a million", f"{V}.patch_size", 10**6),
    ("mlp ratio of a billion", f"{V}.mlp_ratio", 1e9),
    ("mlp ratio in words", f"{T}.mlp_ratio", "four"),
    ("embedding of a hundred million", f"{M}.embed_dim", 10**8),
    ("embedding of nothing", f"{M}.embed_dim", 0),
    ("pooler queries of a hundred million", f"{V}.n_queries", 10**8),
    ("a pooler that is not there", f"{V}.attentional_pool", True),
    ("pool type of code", f"{V}.pool_type", "__import__('os').system('true')"),
    ("patch dropout of 2", f"{V}.patch_dropout", 2.0),
    ("act kwargs", f"{V}.act_kwargs", {"inplace": "x", "evil": 1}),
    ("norm kwargs", f"{V}.norm_kwargs", {"eps": "x", "device": "meta"}),
    ("unknown key of the model", f"{M}.evil", 1),
    ("unknown key of the text", f"{T}.evil", 1),
    ("unknown key of the image", f"{V}.evil", 1),
    ("text tower by path", f"{T}.hf_model_name", "../../etc"),
    ("text tower by absolute path", f"{T}.hf_model_name", "/etc"),
    ("text tower of a hub", f"{T}.hf_model_name", "evil-org/evil-model"),
    ("text tower config", f"{T}.hf_model_config", {"auto_map": {"AutoModel": "evil.Evil"}}),
    ("tokeniser kwargs of a list", f"{T}.tokenizer_kwargs", ["trust_remote_code"]),
    ("tokeniser kwargs unknown", f"{T}.tokenizer_kwargs", {"evil": 1}),
    ("tokeniser kwargs cleaning", f"{T}.tokenizer_kwargs", {"clean": "exec"}),
    ("tokeniser kwargs syntax mask", f"{T}.tokenizer_kwargs", {"reduction_mask": "syntax"}),
    ("tokeniser kwargs special", f"{T}.tokenizer_kwargs", {"additional_special_tokens": ["(a|o| )*"]}),
    ("tokeniser kwargs context", f"{T}.tokenizer_kwargs", {"context_length": 10**9}),
    ("tokeniser kwargs bpe path", f"{T}.tokenizer_kwargs", {"bpe_path": "/dev/zero"}),
    ("bpe path", f"{T}.bpe_path", "/dev/zero"),
    ("trunk from a hub", f"{V}.timm_model_name", "hf-hub:evil-org/evil"),
    ("trunk from a folder", f"{V}.timm_model_name", "local-dir:/etc"),
    ("trunk of a giant", f"{V}.timm_model_name", "eva_giant_patch14_560"),
    ("trunk unknown", f"{V}.timm_model_name", "no_such_model"),
    ("trunk of a number", f"{V}.timm_model_name", 5),
    ("custom text of another kind", f"{M}.custom_text", "yes, please"),
    ("a decoder", f"{M}.multimodal_cfg", {"layers": 10**7, "width": 10**6}),
    ("cast to evil", f"{M}.cast_dtype", "__import__"),
    ("logit scale of a huge number", f"{M}.init_logit_scale", 10**39),
    ("image tower in a list", V, [1, 2]),
    ("text tower in a word", T, "bert"),
    ("model in a word", M, "ViT-B-32"),
    ("preprocessing in a list", P, [0.5]),
    ("mean of huge numbers", f"{P}.mean", [10**39] * 3),
    ("mean of two", f"{P}.mean", [0.5, 0.5]),
    ("mean of words", f"{P}.mean", ["a", "b", "c"]),
    ("mean nested", f"{P}.mean", [[0.5], [0.5], [0.5]]),
    ("deviation of nought", f"{P}.std", [0.0, 0.5, 0.5]),
    ("deviation below nought", f"{P}.std", [-0.5, 0.5, 0.5]),
    ("size of a billion", f"{P}.size", 10**9),
    ("interpolation of a number", f"{P}.interpolation", 5),
    ("interpolation unknown", f"{P}.interpolation", "evil"),
    ("resize unknown", f"{P}.resize_mode", "evil"),
    ("fill of a billion", f"{P}.fill_color", 10**9),
    ("preprocessing unknown", f"{P}.evil", 1),
]
_TEXTS: list[tuple[str, str | bytes]] = [
    ("deep", '{"model_cfg":' + DEEP),
    ("nested in itself", "{" * 200),
    ("of a huge number", '{"model_cfg": {"embed_dim": ' + HUGE_NUMBER + "}}"),
    ("of a number without end", '{"model_cfg": {"embed_dim": 1e999}}'),
    ("not a number", '{"model_cfg": NaN}'),
    ("cut", '{"model_cfg": {'),
    ("empty", ""),
    ("null", "null"),
    ("list", "[]"),
    ("in UTF-16", json.dumps({"model_cfg": {}}).encode("utf-16")),
    ("of zeros", bytes(1000)),
    ("of 100 MB", b'{"model_cfg": {}' + b" " * (100 << 20) + b"}"),
    ("of surrogates", '{"model_cfg": {"\\ud800": 1, "vision_cfg": {}, "text_cfg": {}}}'),
]


def _remote_code(folder: Path) -> list[str]:
    open_clip_model(
        folder / "m",
        lambda c: c["model_cfg"]["text_cfg"].update(
            hf_tokenizer_name="any", tokenizer_kwargs={"trust_remote_code": True}
        ),
    )
    evil(folder / "m", folder / MARKER)
    return ["evaluate", "--model", "m", *EVALUATE]


def evil(folder: Path, marker: Path) -> None:
    """Code that a library would run, were it told to trust the folder."""
    (folder / "config.json").write_text(
        json.dumps({"model_type": "clip", "auto_map": {"AutoModel": "evil.M", "AutoConfig": "evil.C"}})
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"auto_map": {"AutoTokenizer": ["evil.T", None]}, "tokenizer_class": "T", "trust_remote_code": True})
    )
    (folder / "evil.py").write_text(
        f"import pathlib; pathlib.Path({str(marker)!r}).write_text('ran')\n"
        "from transformers import PreTrainedTokenizer\nclass T(PreTrainedTokenizer): pass\n"
    )
    for name in ("__init__.py", "sitecustomize.py", "torch.py", "json.py"):
        (folder / name).write_text(f"import pathlib; pathlib.Path({str(marker)!r}).write_text('ran')\n")


def _modules_beside(folder: Path) -> list[str]:
    # The current folder holds modules with the names of libraries.
    open_clip_model(folder / "m")
    evil(folder, folder / MARKER)
    (folder / "config.json").unlink()
    return ["evaluate", "--model", "local-dir:m", *EVALUATE]


def _is(name: str, place: str) -> Callable[[Path], list[str]]:
    """A model whose file of that name is a pipe, a folder, empty, as large as no disk, or a link to elsewhere."""

    def make(folder: Path) -> list[str]:
        file = open_clip_model(folder / "m") / name
        file.unlink()
        if place == "pipe":
            os.mkfifo(file)
        elif place == "folder":
            file.mkdir()
        elif place == "empty":
            file.touch()
        elif place == "sparse":
            with file.open("wb") as out:
                out.truncate(1 << 40)
        else:
            file.symlink_to(place)
        return ["info", "--model", "m"]

    return make


def _other_weights(folder: Path) -> list[str]:
    # A configuration of a model far larger than the weights beside it.
    import open_clip

    open_clip_model(folder / "m")
    giant: Json = {"model_cfg": open_clip.get_model_config("ViT-bigG-14"), "preprocess_cfg": {}}
    (folder / "m" / "open_clip_config.json").write_text(json.dumps(giant))
    return ["info", "--model", "m"]


def _tokenizer(name: str, edit: Callable[[Json], object], file: str = "tokenizer.json") -> Entry:
    """A sound model whose tokenizer is spoiled."""

    def make(folder: Path) -> list[str]:
        from tests.clip.test_tokenizers import library_tokenizer

        def words(config: Json) -> None:
            put(config, T, {"hf_tokenizer_name": "x", "vocab_size": 80, "width": 32, "heads": 2, "layers": 2})
            put(config, f"{T}.context_length", 24)

        from tests.conftest import vit_config, write_open_clip

        config = vit_config()
        words(config)
        write_open_clip(folder / "m", config)
        library_tokenizer("bert").save_pretrained(str(folder / "m"))
        (folder / "m" / "config.json").write_text('{"model_type": "bert"}')
        edited(folder / "m" / file, edit)
        return ["evaluate", "--model", "m", *EVALUATE]

    return Entry(f"open-clip tokenizer {name}", make)


def _steps(*steps: Json) -> Callable[[Json], object]:
    return lambda c: c.update(normalizer={"type": "Sequence", "normalizers": list(steps)})


def _replace(pattern: Json, content: str) -> Json:
    return {"type": "Replace", "pattern": pattern, "content": content}


_SPM = {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAAD///8f"}
_NESTED, _SETTINGS = '{"type":"Sequence","normalizers":[', "tokenizer_config.json"
_CLS = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}
_TOKENIZERS = [
    _tokenizer("that doubles texts thirty times", _steps(*[_replace({"String": "a"}, "aa")] * 30)),
    _tokenizer("of long replacements", _steps(*[_replace({"String": "a"}, "a" * 60)] * 5)),
    _tokenizer("of a regex that backtracks", _steps(_replace({"Regex": "(a|a|o)*$"}, "x"))),
    _tokenizer("of a regex that counts", _steps(_replace({"Regex": "(.{1,1000}){1,1000}x"}, "x"))),
    _tokenizer("of a table that leads outside", _steps(_SPM)),
    _tokenizer(
        "nested", lambda c: c.update(normalizer=json.loads('{"type":"Sequence","normalizers":[' * 30 + "]}" * 30))
    ),
    _tokenizer("of a thousand steps", _steps(*[{"type": "NFKD"}] * 1000)),
    _tokenizer("of a template of a million", lambda c: c["post_processor"].update(single=[_CLS] * 100_000)),
    _tokenizer("of padding to a billion", lambda c: c.update(padding={"strategy": {"Fixed": 10**9}, "pad_id": -1})),
    _tokenizer("of two million tokens", lambda c: c["model"].update(vocab={str(i): i for i in range(2 * 10**6)})),
    _tokenizer("of a token without end", lambda c: c["model"].update(vocab={"x" * 10**6: 1})),
    _tokenizer("of numbers beyond the model", lambda c: c["model"]["vocab"].update({"zero": 10**6, "one": 10**6 + 1})),
    _tokenizer("of another kind", lambda c: c.update(model={"type": "Evil"})),
    _tokenizer("without a model", lambda c: c.pop("model")),
    _tokenizer("of a billion extra ids", lambda c: c.update(extra_ids=10**9), _SETTINGS),
    _tokenizer(
        "of tokens far away", lambda c: put(c, "added_tokens_decoder.999999999.content", "x"), "tokenizer_config.json"
    ),
    _tokenizer(
        "of a file elsewhere", lambda c: c.update(vocab_file="/dev/zero", vocab="/etc"), "tokenizer_config.json"
    ),
    _tokenizer("of code", lambda c: c.update(auto_map={"AutoTokenizer": ["evil.T", None]}), _SETTINGS),
    _tokenizer("of arguments", lambda c: c.update(init_inputs=["/etc/passwd"]), _SETTINGS),
]


def _difference(base: str) -> Entry:
    def make(folder: Path) -> list[str]:
        import torch
        from safetensors.torch import save_file

        facts = {"kind": "unbackdoor-difference", "base": base, "base_hash": "0", "hash": "0"}
        save_file({"x": torch.zeros(1)}, folder / "d.safetensors", facts)
        return ["info", "--model", "d.safetensors"]

    return Entry(f"open-clip difference from {base[:30]}", make)


_BASES = (
    "hf-hub:evil/model",
    "ViT-B-32:openai",
    "adapter:x@hf-hub:evil/model",
    "//evil/share",
    "d.safetensors",
    "random:RN50",
)
ENTRIES = [
    *_TOKENIZERS,
    *(_difference(base) for base in _BASES),
    *(_edit(name, place, value) for name, place, value in _VALUES),
    *(_text(name, text) for name, text in _TEXTS),
    Entry("open-clip remote code of a tokeniser", _remote_code, (0, 2)),
    Entry("open-clip modules in the current folder", _modules_beside, (0,)),
    Entry("open-clip giant beside small weights", _other_weights),
    *(
        Entry(f"open-clip config is {p}", _is("open_clip_config.json", p))
        for p in ("pipe", "folder", "/dev/zero", "/proc/self/environ")
    ),
    *(
        Entry(f"open-clip weights are {p}", _is("open_clip_model.safetensors", p))
        for p in ("pipe", "empty", "sparse", "/dev/zero", "m")
    ),
]
