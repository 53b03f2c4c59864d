"""p-values that hold what they promise, and verdicts that say when they cannot tell."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unbackdoor.base.errors import InputError
from unbackdoor.metrics.rates import Rate
from unbackdoor.scan.detection import LEAST, Null, Origin, ranked, read_null, scale, verdict, weigh
from unbackdoor.scan.judgement import Say, judge
from unbackdoor.scan.targets import choose, nearest_texts

NAMES = ("patch", "warp")


def null_of(rows: torch.Tensor) -> Null:
    """Clean models whose inverters each name a class of their own."""
    models = tuple(f"model {i}" for i in range(len(rows)))
    named = tuple(tuple(((f"class {i}", float(v)),) for i, v in enumerate(row)) for row in rows)
    return Null("a", "s", NAMES, named, models)


def standardised(pool: torch.Tensor) -> torch.Tensor:
    middle, step = scale(pool)
    return (pool - middle) / step


def apart(patch: float, warp: float) -> dict[str, dict[str, float]]:
    """A model whose inverters name different classes."""
    return {"patch": {"a": patch}, "warp": {"b": warp}}


def drawn(n: int, seed: int) -> torch.Tensor:
    """Heavy-tailed, of different scale per column: nothing that the test may lean on."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 2, generator=g)
    return z / torch.rand(n, 2, generator=g).clamp_min(0.05) * torch.tensor([1.0, 40.0])


def test_a_model_like_the_clean_ones_is_called_in_at_most_the_stated_share() -> None:
    p = []
    for seed in range(600):
        pool = drawn(20, seed)
        p.append(weigh(apart(*map(float, pool[-1])), null_of(pool[:-1])).p_value)
    share = torch.tensor(p)
    for rate in (0.05, 0.1, 0.25, 0.5):
        hits = int((share <= rate + 1e-9).sum())
        assert Rate(hits, len(p)).interval[0] <= rate, rate
        assert hits > 0.6 * rate * len(p), "a test that never fires would pass the line above"


def test_one_far_inverter_is_enough_and_is_named() -> None:
    found = weigh(apart(0.0, 4000.0), null_of(drawn(30, 1)))
    assert found.p_value == pytest.approx(1 / 31) and max(found.totals, key=found.totals.__getitem__) == "b"
    assert found.excess["warp"] > found.excess["patch"] and found.totals["b"] == found.excess["warp"]


def test_what_speaks_for_a_class_adds_up_over_inverters() -> None:
    # Columns of median 0 whose nine-tenths quantile is 1, with the model itself in the pool.
    column = torch.cat([torch.linspace(-1, 0, 10), torch.linspace(0.1, 1, 10)])
    null = null_of(torch.stack([column, column], dim=1))
    middle, step = scale(torch.stack([torch.cat([column, torch.tensor([0.8])])] * 2, dim=1))
    low, high = ((v - float(middle[0])) / float(step[0]) for v in (0.5, 0.8))
    # "c" stands foremost nowhere, "b" in the second; what is below the median takes nothing off.
    model = {"patch": {"a": 0.8, "b": 0.5, "c": 0.5}, "warp": {"b": 0.8, "a": -0.9, "c": 0.5}}
    found = weigh(model, null)
    assert found.totals == {"a": pytest.approx(high), "b": pytest.approx(low + high)}
    # Each alone is like the clean ones, both together are not.
    assert weigh(apart(0.8, 0.8), null).p_value > 0.1 and weigh(
        {"patch": {"a": 0.8}, "warp": {"a": 0.8}}, null
    ).p_value == pytest.approx(1 / 21)
    quiet = weigh({"patch": {"a": -0.5}, "warp": {"a": -0.9}}, null)
    assert quiet.totals["a"] == max(quiet.excess.values()) < 0, "models with nothing to show have an order, too"


def test_an_inverter_with_a_long_tail_does_not_hide_one_without() -> None:
    long = torch.cat([torch.linspace(-1, 1, 17), torch.full((3,), 10.0)])
    short = torch.linspace(0, 1, 20)[torch.randperm(20, generator=torch.Generator().manual_seed(0))]
    found = weigh(apart(0.0, 2.5), null_of(torch.stack([long, short], dim=1)))
    # In median absolute deviations three clean models would stand at 11 and this one at 5.
    assert found.p_value == pytest.approx(1 / 21)


def test_a_constant_inverter_cannot_divide_by_nothing() -> None:
    pool = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0], [1.0, 3.0]])
    assert torch.isfinite(standardised(pool)).all()
    assert (standardised(pool)[:, 0] == 0).all()


def test_a_trifle_counts_for_little_where_clean_models_hardly_differ() -> None:
    alike = torch.linspace(-0.01, 0.01, 20)
    pool = torch.stack([torch.cat([alike, torch.tensor([0.1])]), torch.cat([50 * alike, torch.tensor([1.0])])], dim=1)
    trifle, much = standardised(pool)[-1].tolist()
    assert trifle == pytest.approx(0.1 / LEAST, rel=0.1) and much > 2


def test_a_null_by_some_of_its_inverters() -> None:
    null = null_of(torch.tensor([[1.0, 10.0], [2.0, 30.0], [3.0, 20.0]]))
    one = null.select(["warp"])
    assert (
        one.inverters == ("warp",)
        and [row[0][0][1] for row in one.rows] == [10.0, 30.0, 20.0]
        and one.models == null.models
    )
    assert null.select(["warp", "patch"]) == null
    # A model that stands out by the other inverter alone no longer does.
    said = apart(99.0, 15.0)
    assert weigh(said, null).p_value == 1 / 4 and weigh(said, one).p_value > 1 / 4
    for names, part in ((["tv"], "no inverter 'tv'"), ([], "no inverter is left")):
        with pytest.raises(InputError, match=part):
            null.select(names)


def test_null_round_trip(tmp_path: Path) -> None:
    null = null_of(torch.tensor([[0.5, 1.25], [2.0, -3.0]]))
    several = (ranked({"frog": 0.25, "a “b”": 0.5}), ranked({"1": -0.5}))
    assert several[0][0] == ("a “b”", 0.5)
    null = replace(null, rows=(*null.rows, several), models=(*null.models, "m"))
    null.save(tmp_path / "null.jsonl")
    assert read_null(tmp_path / "null.jsonl") == null
    with_origin = replace(null, origin=Origin("embedded", "0a1b"))
    with_origin.save(tmp_path / "null.jsonl")
    assert read_null(tmp_path / "null.jsonl") == with_origin


def null_text(line: str, inverters: object = ("patch", "warp"), origin: object = None) -> str:
    return json.dumps({"architecture": "a", "settings": "s", "inverters": inverters, "origin": origin}) + "\n" + line


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (None, "no such null"),
        ("", "not a null"),
        ("{}", "not a null"),
        ("[1, 2", "not a null"),
        (null_text('{"model": "m"}', ["patch"]), "statistics"),
        (null_text('{"model": "m", "statistics": [{"a": 1}]}'), "statistics of 1 inverters, not of 2"),
        (null_text('{"model": "m", "statistics": [{}]}', ["patch"]), "has no statistic"),
        (null_text('{"model": "m", "statistics": [1.5]}', ["patch"]), "not a null"),  # of a version without classes
        (null_text('{"model": "m", "statistics": [{"a": 1e9}]}', ["patch"]), "beyond"),
        (null_text('{"model": "m", "statistics": [{"a": 1e999}]}', ["patch"]), "too large"),
        (null_text('{"model": "m", "statistics": [{"a": NaN}]}', ["patch"]), "NaN"),
        (null_text('{"model": 5, "statistics": [{"a": 1}]}', ["patch"]), "model"),
        (null_text("[]", ["patch"]), "not a null"),
        (null_text("", ["evil"]), "unknown inverter 'evil'"),
        (null_text("", ["patch", "patch"]), "twice"),
        (null_text("", "patch"), "inverters"),
        (null_text("", []), "no inverter"),
        (null_text("", ["patch"], {"reference": "embedded"}), "origin"),
        (null_text("", ["patch"], "embedded"), "origin"),
        ("[" * 100_000, "nested deeper"),
        ("9" * 5000, "digits"),
        ("\0", "not a null"),
    ],
)
def test_broken_nulls_are_refused_in_a_line(text: str | None, part: str, tmp_path: Path) -> None:
    path = tmp_path / "null.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=part) as caught:
        read_null(path)
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_the_null_is_refused() -> None:
    with pytest.raises(InputError, match="'warp'"):
        weigh({"patch": {"a": 1.0}}, null_of(drawn(5, 0)))
    with pytest.raises(InputError, match="no clean model"):
        weigh(apart(1.0, 1.0), null_of(torch.zeros(0, 2)))


@pytest.mark.parametrize(
    ("p", "rate", "clean", "strength", "expected", "word"),
    [
        (0.03, 0.05, 30, 0.9, True, "3.0%"),
        (0.05, 0.05, 19, 0.5, True, "5.0%"),
        (0.03, 0.05, 30, 0.2, None, "turns only 20%"),
        (0.08, 0.05, 30, 1.0, None, "near the limit"),
        (0.4, 0.05, 30, 1.0, False, "nothing stands out"),
        (0.06, 0.05, 18, 1.0, None, "calibrate with 19 or more"),
        (0.005, 0.01, 60, 1.0, None, "calibrate with 99 or more"),
    ],
)
def test_verdicts(p: float, rate: float, clean: int, strength: float, expected: bool | None, word: str) -> None:
    found, said = verdict(p, rate, clean, strength)
    assert found is expected and word in said


@pytest.mark.parametrize(
    ("votes", "targets", "works", "excess", "expected"),
    [
        ({0: 3.0, 1: 1.5}, [0, 1, 1], [1.0, 1.0, 0.5], [3.0, 1.0, 1.0], (0, 3 / 4.5, 0)),
        ({0: 1.0, 1: 1.5}, [0, 1, 1], [1.0, 1.0, 0.5], [1.0, 1.0, 1.0], (1, 1.5 / 2.5, 1)),
        ({0: 1.0, 1: 9.0}, [0, 1, 1], [1.0, 0.1, 0.9], [1.0, 8.0, 1.1], (1, 0.9, 2)),
        ({0: -3.0, 1: -1.0, 2: -2.0}, [0, 1, 2], [1.0, 1.0, 1.0], [-3.0, -1.0, -2.0], (1, 0.0, 1)),
        ({0: 1.0, 1: 2.0}, [0, 1, 1], [0.0, 0.0, 0.0], [1.0, 1.0, 1.5], (1, 2 / 3, 2)),
    ],
)
def test_the_class_with_most_votes_is_shown_by_a_trigger_that_works_and_stands_out(
    votes: dict[int, float],
    targets: list[int],
    works: list[float],
    excess: list[float],
    expected: tuple[int, float, int],
) -> None:
    found = choose(votes, targets, works, excess)
    assert (found.target, found.confidence, found.place) == (expected[0], pytest.approx(expected[1]), expected[2])


def test_without_a_null_and_without_leads_inverters_vote_by_how_well_their_triggers_work() -> None:
    said = {
        "wave": Say({"a": 9.0, "b": 1.0}, 0.3),
        "collapse": Say({"b": 0.1}, 0.9),
        "another package's": Say({"b": 0.2, "a": 0.1}, 0.5),
    }
    found = judge(said, None, 0.05, "no null")
    assert (found.target, found.inverter, found.message) == ("b", "collapse", "no null") and found.p_value is None
    assert found.confidence == pytest.approx(1.4 / 1.7)


def test_nearest_texts_come_nearest_first() -> None:
    head = torch.eye(3)
    assert nearest_texts(torch.tensor([0.0, 0.8, 0.6]), head, ("a", "b", "c"), 2) == [("b", 0.8), ("c", 0.6)]


def test_other_classes_are_told_of_where_they_would_be_findings_by_themselves() -> None:
    names = ("patch", "additive", "warp", "colour")
    rows = torch.rand(24, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    own = tuple(tuple(((f"class {i}", float(v)),) for i, v in enumerate(row)) for row in rows)
    null = replace(null_of(rows[:, :2]), inverters=names, rows=own)

    def others(*said: tuple[float, str, float]) -> list[tuple[str, str]]:
        told = {name: Say({label: v}, works) for name, (v, label, works) in zip(names, said, strict=True)}
        found = judge(told, null, 0.05)
        assert all(other.p_value == pytest.approx(1 / 25) for other in found.others)
        return [(other.target, other.inverter) for other in found.others]

    loud, quiet = (19.0, "a", 1.0), (0.5, "d", 1.0)
    assert others(loud, quiet, quiet, quiet) == []
    assert others(loud, (5.0, "b", 1.0), quiet, (4.0, "c", 0.6)) == [("b", "additive"), ("c", "colour")]
    assert others(loud, (4.0, "b", 1.0), (6.0, "b", 1.0), quiet) == [("b", "warp")]
    assert others(loud, (4.0, "b", 1.0), (6.0, "b", 0.3), quiet) == [("b", "additive")], "a trigger that works is shown"
    assert others(loud, (5.0, "b", 0.3), quiet, quiet) == [], "what turns a third of the pictures is no finding"
    assert others(loud, (5.0, "a", 1.0), quiet, quiet) == [], "the target itself"
    assert others((0.9, "a", 1.0), quiet, quiet, quiet) == [], "a model that is no finding has no others"
