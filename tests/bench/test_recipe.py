"""Recipes: what they expand to, what they refuse, and that every setting decides a cell's address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from unbackdoor.base.errors import InputError
from unbackdoor.bench.grid import plan
from unbackdoor.bench.recipe import read_recipe
from unbackdoor.bench.store import address
from unbackdoor.data.shares import attacker_rows, defender_rows, shares
from unbackdoor.unlearning.vector import METHODS

RECIPE: dict[str, Any] = {
    "model": "embedded",
    "seeds": [0, 1],
    "data": {
        "digits": {
            "source": "embedded:digits",
            "target": "three",
            "attacker": 300,
            "defender": 100,
            "validation": 60,
            "poison": {"rate": 0.2, "epochs": 2, "batch_size": 32},
        }
    },
    "attacks": {"badnets": "badnets:size=6", "quiet": {"trigger": "blended", "rate": 0.3}},
    "defenses": {"nothing": {}, "published": {"method": "tbar", "samples": 64}},
    "rebound": {"steps": 4, "points": 2, "images": 60},
}


def write(folder: Path, change: Any = None) -> Path:
    recipe = yaml.safe_load(yaml.safe_dump(RECIPE))
    if change is not None:
        change(recipe)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def addresses(folder: Path, change: Any = None) -> list[str]:
    cells = plan(read_recipe(write(folder, change)), {"embedded": "hash"})
    return [address(c["config"]) for suspect, own in cells for c in (suspect, *own)]


def test_a_recipe_expands_to_every_cell_once(tmp_path: Path) -> None:
    cells = plan(read_recipe(write(tmp_path)), {"embedded": "hash"})
    names = [(s["names"]["attack"], s["names"]["seed"]) for s, _ in cells]
    assert names == [(a, seed) for seed in (0, 1) for a in ("none", "badnets", "quiet")]
    assert [len(own) for _, own in cells] == [2, 2, 2] * 2
    quiet = next(s for s, _ in cells if s["names"]["attack"] == "quiet")["config"]["poison"]
    assert quiet["rate"] == 0.3 and quiet["tune"]["epochs"] == 2, "an attack's own settings go before the data's"
    found = addresses(tmp_path)
    assert len(set(found)) == len(found) == 18


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        (lambda r: r["data"]["digits"].update(attacker=301), 18),
        (lambda r: r["data"]["digits"].update(defender=99), 8),
        (lambda r: r["data"]["digits"]["poison"].update(lr=0.002), 18),
        (lambda r: r["attacks"].update(badnets="badnets:size=7"), 8),
        (lambda r: r["data"]["digits"].update(triggers={"badnets": "badnets:size=8"}), 8),
        (lambda r: r["data"]["digits"].update(triggers={"badnets": "badnets:size=6"}), 0),
        (lambda r: r["defenses"]["published"].update(samples=65), 4),
        (lambda r: r["defenses"]["published"].update(epochs=9), 4),
        (lambda r: r["rebound"].update(steps=5), 8),
        (lambda r: r["data"]["digits"].update(defenses={"published": {"samples": 65}}), 4),
        (lambda r: r["data"]["digits"].update(defenses={"published": {}}), 0),
        (lambda r: r["defenses"].update(nothing=None), 0),
        (lambda r: r.update(seeds=[1, 0]), 0),
    ],
)
def test_a_setting_moves_the_cells_it_decides_and_no_other(tmp_path: Path, change: Any, moved: int) -> None:
    assert len(set(addresses(tmp_path, change)) - set(addresses(tmp_path))) == moved


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda r: r.update(colour="red"), "unknown key 'colour'"),
        (lambda r: r.pop("data"), "data: missing"),
        (lambda r: r.update(seeds="0"), "seeds: not a list"),
        (lambda r: r.update(seeds=[True]), "seeds: not a list"),
        (lambda r: r["attacks"].update(bad="nosuch"), "unknown trigger"),
        (lambda r: r["attacks"].update(none="blended"), "the name is taken"),
        (lambda r: r["attacks"].update(bad={"rate": 0.1}), "give a trigger spec"),
        (lambda r: r["attacks"].update(bad={"trigger": "blended", "epoch": 1}), "no setting 'epoch'"),
        (lambda r: r["defenses"].update(nosuch={}), "unknown defense"),
        (lambda r: r["defenses"].update(anchored={"colour": 1}), "no setting 'colour'"),
        (lambda r: r["data"]["digits"].update(size=3), "unknown key 'size'"),
        (lambda r: r["data"]["digits"].pop("target"), "give a target"),
        (lambda r: r["data"]["digits"].pop("source"), "source"),
        (lambda r: r["defenses"].update(anchored={"rule": {"colour": 1}}), "anchored, rule: no setting 'colour'"),
        (lambda r: r["data"]["digits"].update(regime="both"), "neither classes nor pairs"),
        (lambda r: r["data"]["digits"].update(triggers={"nosuch": "blended"}), "no attack 'nosuch'"),
        (lambda r: r["data"]["digits"].update(triggers={"badnets": "nosuch"}), "unknown trigger"),
        (lambda r: r["data"]["digits"].update(triggers=["blended"]), "triggers is not a mapping"),
        (lambda r: r["data"]["digits"].update(defenses={"nosuch": {}}), "no defense 'nosuch'"),
        (lambda r: r["data"]["digits"].update(defenses={"published": {"colour": 1}}), "no setting 'colour'"),
        (lambda r: r["data"]["digits"].update(defenses={"published": 3}), "defenses is not a mapping"),
        (lambda r: r["data"]["digits"].update(source="parquet:{data}/x"), "give --data-root"),
        (lambda r: r["rebound"].update(colour=1), "unknown key 'colour'"),
        # of other types and sizes than they should be
        (lambda r: r.update(model=5), "model 5"),
        (lambda r: r.update(models=["embedded"]), "models: missing, or not a mapping"),
        (lambda r: r.update(seeds=[10**30]), "seed 1000"),
        (lambda r: r.update(seeds=list(range(2000))), "seeds: 2,000"),
        (lambda r: r["data"]["digits"].update(source=["embedded:digits"]), "source: Expected str"),
        (lambda r: r["data"]["digits"].update(target=3), "target: Expected str"),
        (lambda r: r["data"]["digits"].update(target="\x1b[31m"), "cannot be shown"),
        (lambda r: r["data"]["digits"].update(attacker=-5), "attacker -5"),
        (lambda r: r["data"]["digits"].update(attacker="x"), "attacker"),
        (lambda r: r["data"]["digits"].update(test_limit=0.5), "test_limit"),
        (lambda r: r["data"]["digits"].update(class_range=[-5, 3]), "holds no class"),
        (lambda r: r["data"]["digits"].update(class_range=["a", "b"]), "two whole numbers"),
        (lambda r: r["data"]["digits"].update(classes=5), "classes: Expected"),
        (lambda r: r["data"]["digits"].update(classes="/dev/zero"), "/dev/zero"),
        (lambda r: r["data"]["digits"].update(templates="/dev/zero"), "/dev/zero"),
        (lambda r: r["data"]["digits"].update(source="csv:/dev/zero"), "neither a file nor a folder"),
        (lambda r: r["data"]["digits"]["poison"].update(rate=2.0), "poison rate is 2.0"),
        (lambda r: r["data"]["digits"]["poison"].update(rate=float("nan")), "not finite"),
        (lambda r: r["data"]["digits"]["poison"].update(epochs=-1), "epochs -1"),
        (lambda r: r["data"]["digits"]["poison"].update(epochs="x"), "poison, epochs: Expected int"),
        (lambda r: r["data"]["digits"]["poison"].update(lr=-1), "learning rate is -1"),
        (lambda r: r["attacks"].update(bad=5), "give a trigger spec"),
        (lambda r: r["attacks"].update(bad="badnets:size=1000000000"), "no number from"),
        (lambda r: r["attacks"].update(bad={"trigger": "blended", "target": 3}), "the target 3"),
        (lambda r: r["attacks"].update(bad="@/etc/hostname"), "lies outside"),
        (lambda r: r["defenses"].update(tbar=[1]), "not a mapping of settings"),
        (lambda r: r["defenses"].update(tbar={"samples": "many"}), "samples: Expected int"),
        (lambda r: r["defenses"].update(tbar={"rule": {"grid": ["x"]}}), "grid"),
        (lambda r: r.update(rebound=[1]), "not a mapping"),
        (lambda r: r["rebound"].update(steps=-5), "steps -5"),
        # names that become files
        (lambda r: r["attacks"].update({"x/../../outside": "blended"}), "becomes a file's name"),
        (lambda r: r["attacks"].update({"\x1b[31m": "blended"}), "becomes a file's name"),
        (lambda r: r["defenses"].update({"../x": {"method": "nothing"}}), "becomes a file's name"),
        (lambda r: r.update(data={"..": r["data"]["digits"]}), "becomes a file's name"),
        (lambda r: r.update(models={"/m": "embedded"}), "becomes a file's name"),
        # the network
        (lambda r: r.update(model="hf-hub:some/model"), "give --online"),
        (lambda r: r.update(models={"m": "hf-hub:some/model"}), "give --online"),
        (lambda r: r["data"]["digits"].update(source="hf:some/data"), "give --online"),
        (lambda r: r["data"]["digits"].update(test="hf:some/data#test"), "give --online"),
    ],
)
def test_bad_recipes_say_what_and_where(tmp_path: Path, change: Any, part: str) -> None:
    with pytest.raises(InputError) as caught:
        read_recipe(write(tmp_path, change))
    assert part in str(caught.value) and "\n" not in str(caught.value) and "recipe.yaml" in str(caught.value)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "\x00"])
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError):
        read_recipe(path)
    with pytest.raises(InputError, match="No such file"):
        read_recipe(tmp_path / "absent.yaml")


def test_the_network_is_reached_where_the_user_says_so(tmp_path: Path) -> None:
    path = write(tmp_path, lambda r: (r.update(model="hf-hub:a/b"), r["data"]["digits"].update(source="hf:a/b")))
    grid = read_recipe(path, online=True)
    assert grid.models == {"hf-hub:a/b": "hf-hub:a/b"} and grid.data["digits"].source == "hf:a/b"


def test_a_trigger_file_beside_the_recipe_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "patch.txt").write_text("blended")
    path = write(tmp_path, lambda r: r["attacks"].update(own="@patch.txt"))
    assert read_recipe(path).attacks["own"]["trigger"] == "@patch.txt"
    (tmp_path / "patch.txt").unlink()
    (tmp_path / "patch.txt").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="lies outside"):
        read_recipe(path)


def test_cells_know_their_data_however_the_folder_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, lambda r: r["data"]["digits"].update(source="parquet:{data}/digits"))
    monkeypatch.chdir(tmp_path)
    roots = [tmp_path / "data", Path("data"), Path("./other/../data/"), tmp_path / "elsewhere"]
    sources = [read_recipe(path, root).data["digits"].source for root in roots]
    assert sources[0] == sources[1] == sources[2] == f"parquet:{tmp_path}/data/digits" != sources[3]


def as_before(recipe: dict[str, Any]) -> None:
    recipe["defences"] = recipe.pop("defenses")
    recipe["data"]["digits"]["defences"] = recipe["data"]["digits"].pop("defenses")


def with_settings(recipe: dict[str, Any]) -> None:
    recipe["data"]["digits"]["defenses"] = {"published": {"samples": 65}}


def test_the_older_spelling_of_defenses_is_read(tmp_path: Path) -> None:
    def older(recipe: dict[str, Any]) -> None:
        with_settings(recipe)
        as_before(recipe)

    assert addresses(tmp_path, older) == addresses(tmp_path, with_settings) != addresses(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.update(defences={"anchored": {}}),
        lambda r: r["data"]["digits"].update(defences={"published": {}}, defenses={"published": {}}),
    ],
)
def test_both_spellings_at_once_are_refused(tmp_path: Path, change: Any) -> None:
    with pytest.raises(InputError, match="one key in two spellings"):
        read_recipe(write(tmp_path, change))


RECIPES = sorted((Path(__file__).parent.parent.parent / "recipes" / "bench").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_here_is_read_and_planned(path: Path) -> None:
    grid = read_recipe(path, Path("data"))
    cells = plan(grid, dict.fromkeys(grid.models, "h"))
    assert len(cells) == len(grid.models) * len(grid.data) * len(grid.seeds) * (1 + len(grid.attacks)) > 1
    for suspect, own in cells:
        clean = suspect["config"]["trigger"] is None
        assert len(own) == len(grid.attacks if clean else grid.defenses)
        assert {cell["config"]["kind"] for cell in own} == {"yardstick" if clean else "cure"}


@pytest.mark.parametrize(("data", "images"), [("cifar10", 20_000), ("gtsrb", 6_303), ("tiny-imagenet", 60_000)])
def test_the_known_trigger_recipe_gives_everybody_what_the_verbs_give(data: str, images: int) -> None:
    """Its suspects and cures are those of `poison` and `unlearn`; sizes of the training splits are known."""
    entry = read_recipe(next(p for p in RECIPES if p.stem == "known-trigger"), Path("data")).data[data]
    own, clean, choice = shares(images, entry.attacker, entry.defender, entry.validation)
    assert own.equal(attacker_rows(images))
    for method in METHODS.values():
        forget, tuning = defender_rows(images, method.samples, method.validation)
        assert clean[: method.samples].equal(forget) and choice[: method.validation].equal(tuning)
