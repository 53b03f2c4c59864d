"""The tower matrix, shrunken: a few families through every step, most others opened, measured and reloaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.towers.families import FULL_SIZE, TOWERS, Tower, key
from tests.towers.page import page
from tests.towers.rows import FAILED, REFUSED, YES, Cell, Row, run_steps
from tests.towers.steps import STEPS

BY_NAME = {key(tower): tower for tower in TOWERS}
# One of each kind of trouble: norms with statistics, timm, tokens of every picture, idle parameters, renamings.
THROUGHOUT = (
    "OpenCLIP: ModifiedResNet",
    "OpenCLIP: SigLIP",
    "transformers: Chinese CLIP",
    "transformers: dual encoder: DINOv2",
)
# The larger of the shrunken ones, and those that differ from another row by a text tower that `test_families` opens.
HEAVY = (
    "OpenCLIP: MobileCLIP 2",
    "OpenCLIP: MobileCLIP, hybrid ViT",
    "OpenCLIP: ViTamin",
    "OpenCLIP: timm EfficientNet",
    "OpenCLIP: timm MaxViT",
    "OpenCLIP: timm NFNet",
    "OpenCLIP: text tower NLLB, SigLIP",
    *(name for name in BY_NAME if name.startswith("transformers: dual encoder: ViT, ")),
)
CHEAP = ("info", "evaluate", "reload")
OPENED = [tower for tower in TOWERS if not tower.closed]


def check(cells: dict[str, Cell], tower: Tower) -> None:
    expected = {step: REFUSED if tower.closed else YES for step in cells}
    found = {step: cell.outcome for step, cell in cells.items()}
    if not tower.closed and found.get("convert") == REFUSED:  # has no such form, most of them
        assert "no such form" in cells["convert"].message or "only CLIPModel has a form" in cells["convert"].message
        expected["convert"] = REFUSED
    assert found == expected, [cell.message for cell in cells.values() if cell.message]


@pytest.mark.parametrize("name", THROUGHOUT)
def test_a_family_goes_through_every_step(name: str, tmp_path: Path) -> None:
    check(run_steps(BY_NAME[name], tmp_path, STEPS), BY_NAME[name])


@pytest.mark.parametrize("tower", [t for t in TOWERS if key(t) not in THROUGHOUT + HEAVY], ids=key)
def test_a_family_is_opened_and_saved(tower: Tower, tmp_path: Path) -> None:
    check(run_steps(tower, tmp_path, CHEAP), tower)


@pytest.mark.slow
@pytest.mark.parametrize("tower", TOWERS, ids=key)
def test_every_family_goes_through_every_step(tower: Tower, tmp_path: Path) -> None:
    check(run_steps(tower, tmp_path, STEPS), tower)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size(name: str, tmp_path: Path) -> None:
    check(run_steps(BY_NAME[name], tmp_path, STEPS, full=True), BY_NAME[name])


def test_names_of_rows_are_their_own_and_enough() -> None:
    assert len(BY_NAME) == len(TOWERS) and len(OPENED) >= 25
    assert set(FULL_SIZE) <= set(BY_NAME) and set(THROUGHOUT + HEAVY) <= set(BY_NAME)


def test_the_page_leaves_no_cell_empty() -> None:
    told = "MODEL: it_is | odd; this model has no such form"
    cells = {step: Cell(YES) for step in STEPS} | {"convert": Cell(REFUSED, told)}
    rows = [Row(key(tower), False, "", cells) for tower in TOWERS[:3]]
    text = page(rows, [], TOWERS, {"torch": "2"}, "command")
    assert "3 families, 27 cells: 24 yes, 3 refused." in text and "| refused: no such form |" in text
    assert text.count("it\\_is \\| odd") == 1  # escaped, and told once for all three
    table = [line for line in text.splitlines() if line.startswith("| OpenCLIP")]
    assert len(table) == 3 and not any(not cell.strip() for line in table for cell in line.split("|")[1:-1])


def test_a_wrong_step_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STEPS, "info", lambda room: json.loads("{"))
    cells = run_steps(BY_NAME["transformers: dual encoder: ViT"], tmp_path, ["info"])
    assert cells["info"].outcome == FAILED and "JSONDecodeError" in cells["info"].message
