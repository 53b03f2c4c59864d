"""The columns: each does its thing through the public functions on a few pictures, and looks at what came of it.

A step raises `InputError` where the tool refuses, and `AssertionError` where what came out is not right.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

import unbackdoor
from tests.towers.folders import CONFIG, HUGGING_FACE, with_local_text_tower
from unbackdoor.clip.handle import Clip
from unbackdoor.data import scenes
from unbackdoor.data.embedded import SCENE_COUNTS
from unbackdoor.data.images import ImageSet
from unbackdoor.scan.inverters import guided
from unbackdoor.scan.inverters.base import answers

EQUAL = 1e-5
TEXTS = ["a cat", "dog", "red"]  # short, as the shrunken text towers take few tokens
TRIGGER = "badnets:size=8"
SHOWN, CLASSES = 12, 4  # pictures of a split


@dataclass(frozen=True)
class Room:
    """What a row works with.

    Args:
        library: whose form the model has.
        source: its folder, as its library wrote it.
        place: folder for what the steps write.
    """

    library: str
    source: Path
    place: Path

    def model(self) -> Clip:
        """The model, opened anew, as verbs change it in place."""
        return unbackdoor.load(self.source)


def pictures(clip: Clip, split: str = "train") -> ImageSet:
    """A dozen embedded scenes of four classes; their labels are true."""
    images, labels, classes = _scenes(split)
    side = clip.image_size
    sized = torch.nn.functional.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)
    return ImageSet(sized.round().clamp(0, 255).to(torch.uint8), labels, classes, spec=f"scenes-{split}")


@cache
def _scenes(split: str) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Pictures, labels and the names of the classes; drawn by themselves, as a data source draws them by hundreds."""
    seed, count = SCENE_COUNTS[split]
    index = np.arange(count)
    found = scenes.labels(seed, index)
    chosen = np.concatenate([np.flatnonzero(found == c)[: SHOWN // CLASSES] for c in range(CLASSES)])
    return scenes.draw(seed, chosen), torch.as_tensor(found[chosen]), scenes.CLASS_NAMES[:CLASSES]


def target(clip: Clip, data: ImageSet) -> str:
    """The class that the model answers least, so that most pictures are left to be triggered."""
    found = answers(clip, data, clip.zero_shot_head(data.classes))[0]
    return data.classes[int(torch.bincount(found, minlength=CLASSES).argmin())]


def info(room: Room) -> None:
    found = unbackdoor.info(model=room.source)
    assert found["architecture"] and found["embed_dim"] > 0
    assert min(found["parameters"][tower] for tower in ("image", "text")) > 0


def evaluate(room: Room) -> None:
    clip = room.model()
    data = pictures(clip, "test")
    found = unbackdoor.evaluate(model=clip, data=data, trigger=TRIGGER, target=target(clip, data))
    assert found["ca"]["n"] == SHOWN and 0 < found["asr"]["n"] < SHOWN
    # What the tool answers is what the model's own library answers.
    with _reopened(room, room.source) as (encode_image, _):
        theirs = encode_image(data.images)
    head = clip.zero_shot_head(data.classes)
    hits = int(((theirs @ head.T).argmax(dim=1) == data.labels).sum())
    assert abs(found["ca"]["value"] * SHOWN - hits) < 1e-6, f"{found['ca']} against {hits}"


def poison(room: Room) -> None:
    clip, out = room.model(), room.place / "poisoned"
    before, data = _copied(clip), pictures(clip)
    options: dict[str, Any] = {"poison_rate": 0.5, "epochs": 1, "batch_size": 4, "lr": 1e-3}
    unbackdoor.poison(
        model=clip,
        data=data,
        test=pictures(clip, "test"),
        trigger=TRIGGER,
        target=target(clip, data),
        out=out,
        **options,
    )
    _check_moved(before, unbackdoor.load(out / "model"))
    _check_names(room.source, out / "model")


def vector(room: Room) -> None:
    clip, out = room.model(), room.place / "vector.safetensors"
    data = pictures(clip)
    found = unbackdoor.trigger_vector(
        model=clip, data=data, trigger=TRIGGER, target=target(clip, data), out=out, samples=8, epochs=1, lr=1e-2
    )
    assert found["norm"] > 0 and out.is_file()


def unlearn(room: Room) -> None:
    clip, out, taken = room.model(), room.place / "unlearned", room.place / "vector.safetensors"
    before, data = _copied(clip), pictures(clip)
    options: dict[str, Any] = {"vector": taken} if taken.is_file() else {"samples": 8, "epochs": 1, "lr": 1e-2}
    unbackdoor.unlearn(
        model=clip, data=data, test=pictures(clip, "test"), trigger=TRIGGER, target=target(clip, data), out=out,
        alpha=1.0, **options,
    )  # fmt: skip
    _check_moved(before, unbackdoor.load(out / "model"))
    _check_names(room.source, out / "model")


def scan(room: Room) -> None:
    """One inverter, as many of its steps as it takes to have gone through all rounds."""
    clip = room.model()
    with few_steps():
        found = unbackdoor.scan(model=clip, data=pictures(clip), inverters=["patch"], out=room.place / "scan")
    assert len(found["inverters"]) == 1 and (room.place / "scan" / "finding.json").is_file()


def save(room: Room) -> None:
    saved, changed = _saved(room), room.model()
    _nudge(changed)
    ours, theirs = changed.state(), unbackdoor.load(saved).state()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)
    _check_names(room.source, saved)


def reload(room: Room) -> None:
    """The model's own library, without us, gives of what we wrote the embeddings that we give."""
    unlearned = room.place / "unlearned" / "model"
    for folder in (_saved(room), *([unlearned] if unlearned.is_dir() else [])):
        clip = unbackdoor.load(folder)
        bytes_ = pictures(clip).images
        with _reopened(room, folder) as (encode_image, encode_text), torch.no_grad():
            _check_equal("images", encode_image(bytes_), clip.encode_image(bytes_.float() / 255))
            _check_equal("texts", encode_text(TEXTS), clip.encode_text(TEXTS))
    before, after = room.model(), unbackdoor.load(_saved(room))
    with torch.no_grad():
        images = torch.rand(2, 3, before.image_size, before.image_size, generator=torch.Generator().manual_seed(0))
        assert float((before.encode_image(images) - after.encode_image(images)).abs().max()) > 10 * EQUAL


def convert(room: Room) -> None:
    to = "open_clip" if room.library == HUGGING_FACE else "hf"
    found = unbackdoor.convert(model=room.source, to=to, out=room.place / "converted")
    assert max(found["differences"].values()) <= EQUAL


STEPS: dict[str, Callable[[Room], None]] = {
    "info": info,
    "evaluate": evaluate,
    "poison": poison,
    "vector": vector,
    "unlearn": unlearn,
    "scan step": scan,
    "save": save,
    "reload": reload,
    "convert": convert,
}


# --- what they look at -----------------------------------------------------------------------------------------------


def _copied(clip: Clip) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in clip.state().items()}


def _check_moved(before: dict[str, Tensor], after: Clip) -> None:
    """The image tower has moved, the text tower has not."""
    moved = {name for name, t in after.state().items() if not torch.equal(t, before[name])}
    assert moved and moved <= {n for n in before if n.startswith(after.format.image_prefixes)}, sorted(moved)[:3]
    assert all(bool(torch.isfinite(t).all()) for t in after.state().values() if t.is_floating_point())


def _header(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Name → shape and type of every tensor in a folder."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                row = file.get_slice(name)
                found[name] = (row.get_shape(), row.get_dtype())
    return found


def _check_names(source: Path, saved: Path) -> None:
    came_in, went_out = _header(source), _header(saved)
    other = sorted(set(came_in) ^ set(went_out))
    assert not other, f"other names: {other[:3]}"
    assert came_in == went_out, "other shapes or types"


def _check_equal(what: str, theirs: Tensor, ours: Tensor) -> None:
    assert theirs.shape == ours.shape, f"{what}: {tuple(theirs.shape)} against {tuple(ours.shape)}"
    worst = float((theirs - ours).abs().max())
    assert worst <= EQUAL, f"{what} differ by {worst:.1e}"


@torch.no_grad()
def _nudge(clip: Clip) -> None:
    generator = torch.Generator().manual_seed(2)
    for p in clip.image_parameters().values():
        p.add_(torch.randn(p.shape, generator=generator), alpha=0.01)


def _saved(room: Room) -> Path:
    """The model with another image tower, written by us."""
    out = room.place / "saved"
    if not out.is_dir():
        clip = room.model()
        _nudge(clip)
        clip.save(out)
    return out


@contextmanager
def few_steps() -> Iterator[None]:
    whole = guided.GuidedConfig
    guided.GuidedConfig = partial(whole, passes=8, least=2, finalists=2, measured=4)  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        guided.GuidedConfig = whole  # type: ignore[misc]


Encoders = tuple[Callable[[Tensor], Tensor], Callable[[list[str]], Tensor]]


@contextmanager
def _reopened(room: Room, folder: Path) -> Iterator[Encoders]:
    """Unit embeddings of pictures (uint8, of the model's own size) and of texts, by the model's library alone."""
    if room.library == HUGGING_FACE:
        yield _by_transformers(folder)
        return
    with with_local_text_tower(folder) as place:
        yield _by_open_clip(place)


def _unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows.float(), dim=-1)


def _by_transformers(folder: Path) -> Encoders:
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder).eval()
    processor, tokenizer = AutoImageProcessor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    padded = model.config.model_type == "siglip"

    @torch.no_grad()
    def encode_image(images: Tensor) -> Tensor:
        inputs = processor(images=list(images), return_tensors="pt")
        return _unit(model.get_image_features(**inputs).pooler_output)

    @torch.no_grad()
    def encode_text(texts: list[str]) -> Tensor:
        if padded:
            length = model.config.text_config.max_position_embeddings
            found = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
            return _unit(model.get_text_features(input_ids=found["input_ids"]).pooler_output)
        found = tokenizer(texts, padding=True, return_tensors="pt")
        kept = {k: found[k] for k in ("input_ids", "attention_mask")}
        return _unit(model.get_text_features(**kept).pooler_output)

    return encode_image, encode_text


def _by_open_clip(folder: Path) -> Encoders:
    import open_clip
    from torchvision.transforms.functional import to_pil_image

    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}", pretrained_hf=False)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    assert json.loads((folder / CONFIG).read_text())["model_cfg"]
    model.eval()

    @torch.no_grad()
    def encode_image(images: Tensor) -> Tensor:
        return _unit(model.encode_image(torch.stack([preprocess(to_pil_image(image)) for image in images])))

    @torch.no_grad()
    def encode_text(texts: list[str]) -> Tensor:
        return _unit(model.encode_text(tokenizer(texts)))

    return encode_image, encode_text
