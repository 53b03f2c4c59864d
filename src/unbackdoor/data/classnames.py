"""Zero-shot class names and prompt templates, by file or by the name of a standard set.

The lists come from libraries that carry them: ImageNet-1k from OpenCLIP; CIFAR-10/100, SUN397, GTSRB, DTD, EuroSAT, …
from fusion-bench; Caltech101, Country211, … from clip-benchmark. Those two are read as data: their code is not run.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

from unbackdoor.base.errors import InputError
from unbackdoor.base.untrusted import is_there
from unbackdoor.data.classfile import ClassEntry, ClassList, as_list, read_class_file, read_lines
from unbackdoor.data.wordnet import imagenet, package_folder, words_of

DEFAULT_TEMPLATES = ("a photo of a {}.",)
_MOST_TEMPLATES = 1000
_ALIASES = {"imagenet": "imagenet1k", "flowers102": "flower102", "oxfordpets": "oxfordiiitpet", "cars": "stanfordcars"}
_NAME_VARIABLES = ("classnames", "fine_label")


def class_names(name: str) -> tuple[str, ...]:
    """Class names of a file, or of a standard set (`imagenet-1k`, `cifar10`, `sun397`, `gtsrb`, `caltech101`, …).

    Raises:
        InputError: as `class_list`.
    """
    return class_list(name).names


def class_list(name: str) -> ClassList:
    """Classes of a file or of a standard set, with what else data may call them.

    Raises:
        InputError: neither a file nor a known set, the libraries that carry it are not installed, or a file that is no
            list of class names.
    """
    if is_there(Path(name)) and not Path(name).is_dir():
        return read_class_file(Path(name))
    key = _key(name)
    if key == "imagenet1k":
        return ClassList(_imagenet(), 0, name)
    names = _from_fusion_bench(key, _NAME_VARIABLES) or _from_clip_benchmark("en_classnames.json", key)
    return as_list(names or _unknown(name), name)


def templates(name: str | None) -> tuple[str, ...]:
    """Prompt templates, each with one `{}`: a file, `openai-imagenet` (80), `simple` (7), or a standard set's own.

    Raises:
        InputError: unknown name, more than 1,000 templates, or one without exactly one `{}`.
    """
    if name is None:
        return DEFAULT_TEMPLATES
    key = _key(name)
    if Path(name).is_file():
        texts = read_lines(Path(name))
    elif key in ("openaiimagenet", "simple"):
        import open_clip

        listed = open_clip.SIMPLE_IMAGENET_TEMPLATES if key == "simple" else open_clip.OPENAI_IMAGENET_TEMPLATES
        texts = tuple(function("{}") for function in listed)
    else:
        texts = _from_fusion_bench(key, ("templates",)) or tuple(
            t.replace("{c}", "{}") for t in _from_clip_benchmark("en_zeroshot_classification_templates.json", key)
        )
        texts = texts or _unknown(name)
    if len(texts) > _MOST_TEMPLATES:
        raise InputError(f"{name}: holds {len(texts):,} templates; at most {_MOST_TEMPLATES:,} make a head")
    for template in texts:
        if template.count("{}") != 1:
            raise InputError(f"template {template!r} must hold exactly one {{}} for the class name")
    return texts


def _imagenet() -> tuple[ClassEntry, ...]:
    """OpenCLIP's names with the WordNet ids and words of the same classes."""
    from open_clip import IMAGENET_CLASSNAMES

    # Without timm's tables there are names alone.
    ids = list(imagenet()) or [""] * len(IMAGENET_CLASSNAMES)
    return tuple(
        ClassEntry(name, (wnid, *words_of(wnid)) if wnid else ())
        for name, wnid in zip(IMAGENET_CLASSNAMES, ids, strict=True)
    )


def _key(name: str) -> str:
    plain = "".join(c for c in name.lower() if c.isalnum())
    return _ALIASES.get(plain, plain)


def _unknown(name: str) -> tuple[str, ...]:
    raise InputError(
        f"{name!r} is neither a file nor a known list; standard sets need: pip install unbackdoor[classnames]"
    )


def _from_clip_benchmark(file: str, key: str) -> tuple[str, ...]:
    root = package_folder("clip_benchmark")
    if root is None:
        return ()
    entries = json.loads((root / "datasets" / file).read_text(encoding="utf-8"))
    by_key = {_key(k): v for k, v in entries.items()}
    return tuple(str(x) for x in by_key.get(key, by_key.get(f"{key}vtab", ())))


def _from_fusion_bench(key: str, variables: tuple[str, ...]) -> tuple[str, ...]:
    """A list of strings, or of `lambda c: f"…{c}…"`, assigned to one of `variables` in the set's file."""
    root = package_folder("fusion_bench")
    if root is None:
        return ()
    files = {_key(p.stem): p for p in (root / "tasks" / "clip_classification").glob("*.py")}
    if key not in files:
        return ()
    for node in ast.parse(files[key].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List):
            names = {t.id for t in node.targets if isinstance(t, ast.Name)}
            if names & set(variables):
                texts = [_text(item) for item in node.value.elts]
                return tuple(t for t in texts if t is not None) if None not in texts else ()
    return ()


def _text(node: ast.expr) -> str | None:
    """A string literal, or a one-argument template with its argument as `{}`."""
    body = node.body if isinstance(node, ast.Lambda) else node
    if isinstance(body, ast.Constant) and isinstance(body.value, str):
        return body.value.replace("_", " ")
    if isinstance(body, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in body.values)
    return None
