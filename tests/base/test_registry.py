"""The one registry: names, words, lazy targets, and what other packages add by entry points."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unbackdoor.base.errors import InputError
from unbackdoor.base.registry import Registry, _points
from unbackdoor.bench.cells import CELLS
from unbackdoor.cli.main import COMMANDS, run
from unbackdoor.clip.load import LOADERS
from unbackdoor.data.specs import SOURCES
from unbackdoor.defenses import DEFENSES
from unbackdoor.scan.inverters import INVERTERS
from unbackdoor.triggers.table import TRIGGERS

REGISTRIES: list[Registry[Any]] = [TRIGGERS, DEFENSES, INVERTERS, SOURCES, LOADERS, CELLS, COMMANDS]


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.noun)
def test_every_name_has_words_and_something_behind_it(registry: Registry[Any]) -> None:
    assert registry.names() and len(set(registry.names())) == len(registry.names())
    for name in registry.names():
        assert registry.about(name).strip() and registry.get(name) is not None
    with pytest.raises(InputError, match=f"unknown {registry.noun} 'magic': choose one of {registry.names()[0]}, "):
        registry.get("magic")


# A package of somebody else, as its wheel lies in site-packages.
PLUGIN = """
    from dataclasses import dataclass
    from typing import ClassVar

    from unbackdoor.defenses.base import Cure, Defense
    from unbackdoor.triggers.base import Trigger


    @dataclass(frozen=True)
    class Dots(Trigger):
        name: ClassVar[str] = "dots"
        size: int = 3

        def apply_(self, images, keys):
            images[:, :, : self.size, : self.size] = 1.0
            return images


    @dataclass(frozen=True)
    class Config:
        strength: float = 0.5


    def defend(clip, data, config, work):
        return Cure(images=0, labels=0, steps=0, seconds=0.0, facts={"strength": config.strength})


    SOFTEN = Defense(Config(), defend)
    NOTHING = 3
"""
POINTS = """
    [unbackdoor.triggers]
    dots = their_dots:Dots
    badnets = their_dots:Dots
    other = their_dots:Dots
    broken = their_dots:missing

    [unbackdoor.defenses]
    soften = their_dots:SOFTEN
    number = their_dots:NOTHING
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "their_dots.py").write_text(textwrap.dedent(PLUGIN))
    info = tmp_path / "their_dots-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-dots\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(textwrap.dedent(POINTS))
    monkeypatch.syspath_prepend(str(tmp_path))
    _points.cache_clear()
    yield tmp_path
    _points.cache_clear()


def test_another_package_adds_a_trigger_and_a_defense(plugin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from unbackdoor.defenses import defense, defense_config, defense_names
    from unbackdoor.triggers import parse_trigger, trigger_class, trigger_names

    assert "dots" in trigger_names() and TRIGGERS.about("dots") == "from the package their-dots"
    assert trigger_names().count("badnets") == 1 and trigger_class("badnets").__name__ == "BadNets"  # ours stays
    trigger = parse_trigger("dots:size=2")
    assert trigger.spec() == "dots:size=2" and float(trigger(torch.zeros(1, 3, 8, 8)).sum()) == 12
    assert run(["info", "--trigger", "dots", "--json"]) == 0 and '"dots:size=3"' in capsys.readouterr().out
    assert "soften" in defense_names()
    config = defense_config("soften", {"strength": 0.25})
    assert defense("soften").defend(None, None, config, None).facts == {"strength": 0.25}  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no setting 'size'"):
        defense_config("soften", {"size": 1})


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("trigger other", r"'other' \(from the package their-dots\) is no Trigger with this `name`"),
        ("trigger broken", "'broken' of the package their-dots cannot be loaded"),
        ("defense number", r"'number' \(from the package their-dots\) is no Defense"),
    ],
)
def test_what_another_package_does_wrong_is_one_line(spec: str, part: str, plugin: Path) -> None:
    from unbackdoor.defenses import defense
    from unbackdoor.triggers import parse_trigger

    kind, _, name = spec.partition(" ")
    with pytest.raises(InputError, match=part):
        parse_trigger(name) if kind == "trigger" else defense(name)


def test_nothing_is_looked_for_before_it_is_asked_for() -> None:
    probe = "import sys, unbackdoor.cli.main as m; m.run(['--help']); sys.exit('importlib.metadata' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, timeout=60).returncode == 0
