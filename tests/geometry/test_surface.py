"""Maps of ξ, against the definition taken point by point."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from tests.scan.toy import CORNER, NAMES, TARGET, toy_clip, toy_images
from unbackdoor import disentangle
from unbackdoor.base.errors import InputError
from unbackdoor.clip.handle import Clip
from unbackdoor.evaluation.answers import predict
from unbackdoor.geometry import surface as surfaces
from unbackdoor.geometry.surface import Surface, Views, look
from unbackdoor.report.charts import contour_map
from unbackdoor.triggers import parse_trigger
from unbackdoor.weights.files import state_hash
from unbackdoor.weights.plane import Plane
from unbackdoor.weights.vector import save_vector

WHITE = f"badnets:size={CORNER},pattern=white"
CPU = torch.device("cpu")


def vectors(entangled: bool) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A clean vector that changes what is seen, and a trigger vector that lights the corner, or changes that, too."""
    seen = torch.randn(len(NAMES), 48, generator=torch.Generator().manual_seed(3)) / 7
    trigger = {"visual.strength": torch.tensor([6.0, 0.0])}
    if entangled:
        trigger["visual.weight"] = seen.flip(0)
    return {"visual.weight": seen}, trigger


def filled(points: int, sharp: float, entangled: bool = True, **ends: float) -> tuple[Clip, Surface]:
    clip = toy_clip(0.0)
    views = Views.of(toy_images(), parse_trigger(WHITE), TARGET, CPU)
    surface = Surface(ends.get("low", -3.0), ends.get("high", 3.0), points, views)
    plane = Plane(clip.state(), *vectors(entangled))
    look(clip, plane, clip.zero_shot_head(NAMES, ("{}",)), surface, sharp=sharp)
    return clip, surface


def answers(a: float, b: float, pictures: torch.Tensor) -> torch.Tensor:
    clip = toy_clip(0.0)
    clean, trigger = vectors(True)
    with torch.no_grad():
        for vector, scale in ((clean, a), (trigger, b)):
            for name, t in vector.items():
                clip.state()[name].add_(scale * t)
    return predict(clip, pictures, clip.zero_shot_head(NAMES, ("{}",)))


def test_every_point_is_as_the_definition_has_it() -> None:
    clip, surface = filled(5, 0.0)
    assert state_hash(clip.state()) == state_hash(toy_clip(0.0).state()), "the weights are back where they were"
    views = surface.views
    values = surface.errors()
    for i, a in enumerate(surface.axis):
        for j, b in enumerate(surface.axis):
            clean = answers(a, b, views.clean) != answers(a, 0.0, views.clean)
            triggered = answers(a, b, views.triggered) != answers(0.0, b, views.triggered)
            wanted = float(clean.double().mean() + triggered.double().mean())
            assert surface.error((a, b)).value == pytest.approx(wanted) == float(values[i, j])
    assert float(values.max()) > 0.2 and float(values[2, 2]) == 0.0
    asr = surface.success((0.0, 3.0))
    assert asr.value > 0.9 > 0.5 > surface.success((0.0, 0.0)).value and asr.n == len(views.triggered)
    assert surface.accuracy((0.0, 0.0)).n == 0, "these pictures have no labels"


def test_vectors_that_act_on_different_things_are_disentangled_and_others_are_not() -> None:
    (apart, (_, high)), (mixed, (low, _)) = (filled(3, 0.0, entangled)[1].box() for entangled in (False, True))
    assert apart < mixed and high < low
    whole = filled(3, 0.0)[1]
    every = [whole.error(point).value for point in surfaces._box()]
    assert mixed == pytest.approx(sum(every) / len(every)), "the box is the mean of its points"


def test_refinement_looks_closely_where_it_is_sharp_and_agrees_with_looking_everywhere() -> None:
    _, whole = filled(21, 0.0)
    _, close = filled(21, 0.3)
    assert len(close.readings) < 0.75 * len(whole.readings)
    for point in close.readings:
        assert close.error(point) == whole.error(point)
    gap = (close.errors() - whole.errors()).abs()
    assert not bool(gap.isnan().any()) and float(gap.mean()) < 0.02 and float(gap.max()) > 0


@pytest.mark.parametrize(("points", "step"), [(21, 4), (11, 2), (10, 1), (5, 4), (2, 1)])
def test_the_coarse_lattice_divides_the_fine_one(points: int, step: int) -> None:
    assert surfaces._coarse(points) == step
    _, surface = filled(points, 9.0)
    assert not bool(surface.errors().isnan().any())


def test_a_step_along_a_row_is_one_addition(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[bool, bool]] = []

    def to(self: Plane, a: float, b: float) -> None:
        steps.append((a != self.place[0], b != self.place[1]))
        Plane.settle(self, a, b)

    monkeypatch.setattr(Plane, "to", to)
    filled(7, 0.0)
    assert steps and all(not a and b for a, b in steps)


def test_what_was_looked_at_is_not_looked_at_again() -> None:
    clip, surface = filled(5, 0.0)
    views, kept = surface.views, dict(surface.readings)
    del kept[3.0, 3.0]
    again = Surface(-3.0, 3.0, 5, views, kept)
    told: list[tuple[float, float]] = []
    plane = Plane(clip.state(), *vectors(True))
    look(clip, plane, clip.zero_shot_head(NAMES, ("{}",)), again, sharp=0.0, keep=lambda point, _: told.append(point))
    assert told == [(3.0, 3.0)]
    assert torch.equal(again.readings[3.0, 3.0].clean, surface.readings[3.0, 3.0].clean)


@pytest.mark.parametrize(("low", "high", "points"), [(0.0, 0.0, 3), (1.0, -1.0, 3), (-1.0, 1.0, 1)])
def test_a_lattice_needs_room(low: float, high: float, points: int) -> None:
    views = Views(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), torch.zeros(1), 0, torch.zeros(1))
    with pytest.raises(InputError, match="two points or more"):
        Surface(low, high, points, views)


def test_disentangle_writes_map_and_numbers_and_goes_on_where_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean, trigger = vectors(True)
    save_vector(tmp_path / "trigger.safetensors", trigger, {})
    (tmp_path / "templates.txt").write_text("{}\n")
    shifted = toy_clip(0.0)
    with torch.no_grad():
        shifted.state()["visual.weight"].add_(clean["visual.weight"])
    common: dict[str, Any] = {
        "model": toy_clip(0.0),
        "clean": shifted,
        "triggered": tmp_path / "trigger.safetensors",
        "data": toy_images(),
        "trigger": WHITE,
        "target": NAMES[TARGET],
        "templates": str(tmp_path / "templates.txt"),
        "points": 5,
    }
    looked: list[int] = []

    def killed(clip: Clip, pictures: torch.Tensor, head: torch.Tensor, batch: int) -> torch.Tensor:
        looked.append(1)
        if len(looked) == 25:
            raise KeyboardInterrupt
        return predict(clip, pictures, head, batch)

    monkeypatch.setattr(surfaces, "predict", killed)
    with pytest.raises(KeyboardInterrupt):
        disentangle(out=tmp_path / "out", **common)
    assert not (tmp_path / "out" / "surface.json").exists()
    found = disentangle(out=tmp_path / "out", **common)
    assert len(looked) == 25 + 2 * (found["looked_at"] - 12), "twelve points were kept"
    whole = disentangle(out=tmp_path / "whole", **common)
    assert found["box"] == whole["box"] and found["at"] == whole["at"]
    story = json.loads((tmp_path / "out" / "surface.json").read_text())
    assert len(story["surface"]) == found["looked_at"] and {"xi", "ca", "asr"} < story["surface"][0].keys()
    assert found["at"]["0,0"]["xi"]["value"] == 0.0 and not (tmp_path / "out" / ".work").exists()
    assert -1 <= found["cosine"] <= 1 and set(found["norms"]) == {"clean", "triggered"}
    ElementTree.parse(tmp_path / "out" / "map.svg")
    assert (tmp_path / "out" / "manifest.json").exists()


def test_a_contour_map_shows_the_box_the_path_and_every_level_it_crosses() -> None:
    axis = [-3.0, 0.0, 3.0]
    values = np.array([[0.0, 0.5, 1.0], [0.5, 0.0, 0.5], [1.0, 0.5, 2.0]])
    drawn = contour_map(axis, values, "ξ <&>", [(1.0, 1.0), (1.0, -0.5)])
    root = ElementTree.fromstring(drawn)
    assert drawn.count("<title>path at") == 2 and "ξ <&>" in [element.text for element in root.iter()]
    bands = next(e for e in root.iter() if e.get("id", "").startswith("QuadContourSet_"))
    assert len({path.get("style") for path in bands}) == 12, "a color for each band"
    # The map of a plane that is all 0 has one band, and no box where the lattice does not reach it.
    plain = contour_map([2.0, 3.0], np.zeros((2, 2)), "none", [(1.0, 1.0)])
    assert "#d62728" in drawn and "#d62728" not in plain and "<title>" not in plain
