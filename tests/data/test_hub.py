"""`hf:` through the datasets library itself, on a folder in the hub's form: no network is needed for that."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from unbackdoor import load_images

datasets = pytest.importorskip("datasets")


def test_a_folder_in_the_hubs_form_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    (tmp_path / "set").mkdir()
    for split, colors in (("train", ["red", "blue", "red"]), ("test", ["blue"])):
        pictures = []
        for color in colors:
            file = io.BytesIO()
            Image.new("RGB", (12, 12), color).save(file, "PNG")
            pictures.append({"bytes": file.getvalue(), "path": None})
        rows = {"image": pictures, "label": [int(color == "blue") for color in colors]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "set" / f"{split}.parquet"))
    train, test = (load_images(f"hf:{tmp_path / 'set'}", side=8, split=split) for split in ("train", "test"))
    assert train.classes == ("cat", "dog") and train.labels.tolist() == [0, 1, 0] and test.labels.tolist() == [1]
    assert train.images.shape == (3, 3, 8, 8) and train.images[1].flatten(1).max(dim=1).values.tolist() == [0, 0, 255]


@pytest.mark.parametrize("column", ["caption", "text", "txt"])
def test_captions_are_read_under_every_usual_name(column: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    file = io.BytesIO()
    Image.new("RGB", (12, 12), "red").save(file, "PNG")
    features = datasets.Features({"jpg": datasets.Image(), column: datasets.Value("string")})
    rows = {"jpg": [{"bytes": file.getvalue(), "path": None}] * 2, column: ["a red square", "another"]}
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "set" / "train.parquet"))
    assert load_images(f"hf:{tmp_path / 'set'}", side=8, split="train").captions == ("a red square", "another")
    assert load_images(f"parquet:{tmp_path / 'set'}", side=8, split="train").captions == ("a red square", "another")
