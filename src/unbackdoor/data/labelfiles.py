"""Labels of pictures that lie unsorted in one folder, as the well-known sets hand them out.

* Tiny ImageNet: `val/val_annotations.txt`, a line `val_0.JPEG<tab>n01443537<tab>…`;
* ImageNet on Kaggle: `LOC_val_solution.csv`, columns `ImageId` and `PredictionString`, which begins with the class;
* GTSRB: `Test.csv` with `Path` and `ClassId`, `GT-final_test.csv` with `Filename;…;ClassId`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from unbackdoor.base.untrusted import is_there, read_text

_BYTES = 64 << 20
_NAME = ("filename", "path", "imageid", "image", "file")
_CLASS = ("classid", "predictionstring", "label", "class", "wnid")


def find(root: Path, part: Path) -> Path | None:
    """The file with the labels of the pictures in `part`, a split's folder somewhere below `root`."""
    name = part.name.lower()
    known = {f"{name}_annotations.txt", f"loc_{name}_solution.csv", f"{name}.csv"}
    if "test" in name:
        known.add("gt-final_test.csv")
    places = [part, *(p for p in part.parents if p == root or root in p.parents)]
    places += [part / "images", part / "Images"]
    for place in places:
        files = sorted(f for f in place.iterdir() if f.is_file()) if is_there(place) else []
        for file in files:
            if file.name.lower() in known:
                return file
    return None


def read(file: Path, root: Path, classes: Sequence[str]) -> dict[str, int]:
    """Class indices by the names of pictures, their folders and endings left away.

    Args:
        root: the folder that the file must lie in.
        classes: names of class folders; what names none of them is left out.

    Raises:
        InputError: the file cannot be read.
    """
    place = {name: i for i, name in enumerate(classes)}
    place.update({str(int(name)): i for i, name in enumerate(classes) if name.isdecimal()})
    labels: dict[str, int] = {}
    for name, word in _rows(read_text(file, _BYTES, inside=root).splitlines(), file.suffix == ".txt"):
        index = place.get(word, place.get(word.lstrip("0") or "0"))
        if index is not None:
            labels[stem(name)] = index
    return labels


def stem(name: str) -> str:
    """What a picture is called in an annotation: its name without folder and ending."""
    return PurePosixPath(name.replace("\\", "/")).stem


def _rows(lines: list[str], bare: bool) -> Iterator[tuple[str, str]]:
    if bare:
        for line in lines:
            cells = line.split("\t")
            if len(cells) > 1:
                yield cells[0].strip(), cells[1].strip()
        return
    delimiter = max(",;\t", key=(lines[0] if lines else "").count)
    reader = csv.reader(lines, delimiter=delimiter)
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
        name = next((header.index(c) for c in _NAME if c in header), None)
        label = next((header.index(c) for c in _CLASS if c in header), None)
        for row in reader:
            if name is not None and label is not None and len(row) > max(name, label) and row[label].strip():
                yield row[name].strip(), row[label].split()[0]
    except csv.Error:  # the rows before it count; the rest is unlabelled, and a note says so
        return
